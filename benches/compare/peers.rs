//! The peers and how each is set up: it caches, forwards everything to the authority, logs nothing, has one thread,
//! a cache that no workload fills, and no limit of rate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use crate::machine::{Dir, find, free_addr, says};

/// A server that others run for the same purpose.
pub struct Peer {
    /// As people call it; `NODENS_COMPARE_NAME` is the path of another one than the installed.
    pub name: &'static str,
    /// Its program.
    pub tool: &'static str,
    /// Makes it say its version.
    pub version: &'static [&'static str],
    /// Writes its configuration into a folder and adds its arguments.
    pub arguments: fn(&mut Command, &Dir, SocketAddr, SocketAddr),
}

impl Peer {
    /// Its program and version, if it is installed. A path in the environment comes first: a newer one, say, built from source.
    pub fn installed(&self) -> Option<(PathBuf, String)> {
        let variable = format!("NODENS_COMPARE_{}", self.name.to_uppercase().replace('-', "_"));
        let named = std::env::var_os(&variable).map(PathBuf::from);
        if let Some(program) = &named {
            assert!(program.is_file(), "{variable}: there is no {}", program.display());
        }
        let program = named.or_else(|| find(self.tool))?;
        let version = version(&says(&program, self.version));
        Some((program, version))
    }
}

/// The first thing that looks like a version: digits, a dot, digits.
pub fn version(text: &str) -> String {
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        let is_number =
            |part: Option<&str>| part.is_some_and(|part| part.starts_with(|c: char| c.is_ascii_digit()));
        is_number(parts.next()) && is_number(parts.next())
    };
    let words = text.split(|c: char| c.is_whitespace() || ",()-".contains(c));
    let words = words.map(|word| word.trim_start_matches(['v', 'V']));
    words.into_iter().find(is_version).unwrap_or("?").to_string()
}

pub const PEERS: &[Peer] = &[
    Peer { name: "unbound", tool: "unbound", version: &["-V"], arguments: unbound },
    Peer { name: "dnsdist", tool: "dnsdist", version: &["--version"], arguments: dnsdist },
    Peer { name: "pdns-recursor", tool: "pdns_recursor", version: &["--version"], arguments: recursor },
    Peer { name: "knot-resolver", tool: "kresd", version: &["--version"], arguments: kresd },
    Peer { name: "named", tool: "named", version: &["-v"], arguments: named },
    Peer { name: "dnsmasq", tool: "dnsmasq", version: &["--version"], arguments: dnsmasq },
    Peer { name: "coredns", tool: "coredns", version: &["-version"], arguments: coredns },
    Peer { name: "node-cache", tool: "node-cache", version: &["-version"], arguments: node_cache },
];

fn unbound(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    let conf = format!(
        "server:
  interface: {}@{}
  directory: \"{}\"
  pidfile: \"\"
  chroot: \"\"
  username: \"\"
  use-syslog: no
  verbosity: 0
  do-daemonize: no
  do-ip6: no
  do-not-query-localhost: no
  module-config: \"iterator\"
  num-threads: 1
  so-reuseport: no
  msg-cache-size: 512m
  rrset-cache-size: 512m
  incoming-num-tcp: 100
  outgoing-range: 4096
  num-queries-per-thread: 2048
  minimal-responses: yes
remote-control:
  control-enable: no
forward-zone:
  name: \".\"
  forward-addr: {}@{}
",
        own.ip(),
        own.port(),
        dir.0.display(),
        authority.ip(),
        authority.port()
    );
    command.arg("-d").arg("-c").arg(dir.file("unbound.conf", &conf));
}

/// Its packet cache in front of the authority; it has no other.
fn dnsdist(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    let conf = format!(
        "setLocal('{own}')
setACL('127.0.0.0/8')
setSecurityPollSuffix('')
newServer({{address='{authority}', healthCheckMode='up', sockets=8}})
getPool(''):setCache(newPacketCache(1000000, {{maxTTL=86400, maxNegativeTTL=3600, numberOfShards=1}}))
setMaxTCPClientThreads(1)
"
    );
    command.args(["--supervised", "--disable-syslog", "-C"]).arg(dir.file("dnsdist.conf", &conf));
}

fn recursor(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    let conf = format!(
        "local-address={}
local-port={}
forward-zones-recurse=.={authority}
dont-query=
dnssec=off
threads=1
pdns-distributes-queries=no
reuseport=no
socket-dir={}
disable-syslog=yes
loglevel=0
quiet=yes
hint-file=no
security-poll-suffix=
max-cache-entries=1000000
max-packetcache-entries=1000000
max-cache-ttl=86400
max-negative-ttl=3600
packetcache-ttl=86400
max-tcp-clients=200
max-mthreads=4096
daemon=no
",
        own.ip(),
        own.port(),
        dir.0.display()
    );
    dir.file("recursor.conf", &conf);
    command.arg(format!("--config-dir={}", dir.0.display()));
}

fn kresd(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    let conf = format!(
        "net.listen('{}', {}, {{ kind = 'dns' }})
net.ipv6 = false
log_level('crit')
modules.unload('ta_update')
modules.unload('ta_signal_query')
modules.unload('priming')
modules.unload('detect_time_skew')
modules.unload('detect_time_jump')
trust_anchors.remove('.')
cache.size = 512*MB
policy.add(policy.all(policy.FORWARD('{}@{}')))
",
        own.ip(),
        own.port(),
        authority.ip(),
        authority.port()
    );
    command.arg("-n").arg("-c").arg(dir.file("kresd.conf", &conf)).arg(&dir.0);
}

fn named(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    let path = dir.0.display();
    let conf = format!(
        "options {{
  directory \"{path}\";
  managed-keys-directory \"{path}\";
  pid-file none;
  session-keyfile none;
  listen-on port {} {{ {}; }};
  listen-on-v6 {{ none; }};
  recursion yes;
  allow-query {{ any; }};
  allow-recursion {{ any; }};
  forward only;
  forwarders {{ {} port {}; }};
  dnssec-validation no;
  empty-zones-enable no;
  minimal-responses yes;
  max-cache-size 512m;
  max-cache-ttl 86400;
  max-ncache-ttl 3600;
  recursive-clients 10000;
  fetches-per-server 0;
  tcp-clients 200;
  querylog no;
  notify no;
}};
controls {{ }};
logging {{ category default {{ null; }}; }};
",
        own.port(),
        own.ip(),
        authority.ip(),
        authority.port()
    );
    command.args(["-f", "-n", "1", "-c"]).arg(dir.file("named.conf", &conf));
}

fn dnsmasq(command: &mut Command, _: &Dir, own: SocketAddr, authority: SocketAddr) {
    command.args(["-k", "-C", "/dev/null", "--no-resolv", "--no-hosts", "--no-poll", "--bind-interfaces"]);
    command.args(["--user=root", "--pid-file=", "--log-facility=-", "--cache-size=300000"]);
    command.arg("--dns-forward-max=10000");
    command.arg(format!("--server={}#{}", authority.ip(), authority.port()));
    command.args([format!("--listen-address={}", own.ip()), format!("--port={}", own.port())]);
}

fn corefile(own: SocketAddr, authority: SocketAddr) -> String {
    format!(
        ".:{} {{
    bind {}
    cache 86400 {{
        success 300000 86400
        denial 300000 3600
    }}
    forward . {authority}
}}
",
        own.port(),
        own.ip()
    )
}

fn coredns(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    command.arg("-conf").arg(dir.file("Corefile", &corefile(own, authority)));
}

/// NodeLocal DNSCache without its interface and packet-filter rules: only the way of a query.
fn node_cache(command: &mut Command, dir: &Dir, own: SocketAddr, authority: SocketAddr) {
    command.args(["-setupinterface=false", "-setupiptables=false", "-skipteardown=true"]);
    command.args(["-localip", &own.ip().to_string(), "-health-port", &free_addr().port().to_string()]);
    command.args(["-metrics-listen-address", &free_addr().to_string()]);
    command.arg("-conf").arg(dir.file("Corefile", &corefile(own, authority)));
}
