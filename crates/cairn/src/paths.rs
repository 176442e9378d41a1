//! Where things are kept unless the user says otherwise: system places for root, XDG places for everybody else.

use std::path::PathBuf;

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

fn user_directory(variable: &str, fallback: &str) -> PathBuf {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map_or_else(
        || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from).join(fallback),
        PathBuf::from,
    )
}

/// Data of `cairn serve` and `cairn dev`.
pub(crate) fn data_directory() -> PathBuf {
    if is_root() { "/var/lib/cairn".into() } else { user_directory("XDG_DATA_HOME", ".local/share").join("cairn") }
}

/// Log of mounts in the background.
pub(crate) fn mount_log() -> PathBuf {
    if is_root() { "/var/log/cairn-mount.log".into() } else { state_directory().join("mount.log") }
}

/// What a mount could not write after it was fenced is kept here.
pub(crate) fn recovery_directory() -> PathBuf {
    if is_root() && std::env::var_os("XDG_STATE_HOME").is_none() {
        "/var/lib/cairn-recovery".into()
    } else {
        state_directory().join("recovery")
    }
}

fn state_directory() -> PathBuf {
    user_directory("XDG_STATE_HOME", ".local/state").join("cairn")
}

/// The Unix socket of the server whose data are in `data`.
pub(crate) fn socket_in(data: &std::path::Path) -> PathBuf {
    data.join("cairn.sock")
}
