//! Which CPUs there are: the kernel has a queue for each that could ever exist, this process may use some of them.

use std::fs;
use std::io;

/// Source: Documentation/ABI/testing/sysfs-devices-system-cpu of Linux.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// How many queues the kernel makes: one for each possible CPU.
pub(crate) fn possible() -> io::Result<u16> {
    let list = fs::read_to_string(POSSIBLE)?;
    count(&list).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{POSSIBLE} says {list:?}")))
}

/// Counts the CPUs of a list such as `0-3,8`.
fn count(list: &str) -> Option<u16> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    ranges.sum::<Option<u16>>().filter(|&count| count > 0)
}

/// The CPUs that the calling thread may run on, in order.
pub(crate) fn allowed() -> Vec<u16> {
    // SAFETY: zeros are an empty set, the call writes at most its size, and every number asked for is inside it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE as u16).filter(|&cpu| libc::CPU_ISSET(usize::from(cpu), &set)).collect()
    }
}

/// Keeps the calling thread on one CPU. Where that is not permitted the thread only becomes slower.
pub(crate) fn pin(cpu: u16) {
    // SAFETY: zeros are an empty set, and the number is below its size: it came from such a set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(usize::from(cpu), &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count("0-1\n"), Some(2));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-3,8,10-11\n"), Some(7));
        for wrong in ["", "\n", "3-1", "a", "0-70000", "0-65535"] {
            assert_eq!(count(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn this_machine_has_cpus_that_may_be_used() {
        assert!(possible().unwrap() >= 1);
        assert!(!allowed().is_empty());
    }
}
