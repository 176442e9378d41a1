//! Drives a real mount of the in-memory file system with the system calls of a program. Needs root and `/dev/fuse`.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cairn_fuse::{Mount, MountError, MountOptions, Transport, Unmounted};
use support::*;

const NEVER: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).take(length).collect()
}

#[test]
fn files_directories_and_links_do_what_they_do_everywhere() {
    on_mount(NEVER, |mounted| {
        fs::create_dir(mounted.path("d")).unwrap();
        fs::write(mounted.path("d/f"), "hello").unwrap();
        assert_eq!(fs::read_to_string(mounted.path("d/f")).unwrap(), "hello");
        fs::hard_link(mounted.path("d/f"), mounted.path("g")).unwrap();
        assert_eq!(fs::metadata(mounted.path("g")).unwrap().nlink(), 2);
        symlink("d/f", mounted.path("s")).unwrap();
        assert_eq!(fs::read_link(mounted.path("s")).unwrap().to_str(), Some("d/f"));
        assert_eq!(fs::read(mounted.path("s")).unwrap(), b"hello");
        fs::rename(mounted.path("g"), mounted.path("d/h")).unwrap();
        fs::set_permissions(mounted.path("d/h"), fs::Permissions::from_mode(0o4711)).unwrap();
        let meta = fs::metadata(mounted.path("d/f")).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.blksize(), meta.blocks()), (0o4711, 64 * 1024, 1));
        assert_eq!(fs::remove_dir(mounted.path("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        let long = mounted.path(&"n".repeat(256));
        assert_eq!(errno(fs::write(long, "")), libc::ENAMETOOLONG);
        fs::write(mounted.path(&"n".repeat(255)), "").unwrap();
        fs::remove_file(mounted.path("d/h")).unwrap();
        fs::remove_file(mounted.path("d/f")).unwrap();
        fs::remove_dir(mounted.path("d")).unwrap();
        assert_eq!(errno(fs::metadata(mounted.path("d"))), libc::ENOENT);
    });
}

#[test]
fn special_files_are_made_with_their_kind_and_number() {
    fn make(mounted: &Mounted, name: &str, mode: libc::mode_t, device: libc::dev_t) -> fs::Metadata {
        // SAFETY: the path is NUL-terminated and outlives the call.
        check(unsafe { libc::mknod(c_path(&mounted.path(name)).as_ptr(), mode, device) }).unwrap();
        fs::symlink_metadata(mounted.path(name)).unwrap()
    }
    let null = |mounted: &Mounted| make(mounted, "null", libc::S_IFCHR | 0o666, libc::makedev(1, 3));
    on_mount(NEVER, move |mounted| {
        let make = |name, mode, device| make(mounted, name, mode, device);
        assert!(make("fifo", libc::S_IFIFO | 0o600, 0).file_type().is_fifo());
        assert!(make("socket", libc::S_IFSOCK | 0o600, 0).file_type().is_socket());
        let null = null(mounted);
        assert_eq!((null.file_type().is_char_device(), null.rdev()), (true, libc::makedev(1, 3)));
        assert_eq!(errno(fs::write(mounted.path("null"), "gone")), libc::EACCES);
    });
    // Devices work where root asked for it.
    let mounted = Mounted::new(NEVER, |options| options.extra.push("dev".to_owned()));
    null(&mounted);
    fs::write(mounted.path("null"), "gone").unwrap();
}

#[test]
fn large_content_comes_back_through_every_way_of_reading() {
    on_mount(LONG, |mounted| {
        let content = pattern(5_000_003);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(mounted.path("f")).unwrap();
        file.write_all(&content).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut back = Vec::new();
        file.read_to_end(&mut back).unwrap();
        assert!(back == content);
        mounted.mount.kernel_cache().invalidate_data(cairn_types::Ino(file.metadata().unwrap().ino()));
        let mut middle = vec![0; 1_500_000];
        file.read_exact_at(&mut middle, 1_234_567).unwrap();
        assert!(middle == content[1_234_567..2_734_567]);
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mounted.path("f")).unwrap();
        let mut back = vec![0; content.len()];
        direct.read_exact_at(&mut back, 0).unwrap();
        assert!(back == content);
        // O_TRUNC reaches the file system as part of the open.
        drop(File::create(mounted.path("f")).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 0);
    });
}

#[test]
fn a_shared_mapping_writes_through_the_cache() {
    on_mount(LONG, |mounted| {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(mounted.path("f")).unwrap();
        file.set_len(8192).unwrap();
        // SAFETY: a fresh mapping of an open file, used within its length and unmapped once.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), 8192, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_ne!(map, libc::MAP_FAILED);
            map.cast::<u8>().add(5000).write(77);
            check(libc::msync(map, 8192, libc::MS_SYNC)).unwrap();
            libc::munmap(map, 8192);
        }
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(mounted.path("f")).unwrap();
        let mut page = vec![0; 8192];
        direct.read_exact_at(&mut page, 0).unwrap();
        assert_eq!((page[5000], page.iter().map(|&byte| u32::from(byte)).sum::<u32>()), (77, 77));
    });
}

#[test]
fn appending_passes_the_flag_and_sees_its_own_end() {
    on_mount(LONG, |mounted| {
        fs::write(mounted.path("log"), "one\n").unwrap();
        let mut log = OpenOptions::new().append(true).open(mounted.path("log")).unwrap();
        mounted.fs.overwrite_secretly("log", b"one\ntwo\n");
        log.write_all(b"three\n").unwrap();
        assert_eq!(mounted.fs.appended(), 1);
        assert_eq!(fs::read_to_string(mounted.path("log")).unwrap(), "one\ntwo\nthree\n");
    });
}

#[test]
fn a_long_directory_is_listed_whole_and_its_references_are_given_back() {
    on_mount(LONG, |mounted| {
        let mut names: Vec<String> = (0..3000).map(|number| format!("name-{number}")).collect();
        for name in &names {
            File::create(mounted.path(name)).unwrap();
        }
        let mut listed: Vec<String> = fs::read_dir(mounted.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        listed.sort();
        names.sort();
        assert_eq!(listed, names);
        // Attributes of a listing count references; `stat` of every name uses them.
        assert!(names.iter().all(|name| fs::metadata(mounted.path(name)).is_ok()));
        fs::write("/proc/sys/vm/drop_caches", "2").unwrap();
        let given_up = Instant::now() + Duration::from_secs(5);
        while mounted.fs.references() > 0 && Instant::now() < given_up {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(mounted.fs.references(), 0);
    });
}

#[test]
fn rename_keeps_exchanges_and_refuses_as_told() {
    on_mount(NEVER, |mounted| {
        fs::write(mounted.path("a"), "a").unwrap();
        fs::write(mounted.path("b"), "b").unwrap();
        let rename = |flags| {
            let (a, b) = (c_path(&mounted.path("a")), c_path(&mounted.path("b")));
            // SAFETY: both paths are NUL-terminated and outlive the call.
            check(unsafe { libc::renameat2(libc::AT_FDCWD, a.as_ptr(), libc::AT_FDCWD, b.as_ptr(), flags) })
        };
        assert_eq!(errno(rename(libc::RENAME_NOREPLACE)), libc::EEXIST);
        rename(libc::RENAME_EXCHANGE).unwrap();
        assert_eq!(fs::read_to_string(mounted.path("a")).unwrap(), "b");
        assert_eq!(errno(rename(libc::RENAME_WHITEOUT)), libc::EINVAL);
        rename(0).unwrap();
        assert_eq!(fs::read_to_string(mounted.path("b")).unwrap(), "b");
    });
}

#[test]
fn a_file_without_a_name_can_be_given_one() {
    on_mount(NEVER, |mounted| {
        let mut file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(mounted.root()).unwrap();
        file.write_all(b"late").unwrap();
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
        let from = c_path(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref());
        let to = c_path(&mounted.path("named"));
        let flags = libc::AT_SYMLINK_FOLLOW;
        // SAFETY: both paths are NUL-terminated and outlive the call.
        check(unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) }).unwrap();
        assert_eq!(fs::read_to_string(mounted.path("named")).unwrap(), "late");
    });
}

#[test]
fn statx_tells_the_birth_time_and_statfs_exact_figures() {
    on_mount(NEVER, |mounted| {
        let before = std::time::SystemTime::now() - Duration::from_secs(1);
        fs::write(mounted.path("f"), vec![1; 513]).unwrap();
        let meta = fs::metadata(mounted.path("f")).unwrap();
        let born = meta.created().unwrap();
        assert!(born >= before && born <= std::time::SystemTime::now() + Duration::from_secs(1));
        let mut figures = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the path is NUL-terminated, the buffer has the right type, and zeros are valid for it.
        let figures = unsafe {
            check(libc::statvfs(c_path(mounted.root()).as_ptr(), figures.as_mut_ptr())).unwrap();
            figures.assume_init()
        };
        assert_eq!(figures.f_blocks * figures.f_frsize, memory::TOTAL_BYTES);
        assert_eq!((figures.f_blocks - figures.f_bfree) * figures.f_frsize, 1024);
        assert_eq!((figures.f_bsize, figures.f_namemax), (512, 255));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.contains(mounted.root().to_str().unwrap())).unwrap();
        assert!(line.starts_with("cairn:test ") && line.contains(" fuse.cairn rw,nosuid,nodev,relatime,"), "{line}");
    });
}

#[test]
fn extended_attributes_are_probed_set_listed_and_removed() {
    on_mount(NEVER, |mounted| {
        fs::write(mounted.path("f"), "").unwrap();
        let path = c_path(&mounted.path("f"));
        let name = c"user.colour";
        let set = |value: &[u8], flags| {
            // SAFETY: pointers and length describe live buffers.
            check(unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) })
        };
        let get = |buffer: &mut [u8]| {
            // SAFETY: pointers and length describe live buffers.
            check(unsafe {
                libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) as i64
            })
        };
        assert_eq!(errno(get(&mut [])), libc::ENODATA);
        assert_eq!(errno(set(b"x", libc::XATTR_REPLACE)), libc::ENODATA);
        set(b"green", libc::XATTR_CREATE).unwrap();
        assert_eq!(errno(set(b"x", libc::XATTR_CREATE)), libc::EEXIST);
        assert_eq!(get(&mut []).unwrap(), 5);
        assert_eq!(errno(get(&mut [0; 4])), libc::ERANGE);
        let mut value = [0; 8];
        assert_eq!(get(&mut value).unwrap(), 5);
        assert_eq!(&value[..5], b"green");
        let large = vec![7; 65_536];
        set(&large, 0).unwrap();
        assert_eq!(get(&mut []).unwrap(), 65_536);
        let mut list = [0u8; 64];
        // SAFETY: pointer and length describe a live buffer.
        let length = unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
        assert_eq!(&list[..length as usize], b"user.colour\0");
        // SAFETY: both strings are NUL-terminated.
        check(unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) }).unwrap();
        assert_eq!(errno(get(&mut [])), libc::ENODATA);
    });
}

#[test]
fn space_is_reserved_punched_sought_and_copied() {
    on_mount(LONG, |mounted| {
        let content = pattern(100_000);
        fs::write(mounted.path("f"), &content).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(mounted.path("f")).unwrap();
        let allocate = |mode, offset, length| {
            // SAFETY: the descriptor is open.
            check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) })
        };
        allocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 10, 20).unwrap();
        assert_eq!(fs::read(mounted.path("f")).unwrap()[10..30], [0; 20]);
        allocate(0, 0, 200_000).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 200_000);
        assert_eq!(errno(allocate(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
        // SAFETY: the descriptor is open.
        let seek = |offset, whence| check(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) });
        assert_eq!(seek(5, libc::SEEK_HOLE).unwrap(), 200_000);
        assert_eq!(errno(seek(200_000, libc::SEEK_DATA)), libc::ENXIO);
        let target = OpenOptions::new().read(true).write(true).create_new(true).open(mounted.path("copy")).unwrap();
        let (mut from, mut to) = (1000, 0);
        // SAFETY: both descriptors are open and both offsets outlive the call.
        let copied = check(unsafe {
            libc::copy_file_range(file.as_raw_fd(), &raw mut from, target.as_raw_fd(), &raw mut to, 50_000, 0) as i64
        });
        assert_eq!(copied.unwrap(), 50_000);
        assert!(fs::read(mounted.path("copy")).unwrap() == content[1000..51_000]);
        let statistics = mounted.mount.statistics().snapshot();
        assert!(statistics.iter().any(|operation| operation.name.starts_with("COPY_FILE_RANGE")));
    });
}

/// `flock` on an own open file.
fn flock(file: &File, operation: i32) -> std::io::Result<i64> {
    // SAFETY: the descriptor is open.
    check(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

/// A lock of an open file description on the whole file.
fn record_lock(file: &File, command: i32, kind: i32) -> std::io::Result<libc::flock> {
    // SAFETY: zeros are a valid `struct flock`, which outlives the call on an open descriptor.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as i16;
        check(libc::fcntl(file.as_raw_fd(), command, &raw mut lock))?;
        Ok(lock)
    }
}

#[test]
fn the_two_families_of_locks_are_told_apart_and_end_with_their_files() {
    on_mount(NEVER, |mounted| {
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mounted.path("f")).unwrap();
        let (first, second) = (open(), open());
        flock(&first, libc::LOCK_EX | libc::LOCK_NB).unwrap();
        assert_eq!(errno(flock(&second, libc::LOCK_SH | libc::LOCK_NB)), libc::EAGAIN);
        record_lock(&second, libc::F_OFD_SETLK, libc::F_WRLCK).unwrap();
        assert_eq!(errno(record_lock(&first, libc::F_OFD_SETLK, libc::F_RDLCK)), libc::EAGAIN);
        let found = record_lock(&first, libc::F_OFD_GETLK, libc::F_RDLCK).unwrap();
        assert_eq!((i32::from(found.l_type), found.l_start, found.l_len), (libc::F_WRLCK, 0, 0));
        record_lock(&second, libc::F_OFD_SETLK, libc::F_UNLCK).unwrap();
        record_lock(&first, libc::F_OFD_SETLK, libc::F_RDLCK).unwrap();
        drop(first);
        // A waiting lock is had when the holder's file is closed.
        flock(&second, libc::LOCK_EX).unwrap();
        record_lock(&second, libc::F_OFD_SETLKW, libc::F_WRLCK).unwrap();
    });
}

#[test]
fn a_wait_for_a_lock_ends_with_any_signal() {
    extern "C" fn nothing(_signal: i32) {}
    on_mount(NEVER, |mounted| {
        // SAFETY: the handler does nothing and no other test uses the signal.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            check(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())).unwrap();
        }
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mounted.path("f")).unwrap();
        let (holder, waiter) = (open(), open());
        record_lock(&holder, libc::F_OFD_SETLK, libc::F_WRLCK).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: the call cannot fail.
            sender.send(unsafe { libc::pthread_self() }).unwrap();
            errno(record_lock(&waiter, libc::F_OFD_SETLKW, libc::F_WRLCK))
        });
        let waiting = receiver.recv().unwrap();
        while !thread.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(waiting, libc::SIGUSR1) };
        }
        assert_eq!(thread.join().unwrap(), libc::EINTR);
    });
}

#[test]
fn waiting_requests_never_keep_others_from_being_asked() {
    // More than a queue has slots at the start, all on one CPU, each waiting for what only a further request brings.
    const WAITING: usize = 30;
    on_mount(NEVER, |mounted| {
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(mounted.path("f")).unwrap();
        let holder = open();
        flock(&holder, libc::LOCK_EX).unwrap();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let file = open();
                std::thread::spawn(move || {
                    stay_on_first_cpu();
                    flock(&file, libc::LOCK_SH)
                })
            })
            .collect();
        stay_on_first_cpu();
        std::thread::sleep(Duration::from_millis(300));
        assert!(waiting.iter().all(|thread| !thread.is_finished()));
        fs::write(mounted.path("g"), "others go on").unwrap();
        flock(&holder, libc::LOCK_UN).unwrap();
        for thread in waiting {
            thread.join().unwrap().unwrap();
        }
    });
}

fn stay_on_first_cpu() {
    // SAFETY: zeros are an empty set, CPU 0 is in its range, and the set outlives the call. If the CPU may not be used, the
    // test only asks less.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// Starts a command that will hang, lets it, kills it, and expects it to end soon.
fn expect_killable(command: &mut Command) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it should hang");
    child.kill().unwrap();
    let given_up = Instant::now() + Duration::from_secs(5);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < given_up, "a killed process must end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn processes_that_wait_can_be_killed() {
    on_mount(NEVER, |mounted| {
        expect_killable(Command::new("cat").arg(mounted.path("hang")));
        let file = File::create(mounted.path("f")).unwrap();
        flock(&file, libc::LOCK_EX).unwrap();
        expect_killable(Command::new("flock").arg(mounted.path("f")).arg("true"));
    });
}

#[test]
fn a_panic_is_an_error_of_one_request_and_slow_requests_wait_in_tasks() {
    on_mount(NEVER, |mounted| {
        for _ in 0..5 {
            assert_eq!(errno(fs::metadata(mounted.path("panic"))), libc::EIO);
        }
        assert_eq!(errno(fs::metadata(mounted.path("slow"))), libc::ENOENT);
        let statistics = mounted.mount.statistics().snapshot();
        let lookups = statistics.iter().find(|operation| operation.name == "LOOKUP").unwrap();
        assert_eq!((lookups.count, lookups.spawned, lookups.errors), (6, 1, 6));
        assert!(lookups.total_time >= Duration::from_millis(50));
    });
}

#[test]
fn caches_hold_until_they_are_recalled() {
    on_mount(LONG, |mounted| {
        let cache = mounted.mount.kernel_cache();
        fs::write(mounted.path("f"), "old").unwrap();
        assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "old");
        let ino = mounted.fs.overwrite_secretly("f", b"new");
        assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "old");
        cache.invalidate_data(ino);
        assert_eq!(fs::read_to_string(mounted.path("f")).unwrap(), "new");
        // Reading makes the kernel forget the access time; from here on it knows everything.
        assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), 3);
        mounted.fs.overwrite_secretly("f", b"longer");
        assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), 3);
        cache.invalidate_attr(ino);
        assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), 6);
        // Nodes that the kernel does not know are no error.
        cache.invalidate_data(cairn_types::Ino(99_999_999));
        if cache.can_expire_entries() {
            mounted.fs.rename_secretly("f", "g");
            assert!(fs::metadata(mounted.path("f")).is_ok());
            cache.expire_entries();
            assert_eq!(errno(fs::metadata(mounted.path("f"))), libc::ENOENT);
            assert!(fs::metadata(mounted.path("g")).is_ok());
        }
    });
}

#[test]
fn a_free_mount_ends_cleanly_and_a_used_one_lazily() {
    for (transport, used) in transports().into_iter().flat_map(|transport| [(transport, false), (transport, true)]) {
        let mounted = Mounted::new(NEVER, |options| options.transport = transport);
        let file = used.then(|| File::create(mounted.path("f")).unwrap());
        // A mount that is free needs no limit, but a busy machine its time.
        let (limit, expected) = if used {
            (Duration::from_millis(100), Unmounted::Lazy)
        } else {
            (Duration::from_secs(5), Unmounted::Clean)
        };
        let outcome = mounted.runtime.block_on(mounted.mount.unmount(limit)).unwrap();
        assert_eq!(outcome, expected);
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
        if let Some(mut file) = file {
            file.write_all(b"still served").unwrap();
        }
        mounted.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(5), mounted.mount.wait()).await.unwrap();
        });
        let again = mounted.runtime.block_on(mounted.mount.unmount(Duration::from_millis(100)));
        assert!(matches!(again, Err(MountError::NotMounted { .. })));
    }
}

#[test]
fn somebody_elses_unmount_and_a_drop_end_the_mount() {
    transports().into_iter().for_each(ended_by_others);
}

fn ended_by_others(transport: Transport) {
    let mounted = Mounted::new(NEVER, |options| options.transport = transport);
    assert!(Command::new("umount").arg(mounted.root()).status().unwrap().success());
    mounted.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(5), mounted.mount.wait()).await.unwrap();
    });

    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut options = MountOptions::new(directory.path(), "test");
    options.transport = transport;
    let mount = Mount::new(memory::MemoryFs::new(NEVER), &options, runtime.handle().clone()).unwrap();
    let file = File::create(directory.path().join("f")).unwrap();
    drop(mount);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    drop(file);
}

#[test]
fn a_mount_whose_connection_is_gone_is_called_stale_and_removed_by_its_owner() {
    transports().into_iter().for_each(ended_by_force);
}

fn ended_by_force(transport: Transport) {
    let mounted = Mounted::new(NEVER, |options| options.transport = transport);
    let file = File::create(mounted.path("f")).unwrap();
    // SAFETY: the path is NUL-terminated and outlives the call, which ends the connection but not a mount in use.
    let forced = check(unsafe { libc::umount2(c_path(mounted.root()).as_ptr(), libc::MNT_FORCE) });
    assert_eq!(errno(forced), libc::EBUSY);
    mounted.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(5), mounted.mount.wait()).await.unwrap();
    });
    let options = MountOptions::new(mounted.root(), "test");
    let refused = Mount::new(memory::MemoryFs::new(NEVER), &options, mounted.runtime.handle().clone());
    assert!(matches!(refused, Err(MountError::Stale(_))), "{refused:?}");
    let outcome = mounted.runtime.block_on(mounted.mount.unmount(Duration::from_millis(50))).unwrap();
    assert_eq!(outcome, Unmounted::Lazy);
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), 0);
    drop(file);
}

#[test]
fn options_are_passed_on_and_wrong_ones_refused() {
    let mounted = Mounted::new(NEVER, |options| {
        options.read_only = true;
        options.extra.push("noatime,noexec,_netdev".to_owned());
        options.threads = 1;
    });
    assert_eq!(errno(fs::write(mounted.path("f"), "")), libc::EROFS);
    let device = fs::metadata(mounted.root()).unwrap().dev();
    let read_ahead = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(device), libc::minor(device));
    assert_eq!(fs::read_to_string(read_ahead).unwrap().trim(), "4096");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(mounted.root().to_str().unwrap())).unwrap();
    assert!(line.contains(" ro,nosuid,nodev,noexec,noatime,"), "{line}");

    let directory = tempfile::tempdir().unwrap();
    let mut options = MountOptions::new(directory.path(), "test");
    options.extra.push("no_such_option".to_owned());
    let refused = Mount::new(memory::MemoryFs::new(NEVER), &options, mounted.runtime.handle().clone());
    assert!(matches!(refused, Err(MountError::BadOptions { .. })), "{refused:?}");
}
