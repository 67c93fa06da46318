//! What the kernel says about this process: memory, its limit, processor time. Linux only; elsewhere `None`.
//!
//! No library: three small files under `/proc` and `/sys/fs/cgroup`, read when somebody asks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Resident set of this process in bytes.
pub(crate) fn resident_memory_bytes() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The least of all memory limits that bind this process: its control groups (v2 and v1), else the machine's memory.
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let machine = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:");
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    machine.into_iter().chain(cgroup_files(root, &groups).iter().filter_map(|file| read_limit(file))).min()
}

/// `Name:   123 kB` → bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limit files of a process's control groups, from its own group up to the root: any of them binds.
fn cgroup_files(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_id), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (base, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let own = base.join(path.trim_start_matches('/'));
        files.extend(own.ancestors().take_while(|dir| dir.starts_with(&base)).map(|dir| dir.join(file)));
    }
    files
}

fn read_limit(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok() // `max` is no limit
}

/// Share of the processors that this process may use, in percent, between one reading and the next.
#[derive(Debug)]
pub(crate) struct CpuMeter {
    last: Mutex<Sample>,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    used: Duration,
    percent: f64,
}

/// Two readings closer than this say more about the clock than about the load.
const SHORTEST_WINDOW: Duration = Duration::from_millis(500);

impl CpuMeter {
    pub(crate) fn new() -> Self {
        Self { last: Mutex::new(Sample { at: Instant::now(), used: processor_time(), percent: 0.0 }) }
    }

    pub(crate) fn percent(&self) -> f64 {
        let mut last = self.last.lock();
        let elapsed = last.at.elapsed();
        if elapsed >= SHORTEST_WINDOW {
            let used = processor_time();
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let share =
                used.saturating_sub(last.used).as_secs_f64() / elapsed.as_secs_f64() / processors as f64;
            *last = Sample { at: Instant::now(), used, percent: (share * 100.0).clamp(0.0, 100.0) };
        }
        last.percent
    }
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
