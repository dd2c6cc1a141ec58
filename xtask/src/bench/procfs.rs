//! What the kernel knows of a process and its descendants: CPU time and memory.
//!
//! In:    `/proc`.      Out: sums over a process tree.
//! Owner: `child`.
//! Not here: system-wide figures.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// One line of `/proc/<pid>/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// utime + stime, in clock ticks.
    ticks: u64,
    /// When it was started: tells a process from a later one with the same id.
    started: u64,
}

/// A process by id and start, so that a reused id is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    started: u64,
}

impl Process {
    /// Whether this very process is still there.
    pub fn exists(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }
}

/// `root` and all its descendants.
pub fn tree(root: u32) -> Vec<Process> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let all: BTreeMap<u32, Stat> = pids.filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let mut found = Vec::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if let Some(stat) = all.get(&pid) {
            found.push(Process { pid, started: stat.started });
            open.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid));
        }
    }
    found
}

/// CPU time that the tree has used, user and system; exact to one clock tick (10 ms).
pub fn cpu(root: u32) -> Duration {
    let ticks: u64 = tree(root).iter().filter_map(|process| Some(stat(process.pid)?.ticks)).sum();
    Duration::from_micros(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}

/// Resident memory of the tree in bytes; pages that processes share are counted in each, as `ps` counts them.
pub fn resident(root: u32) -> u64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    tree(root).iter().filter_map(|process| of(process.pid)).sum::<u64>() * 1024
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<Stat> {
    // The name is in brackets and may hold anything; fields are counted from behind it (the third of the manual is our first).
    let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat { parent: field(4)?.try_into().ok()?, ticks: field(14)? + field(15)?, started: field(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_behind_the_name() {
        let line = "42 (a (b) c) S 7 42 42 0 -1 4194304 100 0 0 0 31 11 5 6 20 0 1 0 9000 1000 200";
        assert_eq!(parse_stat(line), Some(Stat { parent: 7, ticks: 42, started: 9000 }));
    }

    #[test]
    fn this_process_is_in_its_own_tree_and_in_memory() {
        let me = std::process::id();
        assert!(tree(me).iter().any(|process| process.pid == me && process.exists()));
        assert!(resident(me) > 100_000);
    }
}
