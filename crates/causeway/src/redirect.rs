//! Has the kernel redirect what leaves this network namespace to the sidecar, and undoes it.
//!
//! In:    the sidecar's addresses.      Out: one nftables table, there or not there as a whole; a route to virtual addresses where
//! the namespace has none.
//! Owner: a sidecar in transparent mode; dropping a [`Redirect`] undoes it.
//! Invariant: what the sidecar itself sends bears a mark and is left alone, so nothing goes in a circle; what a sidecar that died left
//! behind is replaced by the next one, and until then nothing of the app leaves past it.
//! Not here: what becomes of redirected connections (`causeway-proxy::transparent`), names (`dns`).

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use causeway_proxy::VIRTUAL_NET;

use crate::dns::Ports;

/// The mark on what a sidecar sends: "cw" and 1, which nobody else is known to use.
pub(crate) const MARK: u32 = 0x6377_0001;
/// Tables of ours begin so; the id of the process and when it began follow.
const TABLE: &str = "causeway_";
/// Just before other rules that change destinations, which are at -100 (such as those that container engines make for their DNS).
const PRIORITY: &str = "-101";
/// Where programs of the system may be that a user's path does not name.
const SYSTEM_PATH: &str = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin";

/// What is redirected to where: for each family of addresses that the machine has.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) dns: Vec<Ports>,
}

/// A redirection that is in force.
#[derive(Debug)]
pub(crate) struct Redirect {
    table: String,
    has_route: bool,
}

impl Redirect {
    /// Puts it in force.
    ///
    /// # Errors
    /// With a code: a program or a permission is missing, or another sidecar is there already. Then nothing has changed.
    pub(crate) fn install(wanted: &Wanted) -> Result<Redirect> {
        let stale = others()?;
        let table = own_table()?;
        nft(&rules(&table, &stale, wanted))?;
        // From here on dropping it undoes it.
        let mut redirect = Redirect { table, has_route: false };
        redirect.has_route = ensure_route()?;
        tracing::info!(
            table = redirect.table,
            "what leaves this network namespace is redirected to the sidecar"
        );
        Ok(redirect)
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        if let Err(error) = nft(&format!("delete table inet {}\n", self.table)) {
            tracing::error!(
                error = format!("{error:#}"),
                table = self.table,
                "the redirection stays: delete the table by hand"
            );
        }
        if self.has_route {
            // When it is gone already that is as well.
            let _ = program("ip").args(["-4", "route", "del", VIRTUAL_NET, "dev", "lo"]).output();
        }
    }
}

/// Whether this process may do it at all; said before anything is started.
///
/// # Errors
/// With a code, which program or permission is missing.
pub(crate) async fn check() -> Result<()> {
    if !cfg!(target_os = "linux") {
        bail!("--transparent needs Linux and nftables: use --upstream or HTTP_PROXY here [CW-2013]");
    }
    let somewhere = (Ipv4Addr::LOCALHOST, 9).into();
    match causeway_base::net::Net::tcp_marked(MARK).datagrams(somewhere).await {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!(
                "--transparent needs the capability CAP_NET_ADMIN in this network namespace, which this process has not [CW-2013]"
            )
        }
        Err(error) => return Err(anyhow!(error).context("cannot mark packets [CW-2013]")),
        Ok(_) => {}
    }
    list().map(drop)
}

/// The whole of it: one transaction, so that it is there or not.
fn rules(table: &str, stale: &[String], wanted: &Wanted) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{words}");
    };
    for stale in stale {
        line(format_args!("delete table inet {stale}"));
    }
    line(format_args!("table inet {table} {{"));
    line(format_args!("  chain output {{"));
    line(format_args!("    type nat hook output priority {PRIORITY}; policy accept;"));
    line(format_args!("    meta mark {MARK:#x} return"));
    for Ports { udp, tcp } in &wanted.dns {
        let family = family(udp);
        line(format_args!("    meta nfproto {family} udp dport 53 redirect to :{}", udp.port()));
        line(format_args!("    meta nfproto {family} tcp dport 53 redirect to :{}", tcp.port()));
    }
    for to in wanted.tcp.iter().filter(|to| to.is_ipv4()) {
        line(format_args!("    ip daddr {VIRTUAL_NET} meta l4proto tcp redirect to :{}", to.port()));
    }
    // What stays on this machine is not the mesh's: the app's own loopback, its health checks, the sidecar's doors.
    line(format_args!("    oif lo return"));
    for to in &wanted.tcp {
        line(format_args!("    meta nfproto {} meta l4proto tcp redirect to :{}", family(to), to.port()));
    }
    line(format_args!("  }}\n}}"));
    text
}

fn family(address: &SocketAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

// === tables ===

/// The name of this process's table.
fn own_table() -> Result<String> {
    let pid = std::process::id();
    let began = began(pid).context("cannot read /proc/self/stat")?;
    Ok(format!("{TABLE}{pid}_{began}"))
}

/// Tables of sidecars that are gone.
///
/// # Errors
/// When one is not gone.
fn others() -> Result<Vec<String>> {
    let tables = list()?;
    let mut stale = Vec::new();
    for table in tables {
        let Some((pid, start)) = table.strip_prefix(TABLE).and_then(|rest| rest.split_once('_')) else {
            continue;
        };
        let (Ok(pid), Ok(start)) = (pid.parse::<u32>(), start.parse::<u64>()) else { continue };
        if pid != std::process::id() && began(pid) == Some(start) {
            bail!(
                "another sidecar (process {pid}) redirects the calls of this network namespace already: one namespace has one app in \
                 transparent mode [CW-2014]"
            );
        }
        stale.push(table);
    }
    Ok(stale)
}

/// When a process began, in ticks since the machine did; none when there is no such process.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is a name in parentheses, which may hold blanks and parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// All tables of this namespace that may be ours.
fn list() -> Result<Vec<String>> {
    let text = nft_output("list tables inet\n")?;
    let tables = text.lines().filter_map(|line| line.trim().strip_prefix("table inet "));
    Ok(tables.filter(|table| table.starts_with(TABLE)).map(str::to_owned).collect())
}

// === programs ===

fn nft(input: &str) -> Result<()> {
    nft_output(input).map(drop)
}

fn nft_output(input: &str) -> Result<String> {
    let run = || -> io::Result<std::process::Output> {
        let mut child = program("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read it says why in its output.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow!("--transparent needs the program nft (on Debian: apt-get install nftables) [CW-2013]")
        }
        _ => anyhow!(error).context("cannot run nft [CW-2013]"),
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        bail!("nft refuses to redirect the app's calls: {said} [CW-2013]");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:{SYSTEM_PATH}"));
    command
}

// === the route to virtual addresses ===

/// Sees to it that a connection to a virtual address has a route, without which it fails before it could be redirected. True when
/// it is one of ours: added now, or left behind by a sidecar that was killed.
fn ensure_route() -> Result<bool> {
    if is_routed()? {
        let shown = program("ip").args(["-4", "route", "show", "exact", VIRTUAL_NET]).output();
        return Ok(shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains("dev lo")));
    }
    let added = program("ip").args(["-4", "route", "add", VIRTUAL_NET, "dev", "lo"]).output();
    let why = match added {
        Ok(output) if output.status.success() => return Ok(true),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    bail!(
        "there is no route to {VIRTUAL_NET}, where services have their addresses, and none can be added (ip route add {VIRTUAL_NET} \
         dev lo: {why}): give the namespace a default route [CW-2013]"
    )
}

/// Asks the kernel by connecting a datagram socket, which sends nothing.
fn is_routed() -> io::Result<bool> {
    let net = VIRTUAL_NET.split('/').next().and_then(|net| net.parse().ok());
    let [a, b, c, _] = net.unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(socket.connect((Ipv4Addr::new(a, b, c, 1), 9)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_leave_our_own_and_what_stays_here_alone() {
        let ports = |udp: &str, tcp: &str| Ports { udp: udp.parse().unwrap(), tcp: tcp.parse().unwrap() };
        let wanted = Wanted {
            tcp: vec!["127.0.0.1:15006".parse().unwrap(), "[::1]:15007".parse().unwrap()],
            dns: vec![ports("127.0.0.1:1", "127.0.0.1:2"), ports("[::1]:3", "[::1]:4")],
        };
        let expected = "\
delete table inet causeway_9_8
table inet causeway_1_2 {
  chain output {
    type nat hook output priority -101; policy accept;
    meta mark 0x63770001 return
    meta nfproto ipv4 udp dport 53 redirect to :1
    meta nfproto ipv4 tcp dport 53 redirect to :2
    meta nfproto ipv6 udp dport 53 redirect to :3
    meta nfproto ipv6 tcp dport 53 redirect to :4
    ip daddr 240.240.0.0/16 meta l4proto tcp redirect to :15006
    oif lo return
    meta nfproto ipv4 meta l4proto tcp redirect to :15006
    meta nfproto ipv6 meta l4proto tcp redirect to :15007
  }
}
";
        assert_eq!(rules("causeway_1_2", &["causeway_9_8".into()], &wanted), expected);
    }

    #[test]
    fn a_process_is_known_by_its_id_and_its_beginning() {
        assert!(began(std::process::id()).is_some());
        assert_eq!(began(u32::MAX), None);
        assert!(own_table().unwrap().starts_with(&format!("{TABLE}{}_", std::process::id())));
    }
}
