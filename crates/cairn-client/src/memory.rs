//! How much memory this process may use: the machine's, or its container's limit if that is lower.

use std::fs;

/// Assumed where nothing can be found out, in bytes.
const UNKNOWN: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes.
pub(crate) fn limit() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_total(&text)).unwrap_or(UNKNOWN);
    let container = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
        .unwrap_or(u64::MAX);
    machine.min(container)
}

fn parse_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_in_kibibytes() {
        assert_eq!(parse_total("MemTotal:       24689252 kB\nMemFree: 1 kB\n"), Some(24_689_252 * 1024));
        assert_eq!(parse_total("nothing"), None);
        assert!(limit() > 0);
    }
}
