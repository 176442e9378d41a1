//! From a decoded request to the call on the [`FileSystem`] and back to a reply. No policy, no I/O of its own.

use bytes::Bytes;
use cairn_client::FsResult;
use cairn_client::api::{CopyTarget, FileSystem, Opened};
use cairn_types::limits::XATTR_VALUE_MAX;
use cairn_types::{AttrChange, Errno, Ino, Timestamp};

use crate::abi;
use crate::answer::Answer;
use crate::decode::{Operation, caller};
use crate::interrupt::Patience::{self, Unconditional, UntilKilled, UntilSignal};
use crate::reply::{self, Listing, Reply};

/// The largest copy whose length fits the 32 bits of the older reply, on a page's boundary.
const NARROW_COPY_MAX: u64 = 0xffff_f000;

/// Serves one request. `data` is what a write brings. Returns at once; the answer may come later from a task.
#[expect(clippy::too_many_lines, reason = "one arm for each operation of the kernel")]
pub(crate) fn dispatch<F: FileSystem>(
    file_system: &F,
    answer: Answer,
    header: &abi::InHeader,
    operation: Operation,
    data: Bytes,
) {
    let ino = Ino(header.nodeid);
    let fs = file_system.clone();
    // What the kernel asks elsewhere is a capability (CAP_FSETID, CAP_SYS_ADMIN), which in practice root has.
    let is_root = header.uid == 0;
    match operation {
        Operation::Forget { references } => answer.serve_silently(|| fs.forget(ino, references)),
        Operation::BatchForget(nodes) => {
            answer.serve_silently(|| nodes.iter().for_each(|&(ino, references)| fs.forget(ino, references)));
        }
        Operation::Interrupt { unique } => {
            answer.shared().interrupts.interrupt(unique);
            answer.serve_silently(|| {});
        }
        Operation::NotifyReply => answer.serve_silently(|| {}),
        Operation::Destroy => answer.send(Ok(Reply::Done)),
        Operation::Lookup { name } => {
            run(answer, UntilKilled, async move { Ok(reply::lookup(&fs.lookup(ino, name).await?)) });
        }
        Operation::Getattr => run(answer, UntilKilled, async move { Ok(reply::attr(&fs.getattr(ino).await?)) }),
        Operation::Statx => run(answer, UntilKilled, async move { Ok(reply::statx(&fs.getattr(ino).await?)) }),
        Operation::Setattr { change, handle } => {
            run(answer, Unconditional, async move { Ok(reply::attr(&fs.setattr(ino, change, handle).await?)) });
        }
        Operation::Readlink => run(answer, UntilKilled, async move { Ok(Reply::Data(fs.readlink(ino).await?)) }),
        Operation::MakeNode { name, node, mode, umask } => {
            let caller = caller(header, umask);
            run(answer, Unconditional, async move {
                Ok(Reply::Entry(reply::entry_out(&fs.make_node(caller, ino, name, node, mode).await?)))
            });
        }
        Operation::Link { ino: linked, new_name } => run(answer, Unconditional, async move {
            Ok(Reply::Entry(reply::entry_out(&fs.link(linked, ino, new_name).await?)))
        }),
        Operation::Unlink { name } => run(answer, Unconditional, async move { done(fs.unlink(ino, name).await) }),
        Operation::Rmdir { name } => run(answer, Unconditional, async move { done(fs.rmdir(ino, name).await) }),
        Operation::Rename { name, new_parent, new_name, mode } => {
            run(answer, Unconditional, async move { done(fs.rename(ino, name, new_parent, new_name, mode).await) });
        }
        Operation::Open { flags, kill_privileges } => run(answer, Unconditional, async move {
            Ok(Reply::Opened(reply::open_out(&open(&fs, ino, flags, kill_privileges).await?)))
        }),
        Operation::Create { name, mode, umask, flags } => {
            let caller = caller(header, umask);
            run(answer, Unconditional, async move {
                let (entry, opened) = fs.create(caller, ino, name, mode, flags).await?;
                Ok(Reply::Created(reply::entry_out(&entry), reply::open_out(&opened)))
            });
        }
        Operation::Tmpfile { mode, umask, flags } => {
            let caller = caller(header, umask);
            run(answer, Unconditional, async move {
                let (entry, opened) = fs.make_unnamed(caller, ino, mode, flags).await?;
                Ok(Reply::Created(reply::entry_out(&entry), reply::open_out(&opened)))
            });
        }
        Operation::Read { handle, offset, length } => {
            run(answer, UntilKilled, async move { Ok(Reply::Pieces(fs.read(ino, handle, offset, length).await?)) });
        }
        Operation::Write { handle, offset, flags, .. } => run(answer, Unconditional, async move {
            let size = fs.write(ino, handle, offset, data, flags).await?;
            Ok(Reply::Written(abi::WriteOut { size, padding: 0 }))
        }),
        Operation::Flush { handle, owner } => {
            answer.shared().lock_owners.flushed(ino, owner);
            run(answer, Unconditional, async move { done(fs.flush(ino, handle, owner).await) });
        }
        Operation::Release { handle, flock_owner } => {
            let ended = answer.shared().lock_owners.released(ino, handle);
            run(answer, Unconditional, async move {
                for lock in ended {
                    if let Err(errno) = fs.set_lock(lock, false).await {
                        tracing::warn!(%ino, %errno, "a lock of a closed file could not be given back");
                    }
                }
                fs.release(ino, handle, flock_owner).await;
                Ok(Reply::Done)
            });
        }
        Operation::Fsync { data_only } => {
            run(answer, Unconditional, async move { done(fs.fsync(ino, data_only).await) });
        }
        Operation::Syncfs => run(answer, Unconditional, async move { done(fs.sync_all().await) }),
        Operation::Opendir => run(answer, UntilKilled, async move {
            let handle = fs.open_dir(ino).await?;
            Ok(Reply::Opened(abi::OpenOut { fh: handle.0, ..Default::default() }))
        }),
        Operation::Readdir { handle, cursor, size, with_attributes } => run(answer, UntilKilled, async move {
            let entries = fs.read_dir(ino, handle, cursor, size, with_attributes).await?;
            let mut listing = Listing::new(size, with_attributes);
            let fitting = entries.iter().take_while(|entry| listing.push(entry)).count();
            // What the kernel does not see it cannot forget.
            for entry in entries.iter().skip(fitting).filter_map(|entry| entry.entry.as_ref()) {
                fs.forget(entry.attr.ino, 1);
            }
            Ok(listing.finish())
        }),
        Operation::Releasedir { handle } => run(answer, Unconditional, async move {
            fs.release_dir(handle);
            Ok(Reply::Done)
        }),
        Operation::Statfs => run(answer, UntilKilled, async move { Ok(reply::statfs(&fs.stat_fs().await?)) }),
        Operation::Setxattr { name, value, mode, clear_set_gid } => {
            run(answer, Unconditional, async move { done(fs.set_xattr(ino, name, value, mode, clear_set_gid).await) });
        }
        Operation::Getxattr { name, size } => {
            run(answer, UntilKilled, async move { Ok(reply::xattr(fs.get_xattr(ino, name).await?, size)) });
        }
        Operation::Listxattr { size } => run(answer, UntilKilled, async move {
            let mut list = Vec::new();
            let names = fs.list_xattr(ino).await?;
            // The kernel lets nobody else read these, but leaves it to file systems not to list them.
            for name in names.iter().filter(|name| is_root || !name.starts_with(b"trusted.")) {
                list.extend_from_slice(name);
                list.push(0);
            }
            if list.len() > XATTR_VALUE_MAX {
                return Err(Errno::E2BIG.into());
            }
            Ok(reply::xattr(list.into(), size))
        }),
        Operation::Removexattr { name } => {
            run(answer, Unconditional, async move { done(fs.remove_xattr(ino, name).await) });
        }
        Operation::Getlk { lock } => {
            run(answer, UntilKilled, async move { Ok(reply::lock(fs.test_lock(lock).await?)) });
        }
        Operation::Setlk { handle, lock, wait } => {
            answer.shared().lock_owners.asked(handle, &lock);
            let patience = if wait { UntilSignal } else { Unconditional };
            run(answer, patience, async move { done(fs.set_lock(lock, wait).await) });
        }
        Operation::Fallocate { handle, mode, offset, length } => {
            // Of this and of copies the kernel does not say who loses set-id bits and capabilities, as it does of writes.
            run(answer, Unconditional, async move {
                done(fs.allocate(ino, Some(handle), mode, offset, length, !is_root).await)
            });
        }
        Operation::Lseek { offset, target } => run(answer, UntilKilled, async move {
            Ok(Reply::Seek(abi::LseekOut { offset: fs.seek(ino, offset, target).await? }))
        }),
        Operation::CopyFileRange { offset, target, target_handle, target_offset, length, wide } => {
            let length = if wide { length } else { length.min(NARROW_COPY_MAX) };
            run(answer, Unconditional, async move {
                let target = CopyTarget { ino: target, handle: Some(target_handle), offset: target_offset };
                let bytes_copied = fs.copy_range(ino, offset, target, length, !is_root).await?;
                Ok(if wide {
                    Reply::Copied(abi::CopyFileRangeOut { bytes_copied })
                } else {
                    Reply::Written(abi::WriteOut { size: bytes_copied as u32, padding: 0 })
                })
            });
        }
    }
}

fn run<R>(answer: Answer, patience: Patience, future: R)
where
    R: Future<Output = FsResult<Reply>> + Send + 'static,
{
    answer.send_when_ready(patience, future);
}

fn done(outcome: FsResult<()>) -> FsResult<Reply> {
    outcome.map(|()| Reply::Done)
}

/// Opens a file and, with `O_TRUNC`, empties it: as one request, so that no other sees the file between the two.
async fn open<F: FileSystem>(fs: &F, ino: Ino, flags: i32, kill_privileges: bool) -> FsResult<Opened> {
    let opened = fs.open(ino, flags & !libc::O_TRUNC).await?;
    if flags & libc::O_TRUNC != 0 {
        let now = Some(Timestamp::now());
        let change = AttrChange { size: Some(0), mtime: now, kill_privileges, ..Default::default() };
        if let Err(errno) = fs.setattr(ino, change, Some(opened.handle)).await {
            fs.release(ino, opened.handle, None).await;
            return Err(errno);
        }
    }
    Ok(opened)
}
