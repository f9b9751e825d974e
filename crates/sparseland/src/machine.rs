//! Facts of the machine: cores, memory, CPU model. Read from `/proc` where it exists.

use serde::Serialize;

/// What the machine offers.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// CPU model as the system names it.
    pub cpu: String,
    /// Threads that can run at once.
    pub cores: usize,
    /// CPU features the kernels use.
    pub features: Vec<&'static str>,
    /// Memory not in use, in bytes; `None` where the system does not tell.
    pub available_memory: Option<u64>,
}

impl Machine {
    /// Looks at the machine.
    pub fn look() -> Self {
        let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            features: sparseland_matrix::features(),
            available_memory: kilobytes("/proc/meminfo", "MemAvailable"),
        }
    }
}

/// The largest resident memory of this process so far, in bytes; 0 where the system does not tell.
pub fn peak_rss_bytes() -> u64 {
    kilobytes("/proc/self/status", "VmHWM").unwrap_or(0)
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let value = field(file, name)?;
    Some(1024 * value.split_whitespace().next()?.parse::<u64>().ok()?)
}
