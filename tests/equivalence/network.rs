//! A network under virtual time that answers as a world says.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nodens::upstream::health::Server;
use nodens::upstream::udp::{Arrival, Arrivals};
use nodens::upstream::{Carrier, Reply, Ticket};
use nodens::wire::name::Name;
use nodens::wire::question::Question;

use crate::world::{Has, World};

/// How long a question takes.
const ROUND_TRIP: Duration = Duration::from_millis(4);
/// How long it takes a slow server: longer than a try waits.
const SLOW: Duration = Duration::from_millis(600);
/// Packets of one question that are lost together: all that nodens sends before it gives up.
const LOST: u32 = 5;
/// What our own OPT allows.
const UDP_SIZE: usize = 1232;

#[derive(Clone)]
pub struct Network {
    world: Rc<World>,
    phase: Rc<Cell<usize>>,
    /// How often what changes when it is asked again has been asked in this phase, by name and family.
    asked: Rc<RefCell<HashMap<(String, usize), u32>>>,
}

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    pub fn new(world: &World) -> Network {
        Network { world: Rc::new(world.clone()), phase: Rc::default(), asked: Rc::default() }
    }

    /// Everything is as the world says of this phase.
    pub fn begin(&self, phase: usize) {
        self.phase.set(phase);
        self.asked.borrow_mut().clear();
    }

    /// What a name has for this question.
    fn has(&self, name: String, family: usize) -> Has {
        let has = self.world.phases[self.phase.get()].has(&name, family);
        let patience = match has {
            Has::FailsFirst => 1,
            Has::LostFirst => LOST,
            _ => return has,
        };
        let mut asked = self.asked.borrow_mut();
        let count = asked.entry((name, family)).or_default();
        *count += 1;
        match has {
            _ if *count > patience => Has::Data,
            Has::FailsFirst => Has::Servfail,
            _ => Has::Silent,
        }
    }

    /// The answer and when it comes; nothing for silence.
    fn reply(&self, query: &[u8], stream: bool) -> Option<(Duration, Vec<u8>)> {
        let question = Question::read(query).unwrap();
        let name = Name::from_wire(question.qname()).unwrap().to_lower();
        let family = usize::from(question.qtype == 28);
        let has = self.has(name.to_string().trim_end_matches('.').to_string(), family);
        let mut answer = Answer::to(query, &question, &name, &self.world);
        match has {
            Has::Data | Has::Truncated | Has::Slow => answer.addresses(1),
            Has::Alias => {
                answer.alias(b"\x03end\x09elsewhere\x00");
                answer.addresses(1);
            }
            Has::Large => answer.large(1),
            Has::Huge => answer.large(5),
            Has::NoData => answer.soa(),
            Has::AliasNoData => {
                answer.alias(b"\x03end\x09elsewhere\x00");
                answer.soa();
            }
            Has::Denied => answer.rcode(3).soa(),
            Has::AliasDenied => {
                answer.alias(b"\x03end\x09elsewhere\x00");
                answer.rcode(3).soa();
            }
            Has::Servfail => drop(answer.rcode(2)),
            Has::Refused => drop(answer.rcode(5)),
            Has::Silent | Has::FailsFirst | Has::LostFirst => return None,
        }
        let after = if has == Has::Slow { SLOW } else { ROUND_TRIP };
        Some((after, if stream { answer.out } else { answer.into_datagram(has == Has::Truncated) }))
    }
}

/// An answer in the making.
struct Answer<'w> {
    out: Vec<u8>,
    question_end: usize,
    owner: [u8; 2],
    v6: bool,
    /// The last octet of its first address.
    last: u8,
    world: &'w World,
}

impl Answer<'_> {
    fn to<'w>(query: &[u8], question: &Question<'_>, name: &Name, world: &'w World) -> Answer<'w> {
        let mut out = query[..12].to_vec();
        (out[2], out[3]) = (0x81, 0x80);
        out[6..12].fill(0);
        out.extend_from_slice(question.octets);
        let sum = name.as_wire().iter().fold(7u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(*octet));
        let question_end = out.len();
        Answer { out, question_end, owner: [0xc0, 12], v6: question.qtype == 28, last: sum, world }
    }

    fn rcode(&mut self, rcode: u8) -> &mut Self {
        self.out[3] |= rcode;
        self
    }

    fn record(&mut self, rtype: u8, data: &[u8]) {
        self.out[7] += 1;
        self.out.extend_from_slice(&self.owner);
        self.out.extend_from_slice(&[0, rtype, 0, 1]);
        self.out.extend_from_slice(&self.world.ttl.to_be_bytes());
        self.out.extend_from_slice(&[0, data.len() as u8]);
        self.out.extend_from_slice(data);
    }

    fn alias(&mut self, target: &[u8]) {
        let at = self.out.len() + 12;
        self.record(5, target);
        self.owner = (0xc000 | at as u16).to_be_bytes();
    }

    fn addresses(&mut self, count: u8) {
        for number in 0..count {
            let last = self.last.wrapping_add(number);
            match self.v6 {
                true => self.record(28, &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]),
                false => self.record(1, &[192, 0, 2, last]),
            }
        }
    }

    /// Aliases with long names, 212 octets each, then so many addresses that one alias makes it too long for a datagram
    /// without EDNS and five for any; fewer than the 48 of both families that musl takes.
    fn large(&mut self, aliases: u8) {
        for number in 0..aliases {
            let label = [&[63][..], &[b'a' + number; 63]].concat();
            self.alias(&[&label.repeat(3)[..], b"\x05large\x00"].concat());
        }
        self.addresses(if self.v6 { 12 } else { 20 });
    }

    fn soa(&mut self) {
        self.out[9] = 1;
        let ttl = self.world.denial_ttl.to_be_bytes();
        self.out.extend_from_slice(b"\x00\x00\x06\x00\x01");
        self.out.extend_from_slice(&ttl);
        self.out.extend_from_slice(&[0, 22, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        self.out.extend_from_slice(&ttl);
    }

    fn into_datagram(mut self, truncate: bool) -> Vec<u8> {
        if truncate || self.out.len() > UDP_SIZE {
            self.out.truncate(self.question_end);
            self.out[2] |= 2;
            self.out[6..12].fill(0);
        }
        self.out
    }
}

impl Carrier for Network {
    fn datagram(&self, _: &Arc<Server>, query: Vec<u8>, _: &[u8], arrivals: Arrivals) -> io::Result<Ticket> {
        let reply = self.reply(&query, false);
        Ok(Box::new(Task(tokio::task::spawn_local(async move {
            if let Some((after, reply)) = reply {
                tokio::time::sleep(after).await;
                arrivals.tell(Arrival::Reply(reply));
            }
        }))))
    }

    fn stream(&self, _: &Arc<Server>, query: Vec<u8>, _: Vec<u8>) -> Reply {
        let reply = self.reply(&query, true);
        Box::pin(async move {
            let (after, reply) = reply.ok_or(io::ErrorKind::ConnectionRefused)?;
            tokio::time::sleep(after).await;
            Ok(reply)
        })
    }
}
