//! A resolver that takes so many packets a second: knotd in a network namespace, and the kernel's own limiter before it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::ask;
use crate::machine::{self, Dir, find};

/// Every name exists. What the polite client asks for lives as long as the cluster DNS lets names live by default.
const ZONE: &str = "$TTL 300\n@ SOA ns admin 1 3600 600 604800 60\n@ NS ns\nns A 192.0.2.1\n* A 192.0.2.9\n*.short 5 A 192.0.2.10\n";
/// Packets that the limiter takes at once after a pause.
const BURST: u32 = 5;

pub struct Limiter {
    namespace: String,
    own: Ipv4Addr,
    knotd: Option<Child>,
    dir: Dir,
}

impl Limiter {
    /// One with this limit, packets a second.
    pub fn new(limit: u32) -> Limiter {
        // The kernel takes its time to take an interface away: each has a name and a pair of addresses (RFC 3021) of its own, of
        // 198.18.0.0/15, which is for tests (RFC 2544).
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let node = Ipv4Addr::from(0xc612_0000 | (pid & 0x3ff) << 7 | (number & 63) << 1);
        let own = Ipv4Addr::from(u32::from(node) + 1);
        let namespace = format!("nodens-limit-{pid}-{number}");
        let mut limiter = Limiter { namespace, own, knotd: None, dir: Dir::new("limiter") };
        let (namespace, outside, inside) =
            (&limiter.namespace, format!("nl{pid}a{number}"), format!("nl{pid}b{number}"));
        for step in [
            format!("netns add {namespace}"),
            format!("link add {outside} type veth peer name {inside} netns {namespace}"),
            format!("addr add {node}/31 dev {outside}"),
            format!("link set {outside} up"),
            format!("-n {namespace} addr add {own}/31 dev {inside}"),
            format!("-n {namespace} link set {inside} up"),
            format!("-n {namespace} link set lo up"),
        ] {
            let done = Command::new(find("ip").unwrap()).args(step.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {step}: {}", String::from_utf8_lossy(&done.stderr));
        }
        limiter.nft(
            "add table inet resolver; add counter inet resolver came; add counter inet resolver dropped; \
             add chain inet resolver gate; \
             add chain inet resolver door { type filter hook input priority 0; }; \
             add rule inet resolver door udp dport 53 counter name came jump gate",
        );
        limiter.knotd = Some(limiter.start_knotd());
        ask::wait_for("knotd", || ask::answers(limiter.addr(), [0, 0, 0, 0].into(), "ready.example.com"));
        limiter.set(limit);
        limiter
    }

    /// Replaces the limit, in one step.
    pub fn set(&self, limit: u32) {
        self.nft(&format!(
            "flush chain inet resolver gate; \
             add rule inet resolver gate limit rate over {limit}/second burst {BURST} packets counter name dropped drop"
        ));
    }

    /// Packets that came and packets that were dropped, since the start.
    pub fn counts(&self) -> (u64, u64) {
        let said = self.exec("nft").args(["-j", "list", "counters"]).output().unwrap().stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        let counters = said["nftables"].as_array().unwrap().iter().filter_map(|one| one.get("counter"));
        let of =
            |name| counters.clone().find(|one| one["name"] == name).unwrap()["packets"].as_u64().unwrap();
        (of("came"), of("dropped"))
    }

    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((self.own, 53))
    }

    /// A program inside.
    pub fn exec(&self, program: &str) -> Command {
        let mut command = Command::new(find("ip").unwrap());
        command.args(["netns", "exec", &self.namespace]).arg(find(program).unwrap_or(program.into()));
        command
    }

    fn nft(&self, rules: &str) {
        let done = self.exec("nft").arg(rules).output().unwrap();
        assert!(done.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn start_knotd(&self) -> Child {
        let (path, own) = (self.dir.0.display(), self.own);
        let zone = self.dir.file("example.com.zone", ZONE);
        let conf = format!(
            "server:
    rundir: \"{path}\"
    listen: {own}@53
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: \"{path}\"
log:
  - target: stderr
    any: error
zone:
  - domain: example.com
    file: \"{}\"
    zonefile-sync: -1
    journal-content: none
",
            zone.display()
        );
        let conf = self.dir.file("knot.conf", &conf);
        self.exec("knotd").arg("-c").arg(conf).stdin(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Some(knotd) = &mut self.knotd {
            machine::end(knotd);
        }
        let _ = Command::new(find("ip").unwrap()).args(["netns", "del", &self.namespace]).status();
    }
}
