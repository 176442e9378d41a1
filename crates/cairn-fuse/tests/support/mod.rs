//! A mount of the in-memory file system that is gone in every case when its test ends, within a time limit.

#![allow(dead_code, unreachable_pub)]

pub mod memory;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use cairn_fuse::{Mount, MountOptions, Transport};
use memory::MemoryFs;

/// Longest that one test may take.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Mounted {
    pub mount: Mount,
    pub fs: MemoryFs,
    pub runtime: tokio::runtime::Runtime,
    directory: tempfile::TempDir,
}

impl Mounted {
    pub fn new(ttl: Duration, adjust: impl FnOnce(&mut MountOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let fs = MemoryFs::new(ttl);
        let mut options = MountOptions::new(directory.path(), "test");
        adjust(&mut options);
        let mount = Mount::new(fs.clone(), &options, runtime.handle().clone()).unwrap();
        Mounted { mount, fs, runtime, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn root(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        detach(self.directory.path());
    }
}

/// Ends every request that is still under way (this process serves itself and could never exit), then unmounts.
pub fn detach(directory: &Path) {
    let path = c_path(directory);
    // SAFETY: the path is NUL-terminated and outlives the calls.
    unsafe {
        libc::umount2(path.as_ptr(), libc::MNT_FORCE);
        libc::umount2(path.as_ptr(), libc::MNT_DETACH);
    }
}

/// The transports that this kernel has. Mounting with io_uring, as root, allows it to the whole machine.
pub fn transports() -> Vec<Transport> {
    let uring = Path::new("/sys/module/fuse/parameters/enable_uring").exists();
    [Transport::Classic].into_iter().chain(uring.then_some(Transport::Uring)).collect()
}

/// Runs `test` on a fresh mount of each transport, whose names and attributes live for `ttl`, and fails if it takes too
/// long.
pub fn on_mount(ttl: Duration, test: impl Fn(&Mounted) + Send + Sync + 'static) {
    let test = Arc::new(test);
    for transport in transports() {
        let test = Arc::clone(&test);
        on_one_mount(transport, ttl, move |mounted| test(mounted));
    }
}

fn on_one_mount(transport: Transport, ttl: Duration, test: impl FnOnce(&Mounted) + Send + 'static) {
    let mounted = Arc::new(Mounted::new(ttl, |options| options.transport = transport));
    let (sender, receiver) = mpsc::channel();
    let inner = Arc::clone(&mounted);
    let thread = std::thread::spawn(move || {
        test(&inner);
        drop(inner);
        let _ = sender.send(());
    });
    match receiver.recv_timeout(LIMIT) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            detach(mounted.root());
            panic!("the test takes longer than {LIMIT:?} with {transport:?}");
        }
    }
}

/// A path for a system call.
pub fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// The outcome of a system call.
pub fn check(outcome: impl Into<i64>) -> io::Result<i64> {
    match outcome.into() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// The errno of an outcome that must be an error.
pub fn errno<T: std::fmt::Debug>(outcome: io::Result<T>) -> i32 {
    outcome.unwrap_err().raw_os_error().unwrap()
}
