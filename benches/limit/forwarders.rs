//! Who is measured: nodens as it comes on a host whose `resolv.conf` names the resolver, and peers set up as in the comparison.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::ask;
use crate::machine::{self, Dir, find, free_addr};
use crate::peers::{PEERS, Peer};

pub struct Forwarder {
    pub name: &'static str,
    pub version: String,
    program: PathBuf,
    peer: Option<&'static Peer>,
}

impl Forwarder {
    pub fn is_ours(&self) -> bool {
        self.peer.is_none()
    }
}

/// nodens, and the wanted peers that are installed; and the names of those that are not.
pub fn all(wanted: &[&str]) -> (Vec<Forwarder>, Vec<&'static str>) {
    let mut there = vec![Forwarder {
        name: "nodens",
        version: env!("CARGO_PKG_VERSION").into(),
        program: env!("CARGO_BIN_EXE_nodens").into(),
        peer: None,
    }];
    let mut absent = Vec::new();
    for peer in wanted.iter().filter_map(|name| PEERS.iter().find(|peer| peer.name == *name)) {
        match peer.installed() {
            Some((program, version)) => {
                there.push(Forwarder { name: peer.name, version, program, peer: Some(peer) });
            }
            None => absent.push(peer.name),
        }
    }
    (there, absent)
}

/// One of them at work.
pub struct Running {
    pub addr: SocketAddr,
    child: Child,
    _dir: Dir,
}

impl Running {
    /// Starts it in front of a resolver and waits until it answers.
    ///
    /// # Errors
    /// What it said instead.
    pub fn start(forwarder: &Forwarder, resolver: SocketAddr) -> Result<Running, String> {
        let (dir, addr) = (Dir::new(forwarder.name), free_addr());
        let mut command = match forwarder.peer {
            None => nodens(&forwarder.program, &dir, addr, resolver),
            Some(peer) => {
                let mut command = Command::new(&forwarder.program);
                (peer.arguments)(&mut command, &dir, addr, resolver);
                command
            }
        };
        let log = dir.0.join("log");
        let file = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let mut running = Running { addr, child: command.spawn().unwrap(), _dir: dir };
        let mut has_ended = false;
        let came = ask::comes_true(|| {
            has_ended = running.child.try_wait().unwrap().is_some();
            has_ended || ask::answers(addr, [127, 0, 6, 3].into(), "ready.example.com")
        });
        if came && !has_ended {
            return Ok(running);
        }
        Err(std::fs::read_to_string(&log).unwrap_or_default().trim().to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        machine::end(&mut self.child);
    }
}

/// Nothing is configured but where it listens; the host's `resolv.conf` is one that names the resolver.
fn nodens(program: &std::path::Path, dir: &Dir, addr: SocketAddr, resolver: SocketAddr) -> Command {
    let resolv_conf = dir.file("resolv.conf", &format!("nameserver {}\n", resolver.ip()));
    let mut command = Command::new(find("unshare").unwrap());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("NODENS_")) {
        command.env_remove(name);
    }
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {} serve --listen {addr} --admin {}",
        resolv_conf.display(),
        program.display(),
        free_addr()
    );
    command.args(["--mount", "sh", "-c", &script]);
    command
}
