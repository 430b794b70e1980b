//! The devices there are; the one place that knows whether ggml is built in.

use std::fmt;
use std::str::FromStr;

use crate::ops::DeviceError;
#[cfg(not(feature = "ggml"))]
use crate::ops::KvShape;

/// A family of devices that ggml brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each variant is the family of its name
pub enum Family {
    GgmlCpu,
    Cuda,
    Rocm,
    Vulkan,
    Metal,
}

impl Family {
    /// Every family, the ones that `auto` prefers first.
    pub const ALL: [Family; 5] = [
        Family::Cuda,
        Family::Rocm,
        Family::Vulkan,
        Family::Metal,
        Family::GgmlCpu,
    ];

    /// Its name, as `--device` takes it.
    pub const fn name(self) -> &'static str {
        match self {
            Family::GgmlCpu => "ggml-cpu",
            Family::Cuda => "cuda",
            Family::Rocm => "rocm",
            Family::Vulkan => "vulkan",
            Family::Metal => "metal",
        }
    }

    /// The cargo feature that brings it.
    const fn feature(self) -> &'static str {
        match self {
            Family::GgmlCpu => "ggml",
            other => other.name(),
        }
    }
}

/// Which device to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The GPUs that this build can use and the machine has, or else the CPU backend.
    #[default]
    Auto,
    /// The CPU backend.
    Cpu,
    /// All devices of a family, or one.
    Of(Family, Option<usize>),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Of(family, None) => f.write_str(family.name()),
            DeviceChoice::Of(family, Some(i)) => write!(f, "{}:{i}", family.name()),
        }
    }
}

/// A name that is no device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{found}' is no device (expected auto, cpu, {}; a number after a colon chooses one of several)",
    Family::ALL.map(Family::name).join(", ")
)]
pub struct UnknownDevice {
    /// What was asked for.
    pub found: String,
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownDevice { found: s.into() };
        match s {
            "auto" => return Ok(DeviceChoice::Auto),
            "cpu" => return Ok(DeviceChoice::Cpu),
            _ => {}
        }
        let (name, index) = match s.split_once(':') {
            Some((name, index)) => (name, Some(index.parse().map_err(|_| unknown())?)),
            None => (s, None),
        };
        let family = Family::ALL.into_iter().find(|f| f.name() == name);
        Ok(DeviceChoice::Of(family.ok_or_else(unknown)?, index))
    }
}

/// How many of the last layers a GPU runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as fit into its free memory.
    #[default]
    Auto,
    /// All of them.
    All,
    /// This many, or all where there are fewer.
    Count(usize),
}

impl fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GpuLayers::Auto => f.write_str("auto"),
            GpuLayers::All => f.write_str("all"),
            GpuLayers::Count(n) => write!(f, "{n}"),
        }
    }
}

/// What is no number of layers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no number of layers (expected a number, auto or all)")]
pub struct NoGpuLayers(String);

impl FromStr for GpuLayers {
    type Err = NoGpuLayers;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(GpuLayers::Auto),
            "all" => Ok(GpuLayers::All),
            n => n
                .parse()
                .map(GpuLayers::Count)
                .map_err(|_| NoGpuLayers(s.into())),
        }
    }
}

/// A device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// As `--device` takes it.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Whether it is a GPU.
    pub is_gpu: bool,
    /// Bytes of memory that are free, and that there are, where the device or, of the machine's
    /// own, the system says.
    pub memory: Option<(u64, u64)>,
}

/// The devices that this build can use on this machine.
pub fn devices() -> Vec<DeviceInfo> {
    let cpu = DeviceInfo {
        name: DeviceChoice::Cpu.to_string(),
        description: format!("katari's own kernels, {}", crate::cpu::Isa::best()),
        is_gpu: false,
        memory: host_memory(),
    };
    let others = found().into_iter().map(|target| DeviceInfo {
        name: target.to_string(),
        description: target.description().into(),
        is_gpu: target.is_gpu(),
        memory: match target.is_gpu() {
            true => target.memory(),
            false => host_memory(),
        },
    });
    std::iter::once(cpu).chain(others).collect()
}

/// Bytes of the machine's memory that programs can have, and that there are; Linux says.
fn host_memory() -> Option<(u64, u64)> {
    let said = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |name: &str| -> Option<u64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some((bytes("MemAvailable:")?, bytes("MemTotal:")?))
}

/// Bytes a second at which the memory of `device` can be read, measured now.
///
/// # Errors
/// Where there is no such device, or it is the CPU backend, whose memory
/// [`Limits`](crate::cpu::Limits) measures; where it grants no memory, or fails.
pub fn memory_rate(device: &str, threads: usize) -> Result<f64, DeviceError> {
    let target = found().into_iter().find(|t| t.to_string() == device);
    match target {
        Some(target) => target.memory_rate(threads),
        None => Err(DeviceError(format!(
            "there is no device {device} here whose memory could be measured"
        ))),
    }
}

#[cfg(feature = "ggml")]
pub(super) use crate::ggml::{Found as Target, complaints, devices as found};

/// A device of ggml's; a build without it has none.
#[cfg(not(feature = "ggml"))]
pub(super) enum Target {}

#[cfg(not(feature = "ggml"))]
impl Target {
    pub(super) fn kind(&self) -> &'static str {
        match *self {}
    }

    pub(super) fn index(&self) -> usize {
        match *self {}
    }

    pub(super) fn description(&self) -> &str {
        match *self {}
    }

    pub(super) fn is_gpu(&self) -> bool {
        match *self {}
    }

    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        match *self {}
    }

    pub(super) fn fuses_attention(&self, _: &KvShape) -> bool {
        match *self {}
    }

    pub(super) fn memory_rate(&self, _: usize) -> Result<f64, DeviceError> {
        match *self {}
    }
}

#[cfg(not(feature = "ggml"))]
impl fmt::Display for Target {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

/// What ggml has to say of devices that it could not bring up, since it was last asked.
pub fn missing() -> Option<String> {
    found();
    complaints()
}

#[cfg(not(feature = "ggml"))]
fn complaints() -> Option<String> {
    None
}

/// The devices that the linked ggml has; none without it.
#[cfg(not(feature = "ggml"))]
pub(super) fn found() -> Vec<Target> {
    Vec::new()
}

/// The devices that `choice` means; none where it means the CPU backend.
pub(super) fn choose(choice: DeviceChoice) -> Result<Vec<Target>, DeviceError> {
    let of = |family: Family| {
        found()
            .into_iter()
            .filter(move |t| t.kind() == family.name())
    };
    let (family, index) = match choice {
        DeviceChoice::Cpu => return Ok(Vec::new()),
        DeviceChoice::Auto => {
            let gpus = |family| of(family).filter(Target::is_gpu).collect::<Vec<_>>();
            let mut families = Family::ALL.into_iter().map(gpus);
            return Ok(families.find(|gpus| !gpus.is_empty()).unwrap_or_default());
        }
        DeviceChoice::Of(family, index) => (family, index),
    };
    let chosen: Vec<Target> = of(family)
        .filter(|target| index.is_none_or(|i| i == target.index()))
        .collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let here: Vec<String> = devices().into_iter().map(|device| device.name).collect();
    let built = found().iter().any(|t| t.kind() == family.name());
    let next = match built {
        true => String::new(),
        false => format!(
            "; it takes a build with `--features {}` and, where it is a GPU, its driver",
            family.feature()
        ),
    };
    let said = complaints().map_or(String::new(), |said| format!(" (ggml says: {said})"));
    Err(DeviceError(format!(
        "there is no device {choice} here (there is {}){next}{said}",
        here.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_as_they_are_read() {
        for name in [
            "auto", "cpu", "cuda", "cuda:1", "ggml-cpu", "vulkan:0", "metal", "rocm",
        ] {
            let choice: DeviceChoice = name.parse().unwrap();
            assert_eq!(choice.to_string(), name);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cpu:0", "CUDA"] {
            let error = name.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(error.contains("expected auto, cpu, cuda, "), "{error}");
        }
        for name in ["auto", "all", "0", "17"] {
            let layers: GpuLayers = name.parse().unwrap();
            assert_eq!(layers.to_string(), name);
        }
        assert!("-1".parse::<GpuLayers>().is_err());
    }

    #[test]
    fn a_device_that_is_not_here_is_an_error_that_lists_those_that_are() {
        let error = choose(DeviceChoice::Of(Family::Cuda, Some(99)));
        let Err(error) = error.map(|_| ()) else {
            panic!("there is no such device");
        };
        let error = error.to_string();
        assert!(
            error.contains("no device cuda:99 here (there is cpu"),
            "{error}"
        );
    }
}
