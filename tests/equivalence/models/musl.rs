//! musl 1.2.3 and 1.2.5: `__res_msend_rc`, `name_from_dns`, `name_from_dns_search`.

use tokio::time::Instant;

use super::rcode::{NOERROR, NXDOMAIN, SERVFAIL};
use super::{Conf, Names, Outcome, Over, Reply, Server, Socket, Step};

/// Questions after a SERVFAIL that go out at once, of both families and until the next interval.
const SERVFAIL_RETRIES: u32 = 4;

/// Where a name with dots enough is not found, nothing is searched.
pub async fn look_up(names: &Names, conf: &Conf, server: &impl Server, has_tcp: bool) -> Outcome {
    let only_bare = names.bare_first;
    for (name, is_bare) in names.in_order() {
        if only_bare && !is_bare {
            break;
        }
        if let Step::End(outcome) = step(name, conf, server, has_tcp).await {
            return outcome;
        }
    }
    Outcome::NotFound
}

/// A is looked at first, a denial of either family goes on, one without an answer ends it.
async fn step(name: &str, conf: &Conf, server: &impl Server, has_tcp: bool) -> Step {
    let answers = send(name, conf, server, has_tcp).await;
    for answer in &answers {
        match answer {
            None => return Step::End(Outcome::Failed),
            Some(reply) if reply.rcode == NXDOMAIN => return Step::On,
            Some(_) => {}
        }
    }
    Step::End(Outcome::found(answers.iter().flatten().flat_map(Reply::all)))
}

/// One family's question.
#[derive(Default)]
enum Asked {
    #[default]
    OverUdp,
    OverTcp,
    Answered(Reply),
}

impl Asked {
    fn answer(self) -> Option<Reply> {
        if let Asked::Answered(reply) = self { Some(reply) } else { None }
    }
}

/// Asks until both families have an answer or the time is over; only data and denials are answers.
async fn send(name: &str, conf: &Conf, server: &impl Server, has_tcp: bool) -> [Option<Reply>; 2] {
    let mut socket = Socket::open(server, name, None);
    let interval = conf.timeout / conf.attempts;
    let start = Instant::now();
    let mut asked: [Asked; 2] = Default::default();
    let mut retries = SERVFAIL_RETRIES;
    let mut next_at = start;
    while asked.iter().any(|one| !matches!(one, Asked::Answered(_))) {
        if Instant::now() >= start + conf.timeout {
            break;
        }
        if Instant::now() >= next_at {
            for (family, _) in asked.iter().enumerate().filter(|(_, one)| matches!(one, Asked::OverUdp)) {
                socket.send(family, Over::Udp);
            }
            next_at += interval;
            retries = SERVFAIL_RETRIES;
        }
        let Some((family, over, reply)) = socket.next(next_at).await else { continue };
        match (over, reply) {
            (Over::Udp, Some(reply)) if matches!(asked[family], Asked::OverUdp) => match reply.rcode {
                NOERROR | NXDOMAIN if reply.truncated && has_tcp => {
                    asked[family] = Asked::OverTcp;
                    socket.send(family, Over::Tcp);
                }
                NOERROR | NXDOMAIN => asked[family] = Asked::Answered(reply),
                SERVFAIL if retries > 0 => {
                    retries -= 1;
                    socket.send(family, Over::Udp);
                }
                _ => {}
            },
            (Over::Udp, _) => {}
            (Over::Tcp, Some(reply)) if matches!(reply.rcode, NOERROR | NXDOMAIN) => {
                asked[family] = Asked::Answered(reply);
            }
            // Whatever goes wrong with a connection ends the wait for datagrams too.
            (Over::Tcp, _) => break,
        }
    }
    asked.map(Asked::answer)
}
