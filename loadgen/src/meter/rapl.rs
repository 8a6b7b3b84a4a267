//! The energy counters of a processor's packages as Linux's powercap shows them. Reading them is often root's privilege, and
//! virtual machines seldom have them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The packages' counters.
#[derive(Debug)]
pub(crate) struct Rapl {
    packages: Vec<PathBuf>,
    /// What all counters hold together before they begin again.
    range: f64,
}

impl Rapl {
    /// The counters in this folder; none if there are none, or not all may be read.
    pub(super) fn open(powercap: &Path) -> Option<Self> {
        let packages: Vec<PathBuf> = fs::read_dir(powercap)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| is_package(path))
            .collect();
        let range = joules(&packages, "max_energy_range_uj")?;
        let rapl = Self { packages, range };
        rapl.joules().map(|_| rapl)
    }

    /// What all packages have consumed since some time.
    pub(super) fn joules(&self) -> Option<f64> {
        joules(&self.packages, "energy_uj")
    }

    /// What was consumed between two readings, if no counter has begun again twice.
    pub(super) fn between(&self, before: f64, after: f64) -> f64 {
        if after >= before {
            after - before
        } else {
            // Packages have one range, and at most one of them has begun again in a pass as short as these.
            after - before + self.range / self.packages.len() as f64
        }
    }
}

/// `intel-rapl:0` is a package, also on AMD's processors; `intel-rapl:0:1` is a part of one.
fn is_package(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_prefix("intel-rapl:"))
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The sum of a file of microjoules over packages; none without any.
fn joules(packages: &[PathBuf], file: &str) -> Option<f64> {
    let read = |package: &PathBuf| {
        let text = fs::read_to_string(package.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let sum = packages
        .iter()
        .map(read)
        .try_fold(0, |sum: u64, one| sum.checked_add(one?))?;
    (!packages.is_empty()).then_some(sum as f64 / 1e6)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn package(powercap: &Path, number: u32, energy_uj: u64, range_uj: u64) {
        let dir = powercap.join(format!("intel-rapl:{number}"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("energy_uj"), format!("{energy_uj}\n")).unwrap();
        fs::write(dir.join("max_energy_range_uj"), format!("{range_uj}\n")).unwrap();
    }

    #[test]
    fn packages_are_added_and_their_parts_are_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Rapl::open(dir.path()).is_none());
        package(dir.path(), 0, 2_000_000, 10_000_000);
        package(dir.path(), 1, 3_000_000, 10_000_000);
        fs::create_dir(dir.path().join("intel-rapl:0:0")).unwrap();
        let rapl = Rapl::open(dir.path()).unwrap();
        assert_eq!(rapl.joules(), Some(5.0));
        assert_eq!(rapl.between(5.0, 7.5), 2.5);
        assert_eq!(rapl.between(9.0, 1.0), 2.0);
    }

    #[test]
    fn a_counter_that_is_none_is_no_meter() {
        let dir = tempfile::tempdir().unwrap();
        package(dir.path(), 0, 2, 10);
        fs::write(dir.path().join("intel-rapl:0/energy_uj"), "denied").unwrap();
        assert!(Rapl::open(dir.path()).is_none());
    }
}
