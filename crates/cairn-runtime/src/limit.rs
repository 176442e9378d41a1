//! How much memory this process may use: the machine's, or the limit of a control group around it if that is lower.

use std::fs;
use std::path::{Path, PathBuf};

/// Assumed where nothing can be found out, in bytes.
const UNKNOWN: u64 = 4 * 1024 * 1024 * 1024;

/// Bytes.
pub(crate) fn of_process() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_total(&text)).unwrap_or(UNKNOWN);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let limits = limit_files(&groups, &mounts);
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    limits.into_iter().filter_map(read).min().map_or(machine, |container| machine.min(container))
}

fn parse_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Files that may hold a limit for this process: of its memory group and of every group around it, in both versions
/// of control groups. Not every one need exist.
fn limit_files(groups: &str, mounts: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (file, mounted) = if controllers.is_empty() {
            ("memory.max", mount_of(mounts, |kind, _| kind == "cgroup2"))
        } else if controllers.split(',').any(|name| name == "memory") {
            let has_memory = |options: &str| options.split(',').any(|name| name == "memory");
            ("memory.limit_in_bytes", mount_of(mounts, |kind, options| kind == "cgroup" && has_memory(options)))
        } else {
            continue;
        };
        let Some((root, point)) = mounted else { continue };
        // A container sees its own group as the root of the mount.
        let inside = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
        files.extend(inside.ancestors().map(|ancestor| Path::new(point).join(ancestor).join(file)));
    }
    files
}

/// Root and mount point of the first mount whose type and options are accepted.
fn mount_of(mounts: &str, accepts: impl Fn(&str, &str) -> bool) -> Option<(&str, &str)> {
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
        let mut place = place.split(' ').skip(3);
        let found = (place.next()?, place.next()?);
        accepts(name, options).then_some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_in_kibibytes() {
        assert_eq!(parse_total("MemTotal:       24689252 kB\nMemFree: 1 kB\n"), Some(24_689_252 * 1024));
        assert_eq!(parse_total("nothing"), None);
        assert!(of_process() > 0);
    }

    fn files(groups: &str, mounts: &str) -> Vec<String> {
        limit_files(groups, mounts).iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn limits_of_all_groups_around_a_process_count() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup rw,nsdelegate";
        let found = files("0::/jobs/one\n", mounts);
        assert_eq!(
            found,
            ["/sys/fs/cgroup/jobs/one/memory.max", "/sys/fs/cgroup/jobs/memory.max", "/sys/fs/cgroup/memory.max"]
        );
    }

    #[test]
    fn the_first_version_has_a_mount_for_each_controller() {
        let mounts = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 25 0:31 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let groups = "4:memory:/docker/abc\n1:cpu:/\n0::/\n";
        assert_eq!(files(groups, mounts), ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]);
    }
}
