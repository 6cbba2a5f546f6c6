//! Exchanges under virtual time: copies of replies, servers that cannot be sent to, servers that only name others.

use std::io;
use std::time::Duration;

use super::super::exchange::{DEADLINE, ask};
use super::super::health::Endpoint;
use super::super::simulation::{Network, Seen, endpoint, local};
use super::super::standing::{Standing, Waiter};
use super::super::zones::{Endpoints, Zones};
use super::super::{Class, Reply, Ticket};
use super::*;
use crate::wire::name::Name;

const MS: Duration = Duration::from_millis(1);
/// NS records, as a server names others.
const NS: &[u8] = b"\x00\x00\x02\x00\x01\x00\x00\x00\x05\x00\x01\x00";

/// What came of one question, after which time, and what was sent for it.
async fn ask_once(
    carrier: &dyn Carrier,
    network: &Network,
    members: Vec<Endpoint>,
) -> (Result<Answer, Failure>, Duration, Vec<Seen>) {
    let zones = Zones::new([Name::ROOT], vec![]);
    zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
    ask_in(&zones, carrier, network).await
}

async fn ask_in(
    zones: &Zones,
    carrier: &dyn Carrier,
    network: &Network,
) -> (Result<Answer, Failure>, Duration, Vec<Seen>) {
    let octets = (*b"\x03www\x07example\x03com\x00\x00\x01\x00\x01").into();
    let question = Question { octets, dnssec_ok: false, checking_disabled: false };
    let (start, before) = (Instant::now(), network.seen().len());
    let waiter = Waiter { client: [192, 0, 2, 99].into(), class: Class::Client, deadline: start + DEADLINE };
    let zone = zones.find(question.qname()).unwrap();
    let result = ask(carrier, zone, &question, &Standing::of(waiter)).await;
    (result, start.elapsed(), network.seen().split_off(before))
}

fn endpoints(count: usize) -> Vec<Endpoint> {
    (0..count).map(endpoint).collect()
}

/// A reply and copies of it, so many in all, that come together.
fn copies(message: &[u8], count: usize) -> Vec<(Duration, Arrival)> {
    (0..count).map(|_| (MS * 5, Arrival::Reply(message.to_vec()))).collect()
}

#[tokio::test(start_paused = true)]
async fn copies_of_a_reply_change_nothing() {
    local(async {
        // A server without EDNS (RFC 6891 section 6.2.2) is asked once more, however often it says so.
        let has_edns = |seen: &Seen| Header::read(&seen.query).is_some_and(|header| header.additionals > 0);
        let network = Network::new(move |seen| match has_edns(seen) {
            true => copies(&seen.reply(1, [0; 3], &[]), 8),
            false => vec![(MS * 50, Arrival::Reply(seen.a(60)))],
        });
        let (result, _, seen) = ask_once(&network, &network, endpoints(1)).await;
        assert_eq!((result.unwrap().kind, seen.len()), (Kind::Data, 2));
        // Each of three servers is asked once, although each says eight times that it cannot.
        network.becomes(|seen| copies(&seen.reply(2, [0; 3], &[]), 8));
        let (result, took, seen) = ask_once(&network, &network, endpoints(3)).await;
        assert_eq!((result.unwrap().rcode, took, seen.len()), (Rcode::SERVFAIL, MS * 15, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_comes_after_a_refusal_counts() {
    local(async {
        let network = Network::new(|seen| {
            let refused = Arrival::Refused(io::ErrorKind::ConnectionRefused);
            vec![(MS, refused), (MS * 20, Arrival::Reply(seen.a(60)))]
        });
        let (result, took, seen) = ask_once(&network, &network, endpoints(1)).await;
        assert_eq!((result.unwrap().kind, took, seen.len()), (Kind::Data, MS * 20, 1));
    })
    .await;
}

/// A network behind a host that cannot send to some servers, and why not.
struct Host<'n>(&'n Network, fn(usize) -> bool, io::ErrorKind);

impl Carrier for Host<'_> {
    fn datagram(
        &self,
        server: &Arc<Server>,
        query: Vec<u8>,
        sent: &[u8],
        arrivals: Arrivals,
    ) -> io::Result<Ticket> {
        match self.1(usize::from(server.endpoint.addr.port())) {
            true => Err(self.2.into()),
            false => self.0.datagram(server, query, sent, arrivals),
        }
    }

    fn stream(&self, server: &Arc<Server>, query: Vec<u8>, sent: Vec<u8>) -> Reply {
        self.0.stream(server, query, sent)
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_server_cannot_be_sent_to_the_next_is_asked_at_once() {
    local(async {
        let network = Network::new(|seen| vec![(MS, Arrival::Reply(seen.a(60)))]);
        for _ in 0..10 {
            let host = Host(&network, |port| port != 5002, io::ErrorKind::NetworkUnreachable);
            let (result, took, seen) = ask_once(&host, &network, endpoints(3)).await;
            assert_eq!((result.unwrap().kind, took, seen.len()), (Kind::Data, MS, 1));
        }
        let nowhere = Host(&network, |_| true, io::ErrorKind::NetworkUnreachable);
        let (result, took, seen) = ask_once(&nowhere, &network, endpoints(2)).await;
        assert_eq!((result.unwrap_err(), seen.len()), (Failure::Unreachable, 0));
        assert!(took < DEADLINE, "{took:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_has_nothing_left_to_send_with_blames_no_server() {
    local(async {
        let network = Network::new(|_| vec![]);
        let of_host = Failure::Refused(Refused::Host);
        for (kind, blamed, failure) in [
            (io::ErrorKind::ResourceBusy, 0, of_host),
            (io::ErrorKind::NetworkUnreachable, 5, Failure::Unreachable),
        ] {
            let zones = Zones::new([Name::ROOT], vec![]);
            zones.set(&Name::ROOT, &Endpoints { members: endpoints(1), last_resort: vec![] });
            let host = Host(&network, |_| true, kind);
            assert_eq!(ask_in(&zones, &host, &network).await.0.unwrap_err(), failure);
            let server = zones.servers().remove(0);
            assert_eq!(server.failures().iter().map(|(_, count)| count).sum::<u64>(), blamed);
        }
    })
    .await;
}

/// One server fails, the network refuses another, the third is well: nobody waits, in whatever order they are asked.
#[tokio::test(start_paused = true)]
async fn prompt_failures_of_different_kinds_cost_no_wait() {
    local(async {
        for _ in 0..20 {
            let network = Network::new(|seen| match Header::read(&seen.query).map(|_| seen.server % 3) {
                Some(0) => vec![(MS, Arrival::Reply(seen.reply(2, [0; 3], &[])))],
                Some(1) => vec![(MS, Arrival::Refused(io::ErrorKind::ConnectionRefused))],
                _ => vec![(MS, Arrival::Reply(seen.a(60)))],
            });
            let (result, took, _) = ask_once(&network, &network, endpoints(3)).await;
            assert_eq!(result.unwrap().kind, Kind::Data);
            assert!(took <= MS * 3, "{took:?}");
        }
    })
    .await;
}

/// A second server has been asked already when the first fails: the third is next, not the second once more.
#[tokio::test(start_paused = true)]
async fn a_failure_behind_a_later_try_moves_on_to_who_has_not_been_asked() {
    local(async {
        let mut asked = 0;
        let network = Network::new(move |seen| {
            asked += 1;
            match asked {
                1 => vec![(MS * 400, Arrival::Reply(seen.reply(2, [0; 3], &[])))],
                2 => vec![],
                _ => vec![(MS, Arrival::Reply(seen.a(60)))],
            }
        });
        let (result, took, mut seen) = ask_once(&network, &network, endpoints(3)).await;
        assert_eq!((result.unwrap().kind, took), (Kind::Data, MS * 401));
        seen.sort_by_key(|seen| seen.server);
        seen.dedup_by_key(|seen| seen.server);
        assert_eq!(seen.len(), 3);
    })
    .await;
}

/// RFC 9520 section 1: servers that do not serve the name are a failure to resolve it, not a name without data.
#[tokio::test(start_paused = true)]
async fn servers_that_only_name_others_are_a_failure() {
    local(async {
        let network = Network::new(|seen| vec![(MS, Arrival::Reply(seen.reply(0, [0, 1, 0], NS)))]);
        let (result, took, seen) = ask_once(&network, &network, endpoints(3)).await;
        assert_eq!((result.unwrap_err(), took, seen.len()), (Failure::Lame, MS * 3, 3));
        network.becomes(|seen| {
            let message =
                if seen.server % 2 == 0 { seen.reply(0, [0, 1, 0], NS) } else { seen.reply(2, [0; 3], &[]) };
            vec![(MS, Arrival::Reply(message))]
        });
        for _ in 0..20 {
            let (result, _, _) = ask_once(&network, &network, endpoints(2)).await;
            assert_eq!(result.unwrap().rcode, Rcode::SERVFAIL, "what a server says of the name goes before");
        }
    })
    .await;
}

/// A stream repeats what is lost by itself: a server that is slow over one is asked once more, for the connection may be dead.
#[tokio::test(start_paused = true)]
async fn a_slow_stream_is_given_the_question_twice_at_most() {
    local(async {
        let network = Network::new(|seen| vec![(MS * 1800, Arrival::Reply(seen.a(60)))]);
        let members = vec![Endpoint::plain(Transport::Tcp, endpoint(0).addr)];
        let (result, took, seen) = ask_once(&network, &network, members).await;
        assert_eq!((result.unwrap().kind, took, seen.len()), (Kind::Data, MS * 1800, 2));
    })
    .await;
}
