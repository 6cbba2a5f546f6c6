//! The server that everybody forwards to: knotd, or nsd where there is no knotd, with the zones of all workloads.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ask::{self, wait_for};
use crate::machine::{self, Cores, Dir, find, free_addr, pinned, says};
use crate::peers::version;

/// Names that are asked over and over, as many as a busy node uses.
pub const NAMES: usize = 1024;

/// Lifetimes outlast every run.
const HEAD: &str = "$TTL 86400\n@ SOA ns admin 1 3600 600 604800 3600\n  NS ns\nns A 192.0.2.53\n";

/// A service of the cluster.
pub fn service(number: usize) -> String {
    format!("service-{number}.shop.svc.cluster.local")
}

/// A name outside.
pub fn host(number: usize) -> String {
    format!("host-{number}.example.com")
}

/// A name under a wildcard: each exists, and each is another.
pub fn unique(series: &str, number: usize) -> String {
    format!("{series}-{number}.each.example.com")
}

fn zones() -> [(&'static str, String); 3] {
    let (mut cluster, mut external) = (HEAD.to_string(), format!("{HEAD}*.each A 192.0.2.1\n"));
    for number in 0..NAMES {
        let (high, low) = (number / 250, number % 250);
        writeln!(cluster, "service-{number}.shop.svc A 10.96.{high}.{low}").unwrap();
        writeln!(external, "host-{number} A 198.51.{high}.{low}").unwrap();
    }
    [("cluster.local", cluster), ("example.com", external), ("node.internal", HEAD.into())]
}

/// The running server.
pub struct Authority {
    child: Child,
    pub addr: SocketAddr,
    pub name: &'static str,
    pub version: String,
    _dir: Dir,
}

impl Authority {
    /// Starts the first of them that is installed.
    pub fn start(cores: &Cores) -> Option<Authority> {
        let (dir, addr) = (Dir::new("authority"), free_addr());
        for (zone, text) in zones() {
            dir.file(&format!("{zone}.zone"), &text);
        }
        let (name, says, mut command) = match (find("knotd"), find("nsd")) {
            (Some(knotd), _) => {
                ("knotd", says(&knotd, &["--version"]), with_knotd(&knotd, &dir, addr, cores))
            }
            (None, Some(nsd)) => ("nsd", says(&nsd, &["-v"]), with_nsd(&nsd, &dir, addr, cores)),
            (None, None) => return None,
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let answers = || ask::udp(addr, &ask::query(&service(0))).is_some_and(|reply| reply[3] & 15 == 0);
        wait_for(name, || {
            assert!(child.try_wait().unwrap().is_none(), "{name} ended");
            answers()
        });
        Some(Authority { child, addr, name, version: version(&says), _dir: dir })
    }

    /// CPU time so far: it stands still while answers come out of a cache.
    pub fn cpu(&self) -> std::time::Duration {
        machine::cpu(self.child.id())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        machine::end(&mut self.child);
    }
}

fn with_knotd(knotd: &Path, dir: &Dir, addr: SocketAddr, cores: &Cores) -> Command {
    let (path, ip, port) = (dir.0.display(), addr.ip(), addr.port());
    let mut conf = format!(
        "server:
    rundir: \"{path}\"
    listen: {ip}@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: \"{path}\"
log:
  - target: stderr
    any: error
zone:
"
    );
    for (zone, _) in zones() {
        let file = format!("    file: \"{path}/{zone}.zone\"");
        writeln!(conf, "  - domain: {zone}\n{file}\n    zonefile-sync: -1\n    journal-content: none")
            .unwrap();
    }
    let mut command = pinned(&cores.others, knotd);
    command.arg("-c").arg(dir.file("knot.conf", &conf));
    command
}

fn with_nsd(nsd: &Path, dir: &Dir, addr: SocketAddr, cores: &Cores) -> Command {
    let (path, ip, port) = (dir.0.display(), addr.ip(), addr.port());
    let mut conf = format!(
        "server:
  ip-address: {ip}@{port}
  zonesdir: \"{path}\"
  pidfile: \"{path}/pid\"
  xfrdfile: \"{path}/xfrd\"
  zonelistfile: \"{path}/list\"
  database: \"\"
  username: \"\"
  server-count: 1
  rrl-ratelimit: 0
  minimal-responses: yes
remote-control:
  control-enable: no
"
    );
    for (zone, _) in zones() {
        writeln!(conf, "zone:\n  name: {zone}\n  zonefile: {zone}.zone").unwrap();
    }
    let mut command = pinned(&cores.others, nsd);
    command.arg("-d").arg("-c").arg(dir.file("nsd.conf", &conf));
    command
}
