//! Energy, where the machine tells.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Energy that was used between two moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Energy {
    /// Joules of the processor packages, everything that runs on them included (RAPL).
    pub package_joules: Option<f64>,
    /// Joules of NVIDIA GPUs: the mean of their power before and after, times the seconds between.
    /// Rough, since the power in between is not looked at.
    pub gpu_joules: Option<f64>,
    /// Seconds between the two moments.
    pub seconds: f64,
}

/// Reads the machine's meters.
pub(super) struct Meter {
    packages: Vec<Package>,
    gpu_watts: Option<f64>,
    started: std::time::Instant,
}

struct Package {
    counter: PathBuf,
    /// Where the counter begins anew.
    range: u64,
    before: u64,
}

impl Meter {
    /// Begins; where nothing tells there is nothing to begin.
    pub(super) fn start() -> Option<Self> {
        let packages = packages(Path::new("/sys/class/powercap"));
        let gpu_watts = gpu_watts();
        let tells = !packages.is_empty() || gpu_watts.is_some();
        tells.then(|| Self { packages, gpu_watts, started: std::time::Instant::now() })
    }

    pub(super) fn stop(self) -> Energy {
        let seconds = self.started.elapsed().as_secs_f64();
        let joules = self.packages.iter().map(Package::joules).collect::<Option<Vec<f64>>>();
        let joules = joules.filter(|joules| !joules.is_empty());
        let after = self.gpu_watts.and_then(|before| Some(before.midpoint(gpu_watts()?)));
        Energy {
            package_joules: joules.map(|joules| joules.iter().sum()),
            gpu_joules: after.map(|watts| watts * seconds),
            seconds,
        }
    }
}

impl Package {
    fn joules(&self) -> Option<f64> {
        let after = number(&self.counter)?;
        let used = after
            .checked_sub(self.before)
            .or_else(|| (self.range + after).checked_sub(self.before))?;
        #[allow(clippy::cast_precision_loss)] // microjoules of minutes
        let joules = used as f64 / 1e6;
        Some(joules)
    }
}

/// The packages' counters that this process may read; the parts of a package are not counted again.
fn packages(folder: &Path) -> Vec<Package> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let is_package = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("intel-rapl:") && name.matches(':').count() == 1
    };
    let paths = entries.map(|entry| entry.path()).filter(is_package);
    paths
        .filter_map(|path| {
            let counter = path.join("energy_uj");
            let before = number(&counter)?;
            Some(Package { range: number(&path.join("max_energy_range_uj"))?, counter, before })
        })
        .collect()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The power of all NVIDIA GPUs now, if their tool is there.
fn gpu_watts() -> Option<f64> {
    let query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits"];
    let output = std::process::Command::new("nvidia-smi").args(query).output().ok()?;
    output.status.success().then(|| parse_watts(&String::from_utf8_lossy(&output.stdout)))?
}

fn parse_watts(text: &str) -> Option<f64> {
    let cards = text.lines().filter(|line| !line.trim().is_empty());
    let watts = cards.map(|line| line.trim().parse::<f64>().ok()).collect::<Option<Vec<_>>>()?;
    (!watts.is_empty()).then(|| watts.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_count_on_after_their_counter_began_anew() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, before: &str| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("energy_uj"), before).unwrap();
            fs::write(path.join("max_energy_range_uj"), "10000000\n").unwrap();
        };
        write("intel-rapl:0", "9000000\n");
        write("intel-rapl:0:0", "1\n"); // a part of the package
        let packages = packages(folder.path());
        assert_eq!(packages.len(), 1);
        fs::write(folder.path().join("intel-rapl:0/energy_uj"), "500000").unwrap();
        assert_eq!(packages[0].joules(), Some(1.5));
    }

    #[test]
    fn nothing_is_told_where_nothing_can_be_read() {
        assert!(packages(Path::new("/does/not/exist")).is_empty());
        assert_eq!(parse_watts("[N/A]\n"), None);
        assert_eq!(parse_watts(""), None);
        assert_eq!(parse_watts("30.5\n 70\n"), Some(100.5));
    }
}
