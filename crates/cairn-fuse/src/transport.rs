//! The choice of the way in which requests come from the kernel, and a sentence that says why.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

/// Whether root lets FUSE use io_uring (fs/fuse/dev_uring.c of Linux); absent where the kernel does not know it.
const PARAMETER: &str = "/sys/module/fuse/parameters/enable_uring";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// Oldest kernel on which io_uring is switched on unasked: the first one on which every suite has passed with it.
const TRUSTED_SINCE: (u32, u32) = (6, 18);

/// Which way requests are to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// io_uring where the kernel offers it; as root, switches it on there, from Linux 6.18 on.
    #[default]
    Auto,
    /// io_uring or no mount; as root, switches it on in every kernel that has it.
    Uring,
    /// `/dev/fuse`, which every kernel has.
    Classic,
}

/// The transport that a mount uses, for people: `io_uring: …` or `classic: …` with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportInUse {
    pub uring: bool,
    pub reason: String,
}

impl TransportInUse {
    pub(crate) fn classic(reason: impl Into<String>) -> Self {
        TransportInUse { uring: false, reason: reason.into() }
    }
}

impl fmt::Display for TransportInUse {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", if self.uring { "io_uring" } else { "classic" }, self.reason)
    }
}

/// Why the kernel's side cannot use io_uring, with the remedy; `None` if it can. Where it is switched off, it is switched on if that
/// is permitted: the parameter allows io_uring to FUSE servers that ask for it, and changes no mount that exists.
pub(crate) fn obstacle(wanted: Transport) -> Option<String> {
    let release = fs::read_to_string(RELEASE).unwrap_or_default();
    obstacle_in(Path::new(PARAMETER), wanted == Transport::Uring || is_trusted(&release))
}

fn obstacle_in(parameter: &Path, switch_on: bool) -> Option<String> {
    let name = parameter.display();
    match fs::read_to_string(parameter) {
        Ok(value) if value.trim() == "Y" => None,
        Ok(_) if switch_on => match fs::write(parameter, "Y") {
            Ok(()) => {
                tracing::info!("FUSE over io_uring is now on in the kernel ({name}); --transport classic does without");
                None
            }
            Err(error) => {
                Some(format!("{name} is N and cannot be written ({error}): write Y to it on the host, as root"))
            }
        },
        Ok(_) => {
            let (major, minor) = TRUSTED_SINCE;
            Some(format!(
                "{name} is N, and this kernel is older than {major}.{minor}; --transport uring uses it all the same"
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some("this kernel has no FUSE over io_uring (it came with Linux 6.14)".to_owned())
        }
        Err(error) => Some(format!("{name} cannot be read ({error})")),
    }
}

fn is_trusted(release: &str) -> bool {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map_while(|part| part.parse().ok());
    numbers.next().zip(numbers.next()).is_some_and(|version: (u32, u32)| version >= TRUSTED_SINCE)
}

/// Says why this process cannot have rings.
pub(crate) fn explain_refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "this process may not use io_uring ({error}): allow it in the container's seccomp profile, and set the sysctl \
             kernel.io_uring_disabled to 0"
        ),
        Some(libc::ENOSYS) => format!("the kernel was built without io_uring ({error})"),
        _ => format!("io_uring could not be set up ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_switched_on_where_there_is_one_and_the_kernel_is_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let parameter = directory.path().join("enable_uring");
        assert!(obstacle_in(&parameter, true).unwrap().contains("6.14"));
        assert!(!parameter.exists());
        fs::write(&parameter, "N\n").unwrap();
        assert!(obstacle_in(&parameter, false).unwrap().contains("6.18"));
        assert_eq!(fs::read_to_string(&parameter).unwrap(), "N\n");
        assert_eq!(obstacle_in(&parameter, true), None);
        assert_eq!(fs::read_to_string(&parameter).unwrap(), "Y");
        assert_eq!(obstacle_in(&parameter, false), None);
    }

    #[test]
    fn kernels_are_told_apart_by_their_numbers() {
        assert!(is_trusted("6.18.44-fc-v669\n") && is_trusted("6.18-rc1") && is_trusted("7.0.1") && is_trusted("10.2"));
        assert!(!is_trusted("6.17.9-generic") && !is_trusted("5.19.0") && !is_trusted("6") && !is_trusted(""));
    }

    #[test]
    fn a_transport_is_one_line() {
        let classic = TransportInUse::classic("asked for");
        assert_eq!(classic.to_string(), "classic: asked for");
        let uring = TransportInUse { uring: true, reason: "2 threads".to_owned() };
        assert_eq!(uring.to_string(), "io_uring: 2 threads");
    }
}
