//! Who asks.

/// A user, as the kernel knows a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub uid: u32,
    /// The group that new nodes get.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Permission bits that new nodes never get.
    pub umask: u32,
}

impl Credentials {
    /// Who may do everything, and whose files get the permissions that are asked for.
    pub fn superuser() -> Self {
        Credentials::default()
    }

    pub fn is_superuser(&self) -> bool {
        self.uid == 0
    }

    pub fn is_in(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}
