//! Go's own resolver: `exchange`, `tryOneName`, `goLookupIPCNAMEOrder`.

use std::cell::RefCell;
use std::net::IpAddr;

use tokio::time::Instant;

use super::rcode::{NOERROR, NXDOMAIN};
use super::{Conf, Names, Outcome, Over, Reply, Server, Socket};

/// The size of datagrams that its OPT allows.
const UDP_SIZE: u16 = 1232;

/// The first name with an address ends it. Of errors the last of the bare name counts.
pub async fn look_up(names: &Names, conf: &Conf, server: &impl Server) -> Outcome {
    let mut why = None;
    for (name, is_bare) in names.in_order() {
        // In the order in which they came to an end.
        let ended = RefCell::new(Vec::new());
        let one = async |family| {
            let end = one_name(name, family, conf, server).await;
            ended.borrow_mut().push(end);
        };
        tokio::join!(one(0), one(1));
        let mut addresses = Vec::new();
        for end in ended.into_inner() {
            match end {
                Ok(more) => addresses.extend(more),
                Err(error) if why.is_none() || is_bare => why = Some(error),
                Err(_) => {}
            }
        }
        if !addresses.is_empty() {
            return Outcome::found(addresses.into_iter());
        }
    }
    why.unwrap_or(Outcome::NotFound)
}

/// A denial ends it, everything else that is no answer is asked again.
async fn one_name(
    name: &str,
    family: usize,
    conf: &Conf,
    server: &impl Server,
) -> Result<Vec<IpAddr>, Outcome> {
    for _ in 0..conf.attempts {
        match exchange(name, family, conf, server).await {
            Some(reply) if reply.rcode == NXDOMAIN => return Err(Outcome::NotFound),
            Some(reply) if reply.rcode == NOERROR => {
                let addresses: Vec<IpAddr> = reply.all().collect();
                return if addresses.is_empty() { Err(Outcome::NotFound) } else { Ok(addresses) };
            }
            _ => {}
        }
    }
    Err(Outcome::Failed)
}

/// Each question has a socket of its own; the time begins anew with TCP.
async fn exchange(name: &str, family: usize, conf: &Conf, server: &impl Server) -> Option<Reply> {
    for over in [Over::Udp, Over::Tcp] {
        let deadline = Instant::now() + conf.timeout;
        let mut socket = Socket::open(server, name, Some(UDP_SIZE));
        socket.send(family, over);
        let reply = loop {
            let (_, _, reply) = socket.next(deadline).await?;
            let reply = reply?;
            if reply.repeats_question {
                break reply;
            }
        };
        if over == Over::Tcp || !reply.truncated {
            return Some(reply);
        }
    }
    None
}
