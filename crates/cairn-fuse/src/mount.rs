//! One mounted volume: made, served by threads, and ended in every case.
//!
//! `fuser` mounts and shakes hands; from then on its session is only kept, because dropping it would unmount. Ending is
//! done here: first kindly, again and again while files are open, then lazily, so that no directory is left behind
//! that answers "Transport endpoint is not connected".

use std::fmt;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::api::{FileSystem, KernelCache};
use cairn_locks::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::answer::{MountContext, Queue};
use crate::device::Device;
use crate::error::MountError;
use crate::handshake::{Handshake, MAX_WRITE};
use crate::interrupt::Interrupts;
use crate::lock_order;
use crate::notify::Notifier;
use crate::options::MountOptions;
use crate::owners::LockOwners;
use crate::service::Service;
use crate::stats::Statistics;
use crate::transport::{self, Transport, TransportInUse};
use crate::uring::Rings;
use crate::{classic, precheck, unmount};

/// How long the threads may take to notice the end of their mount before its remains are left to the process's end.
const END_NOTICE: Duration = Duration::from_millis(200);

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmounted {
    /// Nothing used it; it is gone.
    Clean,
    /// It was in use and is gone from the tree only; it is served until its last file is closed or the process ends.
    Lazy,
}

/// A mounted volume. Dropping it unmounts at once, lazily if need be.
pub struct Mount {
    directory: PathBuf,
    /// `MAJOR:MINOR` under which the kernel lists the mount: tells it from another one on the same directory.
    device: Option<String>,
    session: Mutex<Option<fuser::Session<Handshake>>, lock_order::MountSession>,
    shared: Arc<MountContext>,
    transport: TransportInUse,
    notifier: Arc<Notifier>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for Mount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mount").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Mount {
    /// Mounts `file_system` and serves it from threads of its own; what must wait runs on `runtime`. Blocks for a few
    /// milliseconds.
    ///
    /// # Errors
    /// Each with its remedy, see [`MountError`].
    pub fn new<F: FileSystem>(file_system: F, options: &MountOptions, runtime: Handle) -> Result<Self, MountError> {
        let directory = precheck::check(options)?;
        let shared = Arc::new(MountContext {
            statistics: Statistics::default(),
            interrupts: Interrupts::default(),
            lock_owners: LockOwners::default(),
            runtime,
        });
        let (rings, mut transport) = prepare_rings(options.transport, &shared)?;
        let (handshake, agreement) = Handshake::new(rings.is_some());
        let config = options.to_fuser(precheck::is_root());
        let session = fuser::Session::new(handshake, &directory, &config)
            .map_err(|error| precheck::explain(&directory, &config, error))?;
        let failed = |action| {
            let directory = directory.clone();
            move |source| MountError::Io { action, directory, source }
        };
        let first = Device::duplicate(session.as_fd()).map_err(failed("serve"))?;
        let notifier = Notifier::new(Device::duplicate(session.as_fd()).map_err(failed("serve"))?);
        let service = Arc::new(Service::new(file_system, agreement.dialect(), MAX_WRITE as usize));
        // The receivers learn of the end when the last thread drops its sender's clone.
        let (ended_sender, ended) = watch::channel(false);
        let ended_sender = Arc::new(EndOfService(ended_sender));
        if let Some(rings) = rings {
            let started = if agreement.uring() {
                rings.start(&service, &ended_sender, || Device::duplicate(session.as_fd())).map_err(|e| e.to_string())
            } else {
                Err("the kernel does not offer it to this mount".to_owned())
            };
            if let Err(reason) = started {
                if options.transport == Transport::Uring {
                    return Err(MountError::UringUnavailable(reason));
                }
                transport = TransportInUse::classic(format!("io_uring was refused ({reason})"));
            }
        }
        let mut queues = Vec::new();
        // Beside rings, only forgets and interrupts come this way.
        for _ in 1..if transport.uring { 1 } else { options.thread_count() } {
            queues.push(first.new_queue().map_err(failed("serve"))?);
        }
        queues.push(first);
        let device = precheck::mountinfo_device(&directory);
        let mount = Mount {
            directory,
            device,
            session: Mutex::new(Some(session)),
            shared,
            transport,
            notifier: Arc::new(notifier),
            ended,
        };
        for (index, device) in queues.into_iter().enumerate() {
            let queue = Arc::new(Queue { device, shared: Arc::clone(&mount.shared) });
            let service = Arc::clone(&service);
            let ended_sender = Arc::clone(&ended_sender);
            let thread = std::thread::Builder::new().name(format!("fuse-{index}"));
            let thread = thread.spawn(move || {
                if let Err(error) = classic::serve(&service, &queue) {
                    tracing::error!(%error, "a thread cannot read requests any more");
                }
                drop(ended_sender);
            });
            // A mount that is dropped here unmounts.
            thread.map_err(|source| MountError::Io {
                action: "start threads for",
                directory: mount.directory.clone(),
                source,
            })?;
        }
        if let Some(device) = &mount.device {
            precheck::raise_read_ahead(device, options.read_ahead_kib);
        }
        Ok(mount)
    }

    /// Where the volume is mounted: absolute, without symbolic links.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The kernel's caches of this mount.
    pub fn kernel_cache(&self) -> Arc<dyn KernelCache> {
        Arc::clone(&self.notifier) as Arc<dyn KernelCache>
    }

    /// What the kernel has asked for so far.
    pub fn statistics(&self) -> &Statistics {
        &self.shared.statistics
    }

    /// Which way requests come, and why.
    pub fn transport(&self) -> &TransportInUse {
        &self.transport
    }

    /// Whether the kernel has ended the mount (`umount` by anybody).
    pub fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits until the kernel ends the mount, whoever asked for it.
    pub async fn wait(&self) {
        let mut ended = self.ended.clone();
        // An error means that the sender is gone, which it is only after it has said so.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Ends the mount: for `limit` it is tried again while files are in use, then it is taken off the tree lazily.
    /// Runs beside whatever drives the runtime, so the file system can still write what the kernel gives back.
    ///
    /// # Errors
    /// [`MountError::NotMounted`] if it was ended before; any error of the kernel but "busy".
    pub async fn unmount(&self, limit: Duration) -> Result<Unmounted, MountError> {
        if !self.is_on_the_tree() {
            return Err(MountError::NotMounted { directory: self.directory.clone() });
        }
        let outcome = unmount::unmount(&self.directory, limit).await;
        if let Ok(Unmounted::Clean) = outcome {
            // The threads notice at once; if something else (another mount namespace) keeps the mount, so be it.
            let _ = tokio::time::timeout(END_NOTICE, self.wait()).await;
        }
        outcome
    }

    /// Whether the directory leads here. An aborted connection has ended and yet is on the tree, a lazily unmounted
    /// one the other way round.
    fn is_on_the_tree(&self) -> bool {
        self.device.is_some() && precheck::mountinfo_device(&self.directory) == self.device
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(session) = self.session.get_mut().take() else { return };
        if self.is_on_the_tree() {
            unmount::detach(&self.directory);
        }
        for _ in 0..10 {
            if self.has_ended() {
                return;
            }
            std::thread::sleep(END_NOTICE / 10);
        }
        // Still in use somewhere. The session would unmount by path, where another mount may lie by now.
        std::mem::forget(session);
    }
}

/// Rings that are ready to be used, if they are wanted and can be had; and what to tell of that.
fn prepare_rings<F: FileSystem>(
    wanted: Transport,
    shared: &Arc<MountContext>,
) -> Result<(Option<Rings<F>>, TransportInUse), MountError> {
    if wanted == Transport::Classic {
        return Ok((None, TransportInUse::classic("asked for")));
    }
    let prepared = match transport::obstacle(wanted) {
        Some(reason) => Err(reason),
        None => Rings::prepare(shared).map_err(|error| transport::explain_refusal(&error)),
    };
    match prepared {
        Ok(rings) => {
            let reason = rings.describe();
            Ok((Some(rings), TransportInUse { uring: true, reason }))
        }
        Err(reason) if wanted == Transport::Uring => Err(MountError::UringUnavailable(reason)),
        Err(reason) => Ok((None, TransportInUse::classic(reason))),
    }
}

/// Says that a mount has ended when the last thread lets go of it, even by a panic.
struct EndOfService(watch::Sender<bool>);

impl Drop for EndOfService {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}
