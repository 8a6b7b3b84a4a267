//! How much memory there is: the container's limit, or the machine's.

use std::{fs, path::Path};

/// Where nothing says how much there is.
const UNKNOWN: u64 = 4 << 30;

/// The bytes that decoding images may take, unless told otherwise.
pub(crate) fn for_decoding() -> u64 {
    available(Path::new("/")).unwrap_or(UNKNOWN) / 4
}

/// The bytes that this process may have, by the files of a system under `root`.
fn available(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| {
        // A number, controllers and a path: of version 1 those with memory, of version 2 all.
        let (_, line) = line.split_once(':')?;
        let (controllers, group) = line.split_once(':')?;
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            return None;
        };
        limit(&root.join(mount), group, file)
    });
    limits.chain(of_machine(root)).min()
}

/// The least limit of a group and those that it is in.
fn limit(mount: &Path, group: &str, file: &str) -> Option<u64> {
    // In a container the path may be the host's, of which only the mount itself is to be seen.
    let group = group.trim_start_matches('/');
    Path::new(group)
        .ancestors()
        .filter_map(|group| fs::read_to_string(mount.join(group).join(file)).ok())
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

fn of_machine(root: &Path) -> Option<u64> {
    let text = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n");

    fn available_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        available(root.path())
    }

    #[test]
    fn the_least_limit_of_a_group_and_its_parents_counts() {
        let group = ("proc/self/cgroup", "0::/pods/one\n");
        let limits = [
            ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "5000000\n"),
            ("sys/fs/cgroup/memory.max", "9000000\n"),
        ];
        let files = [&[MACHINE, group][..], &limits].concat();
        assert_eq!(available_with(&files), Some(5_000_000));
    }

    #[test]
    fn version_1_has_a_mount_of_its_own() {
        let group = (
            "proc/self/cgroup",
            "3:cpu,cpuacct:/x\n2:memory:/docker/abc\n0::/\n",
        );
        let seen_from_outside = (
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes",
            "7000000\n",
        );
        let seen_from_inside = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "6000000\n");
        assert_eq!(
            available_with(&[MACHINE, group, seen_from_outside]),
            Some(7_000_000)
        );
        assert_eq!(
            available_with(&[MACHINE, group, seen_from_inside]),
            Some(6_000_000)
        );
    }

    #[test]
    fn without_a_limit_it_is_the_machines() {
        let unlimited = ("sys/fs/cgroup/memory.max", "max\n");
        let group = ("proc/self/cgroup", "0::/\n");
        assert_eq!(
            available_with(&[MACHINE, group, unlimited]),
            Some(16384 << 10)
        );
        assert_eq!(available_with(&[MACHINE]), Some(16384 << 10));
        assert_eq!(available_with(&[]), None);
    }
}
