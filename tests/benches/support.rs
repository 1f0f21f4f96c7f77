//! What the benchmarks share: durations, and the figures they report.

#![expect(dead_code, reason = "each benchmark uses the part of it that it needs")]

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    process::Command,
    time::Duration,
};

/// Where figures are kept for the table at the end: one a line, its columns parted by tabs.
const FIGURES: &str = "TOUCHSTONE_FIGURES";
/// For a short look at a load: so many percent of it.
const PERCENT: &str = "TOUCHSTONE_BENCH_PERCENT";

/// Prints a figure, and keeps it where `scripts/bench` wants it.
pub(crate) fn figure(what: &str, value: &str, aim: &str) {
    println!("{what}: {value}{}", parenthesised(aim));
    if let Some(path) = std::env::var_os(FIGURES) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        writeln!(file.expect("the figures' file"), "{what}\t{value}\t{aim}")
            .expect("write a figure");
    }
}

fn parenthesised(aim: &str) -> String {
    if aim.is_empty() {
        String::new()
    } else {
        format!(" (aim: {aim})")
    }
}

/// So many, or the share of them that is asked for.
pub(crate) fn scaled(count: usize) -> usize {
    let percent = std::env::var(PERCENT).ok();
    let percent = percent
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_usize);
    (count * percent / 100).max(1)
}

/// Durations of one kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durations(Vec<Duration>);

impl Durations {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The least duration that so many percent are not above.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        *sorted.get(rank - 1).expect("at least one duration")
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

impl Extend<Duration> for Durations {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, durations: T) {
        self.0.extend(durations);
    }
}

/// Milliseconds with as many places as they deserve.
pub(crate) fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 1.0 {
        format!("{ms:.3} ms")
    } else if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

pub(crate) fn us(duration: Duration) -> String {
    format!("{:.1} µs", duration.as_secs_f64() * 1e6)
}

/// `one` in units of `other`.
pub(crate) fn ratio(one: Duration, other: Duration) -> String {
    format!("{:.2} ×", one.as_secs_f64() / other.as_secs_f64())
}

/// The memory of a process that is in RAM, in MiB.
pub(crate) fn resident_mib(process: u32) -> f64 {
    memory_mib(process, "VmRSS:")
}

/// The most memory of a process that was in RAM so far, in MiB.
pub(crate) fn peak_mib(process: u32) -> f64 {
    memory_mib(process, "VmHWM:")
}

fn memory_mib(process: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .expect("Linux says it in kB");
    kib / 1024.0
}

/// User and system time of a command, averaged over many runs.
pub(crate) fn processor_time(command: impl Fn() -> Command) -> Duration {
    const RUNS: u32 = 200;
    let before = children_time();
    for _ in 0..RUNS {
        let output = command().output().expect("run a program");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    (children_time() - before) / RUNS
}

/// User and system time of all children that have ended.
fn children_time() -> Duration {
    stat_time("self", 16)
}

/// User and system time of a process so far.
pub(crate) fn process_time(process: u32) -> Duration {
    stat_time(&process.to_string(), 14)
}

/// Two fields of /proc/PID/stat (proc(5)), counted from one. The kernel counts nanoseconds and shows hundredths of a
/// second, so only much work together tells.
fn stat_time(process: &str, first: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    // The second field, a name in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let ticks: u64 = fields
        .split(' ')
        .skip(first - 3)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    Duration::from_millis(ticks * 10)
}
