//! The machine that figures come from, described so that it can be judged but not found: no host or user names.

use std::fs;

use serde::{Deserialize, Serialize};

/// A machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name in reports: processor and cores, or what the user called it.
    pub name: String,
    /// The processor's model.
    pub cpu: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Operating system and architecture.
    pub os: String,
    /// The kernel's release, its version numbers only.
    pub kernel: Option<String>,
}

impl Machine {
    /// This one, under `name` or one made of its processor and cores.
    pub fn here(name: Option<&str>) -> Self {
        let read = |path| fs::read_to_string(path).ok();
        let cores = cores();
        let cpu = read("/proc/cpuinfo")
            .and_then(|text| field(&text, "model name"))
            .unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH));
        Self {
            name: name.map_or_else(|| format!("{}-{cores}core", slug(&cpu)), slug),
            memory_bytes: read("/proc/meminfo")
                .and_then(|text| kibibytes(&field(&text, "MemTotal")?)),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| version(&text).to_owned()),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu,
            cores,
        }
    }
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The peak memory of a process (`None`: this one), where the system tells.
pub(crate) fn peak_rss(pid: Option<u32>) -> Option<u64> {
    let status = fs::read_to_string(proc_file(pid, "status")).ok()?;
    kibibytes(&field(&status, "VmHWM")?)
}

/// The memory of a process now, where the system tells.
pub(crate) fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(proc_file(Some(pid), "status")).ok()?;
    kibibytes(&field(&status, "VmRSS")?)
}

/// Starts this process's peak memory anew, where the system allows it.
pub(crate) fn reset_peak_rss() {
    // Without it the peak is that since the start, which is still true, only less telling.
    let _ = fs::write(proc_file(None, "clear_refs"), "5");
}

fn proc_file(pid: Option<u32>, name: &str) -> String {
    match pid {
        Some(pid) => format!("/proc/{pid}/{name}"),
        None => format!("/proc/self/{name}"),
    }
}

/// The first `name: value` of a file in /proc.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
}

fn kibibytes(value: &str) -> Option<u64> {
    let number: u64 = value.strip_suffix("kB")?.trim().parse().ok()?;
    Some(number * 1024)
}

/// A name for a folder: lower case letters, digits and single dashes, without what every processor's name has.
pub(super) fn slug(name: &str) -> String {
    let name = name.split('@').next().unwrap_or(name).to_lowercase();
    let name = name.replace("(r)", " ").replace("(tm)", " ");
    name.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty() && !["cpu", "processor"].contains(word))
        .collect::<Vec<_>>()
        .join("-")
}

/// `6.1.0` of `6.1.0-13-amd64`: what follows names the builder of the kernel, and says nothing of speed.
fn version(release: &str) -> &str {
    let end = release.find(|c: char| c != '.' && !c.is_ascii_digit());
    &release[..end.unwrap_or(release.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_short_and_plain() {
        assert_eq!(
            slug("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"),
            "intel-xeon-platinum-8481c"
        );
        assert_eq!(
            slug("AMD EPYC 7763 64-Core Processor"),
            "amd-epyc-7763-64-core"
        );
        assert_eq!(slug("../../etc"), "etc");
    }

    #[test]
    fn a_kernel_is_named_by_its_numbers() {
        assert_eq!(version("6.1.0-13-amd64\n"), "6.1.0");
        assert_eq!(version("6.18\n"), "6.18");
    }

    #[test]
    fn fields_of_proc_are_read() {
        let text = "Name:\tx\nVmHWM:\t  2048 kB\n";
        assert_eq!(kibibytes(&field(text, "VmHWM").unwrap()), Some(2 << 20));
        assert_eq!(field(text, "VmRSS"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_peak() {
        assert!(peak_rss(None).unwrap() > 1 << 20);
    }
}
