//! How a volume is to be mounted: from what a user says to what `fuser` and the kernel are told.

use std::path::PathBuf;

use fuser::MountOption;

use crate::transport::Transport;

/// Read-ahead of the mount in KiB: 4 MiB nearly doubled cold sequential reads over the kernel's own 128 KiB.
const READ_AHEAD_KIB: u32 = 4096;

/// Options of mount(8), fstab and systemd that mean nothing to the kernel's part of a file system, which also leaves
/// access times to the other part.
const NOT_FOR_THE_KERNEL: [&str; 11] = [
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "_netdev",
    "nofail",
    "relatime",
    "diratime",
    "nodiratime",
];

/// What [`crate::Mount::new`] needs to know.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// The directory that the volume appears in. It must exist and be empty (or `nonempty` be among `extra`).
    pub directory: PathBuf,
    /// Shown as the mount's source (`cairn:VOLUME`).
    pub volume: String,
    /// Shown as the source instead, with the file system type `fuse`: how the mount of an emulated volume looks.
    pub emulated_source: Option<String>,
    pub read_only: bool,
    /// Let other users in. Always so for a mount made by root, who then is not the only user either.
    pub allow_other: bool,
    /// Which way requests come from the kernel.
    pub transport: Transport,
    /// Threads that read requests on the classic transport; 0 for as many as there are CPUs, at least 2.
    pub threads: usize,
    /// The kernel's read-ahead in KiB, raised when permitted (as root); 0 leaves it alone.
    pub read_ahead_kib: u32,
    /// More options as in `mount -o` (`noatime`, `noexec`, `nonempty`, …). `suid` and `dev` are for root only.
    pub extra: Vec<String>,
}

impl MountOptions {
    /// The usual options for a volume and a directory.
    pub fn new(directory: impl Into<PathBuf>, volume: impl Into<String>) -> Self {
        MountOptions {
            directory: directory.into(),
            volume: volume.into(),
            emulated_source: None,
            read_only: false,
            allow_other: false,
            transport: Transport::default(),
            threads: 0,
            read_ahead_kib: READ_AHEAD_KIB,
            extra: Vec::new(),
        }
    }

    pub(crate) fn allows_nonempty(&self) -> bool {
        self.words().any(|word| word == "nonempty")
    }

    pub(crate) fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(2, |count| count.get().max(2)),
            count => count,
        }
    }

    /// Each word of `extra`, which may be joined by commas.
    fn words(&self) -> impl Iterator<Item = &str> {
        self.extra.iter().flat_map(|option| option.split(',')).filter(|word| !word.is_empty())
    }

    /// The word that asks for set-id bits (`suid`) or devices (`dev`), if one does.
    pub(crate) fn wants_privileges(&self) -> Option<&str> {
        let last = |on: &str, off: &str| self.words().filter(|word| *word == on || *word == off).last();
        [last("suid", "nosuid"), last("dev", "nodev")].into_iter().flatten().find(|word| !word.starts_with("no"))
    }

    /// The configuration for `fuser`. Permissions are always the kernel's to check. Set-id bits and devices do not work
    /// unless root asks for them: whoever may write to the volume, from whatever host, could make a file that gives
    /// its users root's rights here.
    pub(crate) fn to_fuser(&self, as_root: bool) -> fuser::Config {
        let comma_free = self.volume.replace([',', '\\'], "_");
        let mut options = vec![MountOption::DefaultPermissions];
        match &self.emulated_source {
            Some(source) => options.push(MountOption::FSName(source.clone())),
            None => options.extend([
                MountOption::FSName(format!("cairn:{comma_free}")),
                // As a plain option, because fuser keeps its own variant from the kernel when it mounts as root.
                MountOption::CUSTOM("subtype=cairn".to_owned()),
            ]),
        }
        let mut allow_other = self.allow_other || as_root;
        let mut read_only = self.read_only;
        let (mut devices, mut set_id) = (false, false);
        for word in self.words() {
            match word {
                "ro" => read_only = true,
                "allow_other" => allow_other = true,
                "dev" => devices = as_root,
                "nodev" => devices = false,
                "suid" => set_id = as_root,
                "nosuid" => set_id = false,
                "exec" => options.push(MountOption::Exec),
                "noexec" => options.push(MountOption::NoExec),
                "atime" => options.push(MountOption::Atime),
                "noatime" => options.push(MountOption::NoAtime),
                "sync" => options.push(MountOption::Sync),
                "async" => options.push(MountOption::Async),
                "dirsync" => options.push(MountOption::DirSync),
                "rw" | "nonempty" | "default_permissions" => {}
                word if NOT_FOR_THE_KERNEL.contains(&word) || word.starts_with("x-") => {}
                word => options.push(MountOption::CUSTOM(word.to_owned())),
            }
        }
        options.push(if read_only { MountOption::RO } else { MountOption::RW });
        // Without the options, fuser and fusermount3 forbid both.
        if devices {
            options.push(MountOption::Dev);
        }
        if set_id {
            options.push(MountOption::Suid);
        }
        let mut config = fuser::Config::default();
        config.mount_options = options;
        config.acl = if allow_other { fuser::SessionACL::All } else { fuser::SessionACL::Owner };
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_fstab_are_sorted_out() {
        let mut options = MountOptions::new("/mnt", "data,1");
        options.extra = vec!["ro,noatime,_netdev".to_owned(), "x-systemd.automount".to_owned(), "nosuid".to_owned()];
        let config = options.to_fuser(true);
        assert!(config.mount_options.contains(&MountOption::FSName("cairn:data_1".to_owned())));
        assert!(
            config.mount_options.contains(&MountOption::RO) && config.mount_options.contains(&MountOption::NoAtime)
        );
        let custom: Vec<_> =
            config.mount_options.iter().filter(|option| matches!(option, MountOption::CUSTOM(_))).collect();
        assert_eq!(custom, [&MountOption::CUSTOM("subtype=cairn".to_owned())]);
        assert_eq!(config.acl, fuser::SessionACL::All);
    }

    fn privileges(options: &MountOptions, as_root: bool) -> [bool; 2] {
        let config = options.to_fuser(as_root);
        [MountOption::Dev, MountOption::Suid].map(|option| config.mount_options.contains(&option))
    }

    #[test]
    fn only_root_gets_devices_and_set_id_bits_and_only_on_request() {
        let mut options = MountOptions::new("/mnt", "v");
        assert_eq!(privileges(&options, true), [false, false]);
        assert_eq!(options.wants_privileges(), None);
        options.extra = vec!["dev,suid".to_owned(), "nosuid".to_owned()];
        assert_eq!(privileges(&options, true), [true, false]);
        assert_eq!(privileges(&options, false), [false, false]);
        assert_eq!(options.wants_privileges(), Some("dev"));
        options.extra = vec!["nosuid,suid".to_owned()];
        assert_eq!(privileges(&options, true), [false, true]);
        assert_eq!(options.wants_privileges(), Some("suid"));
        assert_eq!(options.to_fuser(false).acl, fuser::SessionACL::Owner);
    }
}
