//! A network under virtual time that answers as a world says.

use std::cell::Cell;
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

#[derive(Clone)]
pub struct Network {
    pub world: Rc<World>,
    pub phase: Rc<Cell<usize>>,
}

struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Network {
    fn reply(&self, query: &[u8], stream: bool) -> Option<Vec<u8>> {
        let question = Question::read(query).unwrap();
        let name = Name::from_wire(question.qname()).unwrap().to_lower();
        let v6 = question.qtype == 28;
        let has =
            self.world.phases[self.phase.get()].has(name.to_string().trim_end_matches('.'), usize::from(v6));
        let mut out = query[..12].to_vec();
        (out[2], out[3]) = (0x81, 0x80);
        out[6..12].fill(0);
        out.extend_from_slice(question.octets);
        let ttl = self.world.ttl.to_be_bytes();
        let alias = |out: &mut Vec<u8>| {
            out[7] += 1;
            out.extend_from_slice(&[0xc0, 12, 0, 5, 0, 1]);
            out.extend_from_slice(&ttl);
            let target = out.len() as u16 + 2;
            out.extend_from_slice(b"\x00\x0f\x03end\x09elsewhere\x00");
            0xc000 | target
        };
        let data = |out: &mut Vec<u8>, owner: u16| {
            out[7] += 1;
            out.extend_from_slice(&owner.to_be_bytes());
            out.extend_from_slice(&[0, question.qtype as u8, 0, 1]);
            out.extend_from_slice(&ttl);
            let sum = name.as_wire().iter().fold(7u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(*octet));
            match v6 {
                true => {
                    out.extend_from_slice(&[0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sum])
                }
                false => out.extend_from_slice(&[0, 4, 192, 0, 2, sum]),
            }
        };
        let soa = |out: &mut Vec<u8>| {
            out[9] = 1;
            out.extend_from_slice(b"\x00\x00\x06\x00\x01");
            out.extend_from_slice(&self.world.denial_ttl.to_be_bytes());
            out.extend_from_slice(&[0, 22, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            out.extend_from_slice(&self.world.denial_ttl.to_be_bytes());
        };
        match has {
            Has::Truncated if !stream => out[2] |= 2,
            Has::Data | Has::Truncated => data(&mut out, 0xc00c),
            Has::Alias => {
                let target = alias(&mut out);
                data(&mut out, target);
            }
            Has::NoData => soa(&mut out),
            Has::AliasNoData => {
                alias(&mut out);
                soa(&mut out);
            }
            Has::Denied => {
                out[3] |= 3;
                soa(&mut out);
            }
            Has::AliasDenied => {
                out[3] |= 3;
                alias(&mut out);
                soa(&mut out);
            }
            Has::Servfail => out[3] |= 2,
            Has::Refused => out[3] |= 5,
            Has::Silent => return None,
        }
        Some(out)
    }
}

impl Carrier for Network {
    fn datagram(&self, _: &Arc<Server>, query: Vec<u8>, _: &[u8], arrivals: Arrivals) -> io::Result<Ticket> {
        let reply = self.reply(&query, false);
        Ok(Box::new(Task(tokio::task::spawn_local(async move {
            if let Some(reply) = reply {
                tokio::time::sleep(ROUND_TRIP).await;
                arrivals.tell(Arrival::Reply(reply));
            }
        }))))
    }

    fn stream(&self, _: &Arc<Server>, query: Vec<u8>, _: Vec<u8>) -> Reply {
        let reply = self.reply(&query, true);
        Box::pin(async move {
            tokio::time::sleep(ROUND_TRIP).await;
            reply.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
        })
    }
}
