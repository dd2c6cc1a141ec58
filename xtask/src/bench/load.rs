//! Load: wrk for HTTP/1.1, h2load for HTTP/2, pinned and bounded in time.
//!
//! In:    a port, a path, how long.      Out: how many requests were answered, how many were not.
//! Owner: `proxy`.
//! Invariant: a run with a failed request is an error: a proxy that refuses is fast.
//! Not here: CPU time (`child`).

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::child::LOAD_CPU;

/// What one run of a load generator saw.
#[derive(Debug, PartialEq)]
pub struct Load {
    /// Requests answered with 2xx.
    pub requests: u64,
    /// The same in a second.
    pub rate: f64,
}

/// HTTP/1.1 with keep-alive, closed loop.
pub fn wrk(port: u16, path: &str, connections: u32, seconds: u32) -> Result<Load> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let args = ["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "5s", &url];
    parse_wrk(&pinned("wrk", &args, seconds)?)
}

/// HTTP/2 by prior knowledge, closed loop.
pub fn h2load(port: u16, path: &str, connections: u32, streams: u32, seconds: u32) -> Result<Load> {
    let url = format!("http://127.0.0.1:{port}{path}");
    let (clients, streams, time) =
        (format!("-c{connections}"), format!("-m{streams}"), format!("-D{seconds}"));
    parse_h2load(&pinned("h2load", &["-t1", &clients, &streams, &time, &url], seconds)?)
}

/// HTTP/1.1 with keep-alive at a steady pace, open loop: the median latency in microseconds.
pub fn paced(port: u16, path: &str, connections: u32, per_second: u32, seconds: u32) -> Result<f64> {
    let log = std::env::temp_dir().join(format!("paced-{}-{port}.log", std::process::id()));
    let url = format!("http://127.0.0.1:{port}{path}");
    let (clients, pace) = (format!("-c{connections}"), format!("--rps={}", per_second / connections));
    let (time, log_file) = (format!("-D{seconds}"), format!("--log-file={}", log.display()));
    let ran = pinned("h2load", &["--h1", "-t1", &clients, &pace, &time, &log_file, &url], seconds);
    let text = std::fs::read_to_string(&log);
    let _ = std::fs::remove_file(&log);
    check_paced(&ran?)?;
    parse_paced(&text?)
}

/// h2load takes an answer without a reason phrase (HAProxy's, from HTTP/2) for one without a status: only what it calls an error or a
/// status of failure counts here.
fn check_paced(text: &str) -> Result<()> {
    for (start, bad) in
        [("requests: ", [" errored", " timeout", " xx"]), ("status codes: ", [" 3xx", " 4xx", " 5xx"])]
    {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(start))
            .context("h2load said nothing of its requests")?;
        let is_bad =
            |part: &&str| bad.iter().any(|bad| part.ends_with(bad)) && first_number(part) != Some(0.0);
        ensure!(!line.split(", ").any(|part| is_bad(&part)), "h2load: {line}");
    }
    Ok(())
}

/// h2load's log: start, status and microseconds of each request.
fn parse_paced(text: &str) -> Result<f64> {
    let took = |line: &str| line.split_whitespace().nth(2)?.parse::<f64>().ok();
    let mut all: Vec<f64> = text.lines().filter_map(took).collect();
    ensure!(all.len() >= 100, "h2load logged only {} requests", all.len());
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}

fn pinned(program: &str, args: &[&str], seconds: u32) -> Result<String> {
    let bound = format!("{}s", seconds + 30);
    let output = Command::new("timeout")
        .args(["-k", "1", &bound, "taskset", "-c", &LOAD_CPU.to_string(), program])
        .args(args)
        .output()
        .with_context(|| format!("running {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program}: {}\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn parse_wrk(text: &str) -> Result<Load> {
    for trouble in ["Non-2xx", "Socket errors"] {
        if let Some(line) = text.lines().find(|line| line.contains(trouble)) {
            bail!("wrk: {}", line.trim());
        }
    }
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(first_number);
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).and_then(first_number);
    let (Some(requests), Some(rate)) = (requests, rate) else {
        bail!("wrk said what is not understood:\n{text}")
    };
    Ok(Load { requests: requests as u64, rate })
}

fn parse_h2load(text: &str) -> Result<Load> {
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start));
    let of =
        |line: &str, what: &str| line.split(", ").find(|part| part.ends_with(what)).and_then(first_number);
    let (Some(requests), Some(codes), Some(finished)) =
        (line("requests: "), line("status codes: "), line("finished in "))
    else {
        bail!("h2load said what is not understood:\n{text}")
    };
    let bad: f64 = [" failed", " errored", " timeout"].iter().filter_map(|what| of(requests, what)).sum();
    ensure!(bad == 0.0, "h2load: {requests}");
    let (Some(good), Some(rate)) = (of(codes, " 2xx"), of(finished, " req/s")) else {
        bail!("h2load said what is not understood:\n{text}")
    };
    let rest: f64 = [" 3xx", " 4xx", " 5xx"].iter().filter_map(|what| of(codes, what)).sum();
    ensure!(rest == 0.0, "h2load: {codes}");
    Ok(Load { requests: good as u64, rate })
}

fn first_number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says() {
        let text = "Running 5s test\n  1 threads and 64 connections\n  152034 requests in 5.02s, 36.5MB read\n\
                    Requests/sec:  30285.66\nTransfer/sec:      7.2MB\n";
        assert_eq!(parse_wrk(text).unwrap(), Load { requests: 152_034, rate: 30_285.66 });
        let bad = format!("{text}  Non-2xx or 3xx responses: 3\n");
        assert_eq!(parse_wrk(&bad).unwrap_err().to_string(), "wrk: Non-2xx or 3xx responses: 3");
        assert!(parse_wrk("unable to connect").is_err());
    }

    #[test]
    fn a_median_of_h2loads_log() {
        let text: String = (0..101).map(|n| format!("1700000000\t200\t{}\n", 100 + n)).collect();
        assert_eq!(parse_paced(&text).unwrap(), 150.0);
        assert!(parse_paced("1 200 3").is_err());
    }

    #[test]
    fn what_h2load_says() {
        let text = "finished in 5.00s, 61000.20 req/s, 9.1MB/s\n\
                    requests: 305001 total, 305257 started, 305001 done, 305001 succeeded, 0 failed, 0 errored, 0 timeout\n\
                    status codes: 305001 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(parse_h2load(text).unwrap(), Load { requests: 305_001, rate: 61_000.20 });
        assert!(parse_h2load(&text.replace("0 errored", "7 errored")).is_err());
        assert!(parse_h2load(&text.replace("0 5xx", "7 5xx")).is_err());
    }
}
