//! Who is compared: the two echoes, nodens, and every peer that is installed, each alone on its core in front of the authority.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::ask::{self, comes_true};
use crate::authority::service;
use crate::echo::{self, Template};
use crate::machine::{self, Cores, Dir, free_addr, pinned};
use crate::peers::{PEERS, Peer};

/// What a contender is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The least that an answer can cost.
    Floor,
    /// What the promise is measured against.
    Echo,
    /// nodens.
    Ours,
    /// What it is compared with.
    Peer,
}

/// One of them, installed.
#[derive(Clone)]
pub struct Contender {
    pub name: &'static str,
    pub role: Role,
    pub version: String,
    program: PathBuf,
    peer: Option<&'static Peer>,
}

/// Where one runs, and in front of what.
pub struct Place<'a> {
    pub cores: &'a Cores,
    pub authority: SocketAddr,
}

/// The echoes, nodens, and the peers that are there, in this order; and the names of those that are not.
pub fn all() -> (Vec<Contender>, Vec<&'static str>) {
    let nodens = PathBuf::from(env!("CARGO_BIN_EXE_nodens"));
    let own = |name, role| Contender {
        name,
        role,
        version: env!("CARGO_PKG_VERSION").into(),
        program: nodens.clone(),
        peer: None,
    };
    let mut there = vec![own("plain echo", Role::Floor), own("echo", Role::Echo), own("nodens", Role::Ours)];
    let mut absent = Vec::new();
    for peer in PEERS {
        match peer.installed() {
            Some((program, version)) => {
                there.push(Contender {
                    name: peer.name,
                    role: Role::Peer,
                    version,
                    program,
                    peer: Some(peer),
                });
            }
            None => absent.push(peer.name),
        }
    }
    (there, absent)
}

/// A running contender.
pub struct Server {
    pub contender: Contender,
    pub addr: SocketAddr,
    /// Where nodens shows its metrics.
    pub admin: SocketAddr,
    child: Child,
    _dir: Dir,
}

impl Server {
    /// Starts it and waits until it answers. An echo needs to know what to answer.
    ///
    /// # Errors
    /// What it said instead.
    pub fn start(
        contender: &Contender,
        place: &Place<'_>,
        template: Option<&Template>,
    ) -> Result<Server, String> {
        let (dir, addr, admin) = (Dir::new(contender.name), free_addr(), free_addr());
        let program = &contender.program;
        let core = &place.cores.server;
        // An echo ends with its input, whatever becomes of this process.
        let (mut command, input) = match (contender.role, contender.peer) {
            (Role::Floor, _) => (echo::command(echo::PLAIN, template.unwrap(), addr, core), Stdio::piped()),
            (Role::Echo, _) => (echo::command(echo::LOOP, template.unwrap(), addr, core), Stdio::piped()),
            (Role::Ours, _) | (_, None) => (nodens(program, addr, admin, place), Stdio::null()),
            (Role::Peer, Some(peer)) => {
                let mut command = pinned(core, program);
                (peer.arguments)(&mut command, &dir, addr, place.authority);
                (command, Stdio::null())
            }
        };
        let log = dir.0.join("log");
        let file = std::fs::File::create(&log).unwrap();
        command.stdin(input).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap();
        let mut server = Server { contender: contender.clone(), addr, admin, child, _dir: dir };
        match server.comes_up() {
            true => Ok(server),
            false => Err(std::fs::read_to_string(&log).unwrap_or_default().trim().to_string()),
        }
    }

    /// True once it answers as the authority does; false where it ends, or never does.
    fn comes_up(&mut self) -> bool {
        let mut ended = false;
        let came = comes_true(|| {
            ended = self.child.try_wait().unwrap().is_some();
            ended || ask::answers(self.addr, [127, 0, 0, 1].into(), &service(0))
        });
        came && !ended
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        machine::end(&mut self.child);
    }
}

/// As it comes, with one worker for its one core, and room for all answers as the peers have it.
fn nodens(program: &Path, addr: SocketAddr, admin: SocketAddr, place: &Place<'_>) -> Command {
    let mut command = pinned(&place.cores.server, program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NODENS_") {
            command.env_remove(name);
        }
    }
    command.args(["serve", "--workers", "1", "--cache-size", "512MiB", "--search-list", "node.internal"]);
    command.args(["--listen", &addr.to_string(), "--admin", &admin.to_string()]);
    command.args(["--upstream", &format!("udp://{}", place.authority)]);
    command
}
