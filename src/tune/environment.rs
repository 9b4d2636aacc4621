//! Where it was measured: machine, engine, build, files.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::context::ContextOptions;
use crate::device::Device;
use crate::engine::{self, Revision};
use crate::error::Result;
use crate::gguf::GgufFile;
use crate::plan::ModelSummary;
use crate::policy::OffloadPolicy;

/// The features of this crate that are compiled in.
const FEATURES: &[(&str, bool)] = &[
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(feature = "metal")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("rocm", cfg!(feature = "rocm")),
    ("dynamic-backends", cfg!(feature = "dynamic-backends")),
    ("openmp", cfg!(feature = "openmp")),
];

/// What a measured figure depends on besides what was measured: the machine, the engine, the build and the files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Environment {
    /// When the run began, in seconds since 1970.
    pub unix_seconds: u64,
    /// This crate's version.
    pub crate_version: String,
    /// This crate's features, and how it was compiled.
    pub crate_build: String,
    /// The engine.
    pub engine: Revision,
    /// How the engine was compiled: its build type, and the options that are on.
    pub engine_build: String,
    /// Operating system and instruction set.
    pub system: String,
    /// The processor, by its own name.
    pub cpu: String,
    /// Threads that it runs at once.
    pub cpu_threads: usize,
    /// Bytes of the machine's memory, where known.
    pub memory_bytes: Option<u64>,
    /// Devices with their memory as the run began.
    pub devices: Vec<Device>,
    /// The models.
    pub models: Vec<ModelFacts>,
}

/// A model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelFacts {
    /// What reports call it.
    pub name: String,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// What a plan says of it; the fingerprint tells files apart.
    #[serde(flatten)]
    pub summary: ModelSummary,
}

impl Environment {
    /// Looks at this machine, the devices of these RPC servers, and the model files, each given with the name
    /// that reports have for it. Starts the engine and its devices.
    ///
    /// ```
    /// # let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo-model/demo-moe.gguf");
    /// use std::path::Path;
    /// use moe_offload::tune::Environment;
    /// let here = Environment::look([("demo", Path::new(demo))], &[])?;
    /// assert_eq!(here.models[0].name, "demo");
    /// // Whether figures of then and now may be compared.
    /// assert_eq!(here.differs(&here.clone()), None);
    /// # Ok::<(), moe_offload::Error>(())
    /// ```
    ///
    /// # Errors
    /// What opening a file, connecting to a server or starting the engine returns.
    pub fn look<'a>(
        models: impl IntoIterator<Item = (&'a str, &'a Path)>,
        rpc_servers: &[String],
    ) -> Result<Self> {
        let devices = engine::devices_with(rpc_servers, None)?;
        let models = models.into_iter().map(|(name, path)| {
            let gguf = GgufFile::open(path)?;
            let plan = OffloadPolicy::None.plan(&gguf, &[], &ContextOptions::default())?;
            let file_bytes = gguf.shards().iter().map(|shard| shard.file_bytes).sum();
            Ok(ModelFacts { name: name.to_owned(), file_bytes, summary: plan.model().clone() })
        });
        let models = models.collect::<Result<Vec<_>>>()?;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Ok(Self {
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            crate_version: env!("CARGO_PKG_VERSION").to_owned(),
            crate_build: crate_build(),
            engine: engine::revision()?,
            engine_build: env!("MOE_OFFLOAD_ENGINE_FLAGS").to_owned(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu_name(&read("/proc/cpuinfo")),
            cpu_threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            devices,
            models,
        })
    }

    /// What differs so that samples of both must not be compared.
    pub fn differs(&self, other: &Self) -> Option<&'static str> {
        let devices = |environment: &Self| -> Vec<(String, String)> {
            let devices = environment.devices.iter();
            devices.map(|device| (device.name.clone(), device.description.clone())).collect()
        };
        [
            ("crate", self.crate_version != other.crate_version),
            ("build of the crate", self.crate_build != other.crate_build),
            ("engine", self.engine != other.engine || self.engine_build != other.engine_build),
            ("machine", self.cpu != other.cpu || self.system != other.system),
            ("number of processors", self.cpu_threads != other.cpu_threads),
            ("set of devices", devices(self) != devices(other)),
            ("model file", self.models != other.models),
        ]
        .into_iter()
        .find_map(|(what, differs)| differs.then_some(what))
    }
}

fn crate_build() -> String {
    let features = FEATURES.iter().filter(|(_, on)| *on).map(|&(name, _)| name);
    let mut words = vec![if cfg!(debug_assertions) { "debug" } else { "release" }];
    words.extend(features);
    words.join(" ")
}

fn cpu_name(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown").to_owned()
}

fn memory_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_own_words_are_read() {
        assert_eq!(cpu_name("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\n"), "A CPU @ 2 GHz");
        assert_eq!(cpu_name(""), "unknown");
        assert_eq!(memory_bytes("MemTotal:  1024 kB\n"), Some(1 << 20));
        assert_eq!(memory_bytes("MemTotal:"), None);
    }
}
