//! The two echoes, which this program becomes when it is started as a child.
//!
//! The *loop echo* is nodens' own loop of datagrams on its own worker thread, with hops 2 to 4 left out: what a hit costs
//! beyond it is what the promise is about. The *plain echo* is one thread that blocks: the floor.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use nodens::observe::cells::Event;
use nodens::resolve::Client;
use nodens::resolve::hit::Outcome;
use nodens::server::stop::{self, InFlight};
use nodens::server::udp::{self, Responder};
use nodens::server::{sockets, worker};

use crate::machine::pinned;
use crate::plain;

/// The first argument of a child.
pub const LOOP: &str = "echo-in-the-loop";
pub const PLAIN: &str = "echo-plain";

const HEADER: usize = 12;

/// A reply as long as the real one: the packet that was asked, with the real one's flags and counts, and with what the
/// real one has after its question.
#[derive(Clone, Debug)]
pub struct Template {
    flags: [u8; 2],
    counts: [u8; 6],
    records: Vec<u8>,
}

impl Template {
    /// Of a real reply and the query it was for, which has no records of its own.
    pub fn of(query: &[u8], reply: &[u8]) -> Template {
        Template {
            flags: reply[2..4].try_into().unwrap(),
            counts: reply[6..HEADER].try_into().unwrap(),
            records: reply[query.len()..].to_vec(),
        }
    }

    /// Octets of the reply to a packet.
    #[inline]
    pub fn write(&self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let end = packet.len() + self.records.len();
        let (head, rest) = out.get_mut(..end)?.split_at_mut_checked(packet.len())?;
        head.copy_from_slice(packet);
        head.get_mut(2..4)?.copy_from_slice(&self.flags);
        head.get_mut(6..HEADER)?.copy_from_slice(&self.counts);
        rest.copy_from_slice(&self.records);
        Some(end)
    }

    fn to_hex(&self) -> String {
        let octets = [&self.flags[..], &self.counts, &self.records].concat();
        octets.iter().map(|octet| format!("{octet:02x}")).collect()
    }

    fn from_hex(text: &str) -> Template {
        let pairs = text.as_bytes().chunks(2);
        let octets: Vec<u8> =
            pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
        Template {
            flags: octets[..2].try_into().unwrap(),
            counts: octets[2..8].try_into().unwrap(),
            records: octets[8..].to_vec(),
        }
    }
}

/// The command that becomes an echo on an address.
pub fn command(kind: &str, template: &Template, addr: SocketAddr, core: &str) -> Command {
    let mut command = pinned(core, Path::new(&std::env::current_exe().unwrap()));
    command.args([kind, &template.to_hex(), &addr.to_string()]);
    command
}

/// Is the echo that the arguments tell of. The end of the input is the end of whoever started it.
pub fn become_it(kind: &str, args: &[String]) {
    let template = Template::from_hex(&args[0]);
    let addr: SocketAddr = args[1].parse().unwrap();
    if kind == LOOP {
        return serve_in_the_loop(addr, template).unwrap();
    }
    let socket = UdpSocket::bind(addr).unwrap();
    std::thread::spawn(move || plain::serve(&socket, &template));
    wait_for_the_end();
}

fn wait_for_the_end() {
    let _ = io::stdin().read(&mut [0]);
}

struct Echo(Template);

impl Responder for Echo {
    type Batch<'s> = ();
    type Miss = Infallible;

    #[inline]
    fn batch(&self) {}

    #[inline]
    fn answer(&self, packet: &[u8], _: Client, (): &(), out: &mut [u8]) -> Outcome<Infallible> {
        self.0.write(packet, out).map_or(Outcome::Silence, Outcome::Reply)
    }

    async fn answer_later(self: Rc<Self>, miss: Infallible) -> Vec<u8> {
        match miss {}
    }

    fn event(&self, event: Event) {
        let _ = writeln!(io::stderr(), "the echo: {event:?}");
    }
}

fn serve_in_the_loop(addr: SocketAddr, template: Template) -> io::Result<()> {
    let mut workers = sockets::bind(&[addr], 1).map_err(io::Error::other)?;
    let (stopper, stop) = stop::channel();
    let socket = workers.remove(0).udp.remove(0);
    let thread = worker::thread(0, async move || {
        udp::serve(socket, Rc::new(Echo(template)), InFlight::default(), stop.quit()).await
    })?;
    wait_for_the_end();
    stopper.stop();
    thread.join().unwrap()
}
