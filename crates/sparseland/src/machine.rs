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

/// Today's date (UTC) as `YYYY-MM-DD`.
pub fn today() -> String {
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (year, month, day) = civil(seconds as i64 / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970 (the Gregorian calendar in eras of 400 years).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (11_016, (2000, 2, 29)),
            (20_781, (2026, 11, 24)),
            (-1, (1969, 12, 31)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
