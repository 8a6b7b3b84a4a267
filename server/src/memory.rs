//! How much memory this process takes, as the operating system sees it, and how much it may.

mod limit;

pub(crate) use limit::for_decoding;

/// The bytes of this process that are in memory; none where there is no `/proc` to ask.
pub(crate) fn resident_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS` of a `/proc/PID/status`, which counts in KiB whatever the size of a page.
fn parse(status: &str) -> Option<u64> {
    let field = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = field.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_size_is_told_from_the_others() {
        let status = "Name:\tgalley\nVmSize:\t  900 kB\nVmRSS:\t  123 kB\nThreads:\t4\n";
        assert_eq!(parse(status), Some(123 << 10));
        assert_eq!(parse("Name:\tgalley\nVmSize:\t  900 kB\n"), None);
        assert_eq!(parse("VmRSS:\tmuch\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_written_counts() {
        // Other tests take and free memory at the same time, so only what is held here is sure.
        let block = vec![1u8; 64 << 20];
        let resident = resident_bytes().unwrap();
        std::hint::black_box(&block);
        assert!(resident >= block.len() as u64, "{resident}");
    }
}
