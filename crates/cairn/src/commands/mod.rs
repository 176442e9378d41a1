//! One module for each command.

pub(crate) mod account;
pub(crate) mod bench;
pub(crate) mod bench_profiles;
pub(crate) mod cache;
pub(crate) mod control;
pub(crate) mod dev;
pub(crate) mod fsck;
pub(crate) mod key;
pub(crate) mod man;
pub(crate) mod mount;
pub(crate) mod mounted;
pub(crate) mod plugin;
pub(crate) mod profiles;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod umount;
pub(crate) mod volume;
pub(crate) mod warm;
