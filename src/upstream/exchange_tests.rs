//! Exchanges under virtual time: which server is asked when, and what is made of what it says.

use std::rc::Rc;

use super::super::Class;
use super::super::fairness::Refused;
use super::super::health::TryFailure;
use super::super::simulation::{Network, Seen, endpoint, local, zones, zones_with};
use super::super::standing::Waiter;
use super::super::udp::Arrival;
use super::super::zones::Endpoints;
use super::*;
use crate::wire::answer::Kind;
use crate::wire::header::{Flags, HEADER_LEN};
use crate::wire::iana::Rcode;
use crate::wire::name::Name;

const MS: Duration = Duration::from_millis(1);

fn question() -> Question {
    question_of(*b"\x03www\x07example\x03com\x00\x00\x01\x00\x01")
}

fn question_of<const LENGTH: usize>(octets: [u8; LENGTH]) -> Question {
    Question { octets: octets.into(), dnssec_ok: false, checking_disabled: false }
}

struct Run {
    result: Result<Answer, Failure>,
    took: Duration,
    seen: Vec<Seen>,
}

async fn ask_once(network: &Network, servers: &[Arc<Server>]) -> Run {
    ask_for(network, servers, &question()).await
}

async fn ask_for(network: &Network, servers: &[Arc<Server>], question: &Question) -> Run {
    let servers = Servers { members: servers.to_vec(), last_resort: vec![] };
    let zone = Zone::new(Name::ROOT, servers);
    let start = Instant::now();
    let before = network.seen().len();
    let result = ask(network, &zone, question, &standing()).await;
    Run { result, took: start.elapsed(), seen: network.seen().split_off(before) }
}

/// A client that waits from now on.
fn standing() -> Arc<Standing> {
    let deadline = Instant::now() + DEADLINE;
    Standing::of(Waiter { client: [192, 0, 2, 99].into(), class: Class::Client, deadline })
}

fn servers(count: usize) -> Vec<Arc<Server>> {
    zones(count).servers()
}

/// Servers that share a budget.
fn servers_with(count: usize, budget: &str) -> Vec<Arc<Server>> {
    zones_with(count, budget).servers()
}

/// Makes the time that nineteen of twenty answers take known, and equal, for all of them.
async fn answer_for_a_while(network: &Network, servers: &[Arc<Server>]) {
    network.becomes(|seen| reply(10, seen.a(60)));
    for _ in 0..200 * servers.len() {
        ask_once(network, servers).await;
    }
}

fn reply(after: u32, message: Vec<u8>) -> Vec<(Duration, Arrival)> {
    vec![(MS * after, Arrival::Reply(message))]
}

#[tokio::test(start_paused = true)]
async fn one_answer_ends_it() {
    local(async {
        let network = Network::new(|seen| reply(20, seen.a(60)));
        let run = ask_once(&network, &servers(3)).await;
        assert_eq!((run.result.unwrap().kind, run.took, run.seen.len()), (Kind::Data, MS * 20, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_tried_five_times_and_a_late_reply_still_counts() {
    local(async {
        let network = Network::new(|_| vec![]);
        let run = ask_once(&network, &servers(2)).await;
        assert_eq!(run.result.unwrap_err(), Failure::TimedOut);
        assert_eq!((run.seen.len(), run.took), (MAX_TRIES, LATE));
        let gaps: Vec<_> = run.seen.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert_eq!(gaps, [TRY_TIMEOUT; MAX_TRIES - 1]);
        assert!(run.seen.windows(2).all(|pair| pair[0].server != pair[1].server), "in turn");

        network.becomes(|seen| if seen.server == 0 { reply(2500, seen.a(60)) } else { vec![] });
        let run = ask_once(&network, &servers(1)).await;
        assert_eq!((run.result.unwrap().kind, run.took), (Kind::Data, MS * 2500));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_server_hands_over_at_once_and_its_word_is_the_last_resort() {
    local(async {
        let network = Network::new(|seen| {
            reply(5, if seen.server == 0 { seen.reply(2, [0; 3], &[]) } else { seen.a(60) })
        });
        for _ in 0..20 {
            let run = ask_once(&network, &servers(2)).await;
            assert_eq!(run.result.unwrap().kind, Kind::Data);
            assert!(run.took <= MS * 10 && run.seen.len() <= 2);
        }
        network.becomes(|seen| reply(5, seen.reply(5, [0; 3], &[])));
        let run = ask_once(&network, &servers(3)).await;
        assert_eq!((run.result.unwrap().rcode, run.took, run.seen.len()), (Rcode::REFUSED, MS * 15, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_referral_is_no_answer() {
    local(async {
        let ns = b"\x00\x00\x02\x00\x01\x00\x00\x00\x05\x00\x01\x00";
        let network = Network::new(|seen| {
            reply(5, if seen.server == 0 { seen.reply(0, [0, 1, 0], ns) } else { seen.a(60) })
        });
        for _ in 0..10 {
            assert_eq!(ask_once(&network, &servers(2)).await.result.unwrap().kind, Kind::Data);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_port_is_no_storm() {
    local(async {
        let refuse = |_: &Seen| vec![(MS, Arrival::Refused(std::io::ErrorKind::ConnectionRefused))];
        let network = Network::new(refuse);
        let run = ask_once(&network, &servers(1)).await;
        assert_eq!((run.result.unwrap_err(), run.seen.len()), (Failure::Unreachable, MAX_TRIES));
        assert!(run.took < DEADLINE);
        let run = ask_once(&network, &servers(2)).await;
        assert_eq!(run.seen[1].at - run.seen[0].at, MS, "the other server at once");
        assert!(run.seen.len() <= MAX_TRIES);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_match_or_cannot_be_read_does_not_end_the_wait() {
    local(async {
        let network = Network::new(|seen| {
            let mut broken = seen.a(60);
            broken.truncate(broken.len() - 3);
            vec![
                (MS, Arrival::Unmatched),
                (MS * 2, Arrival::Reply(broken)),
                (MS * 9, Arrival::Reply(seen.a(60))),
            ]
        });
        let run = ask_once(&network, &servers(1)).await;
        assert_eq!((run.result.unwrap().kind, run.took, run.seen.len()), (Kind::Data, MS * 9, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn truncation_goes_to_tcp_once() {
    local(async {
        let network = Network::new(|seen| match seen.over {
            Transport::Udp => reply(5, seen.reply(Flags::TC, [0; 3], &[])),
            _ => reply(5, seen.a(60)),
        });
        let run = ask_once(&network, &servers(1)).await;
        assert_eq!((run.result.unwrap().kind, run.took, run.seen.len()), (Kind::Data, MS * 10, 2));
        assert_eq!(run.seen[1].over, Transport::Tcp);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_forger_who_floods_crowds_no_answer_out() {
    local(async {
        // All at once, the answer last: as its datagram, and over the stream that a truncated one has led to.
        let forged = || (0..30).map(|_| (MS * 10, Arrival::Unmatched));
        let plain =
            Network::new(move |seen| forged().chain([(MS * 10, Arrival::Reply(seen.a(60)))]).collect());
        let by_stream = Network::new(move |seen| match seen.over {
            Transport::Udp => [(MS * 5, Arrival::Reply(seen.reply(Flags::TC, [0; 3], &[])))]
                .into_iter()
                .chain(forged())
                .collect(),
            _ => reply(5, seen.a(60)),
        });
        for network in [plain, by_stream] {
            let run = ask_once(&network, &servers(1)).await;
            assert_eq!((run.result.unwrap().kind, run.took), (Kind::Data, MS * 10));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_truncated_over_tcp_too_is_no_answer() {
    local(async {
        let part = |seen: &Seen| {
            let mut message = seen.a(60);
            message[2] |= (Flags::TC >> 8) as u8;
            message
        };
        let network = Network::new(move |seen| match seen.server {
            0 => reply(5, part(seen)),
            _ => reply(5, seen.a(60)),
        });
        let run = ask_once(&network, &servers(1)).await;
        assert_eq!((run.result.unwrap_err(), run.took, run.seen.len()), (Failure::TimedOut, MS * 10, 2));
        // Another server is asked at once.
        let two = servers(2);
        two[1].health().answered(MS * 900);
        let run = ask_once(&network, &two).await;
        assert_eq!((run.result.unwrap().kind, run.took, run.seen.len()), (Kind::Data, MS * 15, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_letter_case_is_believed_only_from_tcp() {
    local(async {
        let lower = |seen: &Seen, last: u8| {
            let mut message = seen.a(60);
            message.make_ascii_lowercase();
            *message.last_mut().unwrap() = last;
            message
        };
        let network = Network::new(move |seen| match seen.over {
            Transport::Udp => vec![(MS * 5, Arrival::CaseDiffers(lower(seen, 66)))],
            _ => reply(5, lower(seen, 1)),
        });
        let one = servers(1);
        for _ in 0..5 {
            let run = ask_once(&network, &one).await;
            assert_eq!(run.result.unwrap().wire.last(), Some(&1), "the forger's address is 66");
            assert_eq!(run.seen.last().unwrap().over, Transport::Tcp);
        }
        assert!(one[0].health().mixes_case(Instant::now()), "a forger cannot turn it off");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lowers_case_is_soon_asked_in_lower_case() {
    local(async {
        let network = Network::new(|seen| {
            let mut message = seen.a(60);
            message.make_ascii_lowercase();
            let question = seen.question();
            match seen.over {
                Transport::Udp if question.iter().any(u8::is_ascii_uppercase) => {
                    vec![(MS, Arrival::CaseDiffers(message))]
                }
                _ => reply(1, message),
            }
        });
        let one = servers(1);
        // A short name is in lower case by chance once in a while.
        let long = question_of(
            *b"\x37a-name-with-so-many-letters-that-some-are-in-upper-case\x07example\x03com\x00\x00\x01\x00\x01",
        );
        for _ in 0..3 {
            assert_eq!(ask_for(&network, &one, &long).await.seen.len(), 2);
        }
        for _ in 0..3 {
            let run = ask_for(&network, &one, &long).await;
            assert_eq!(
                (run.result.unwrap().kind, run.seen.len(), run.seen[0].over),
                (Kind::Data, 1, Transport::Udp)
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_edns_is_asked_without() {
    local(async {
        let network = Network::new(|seen| {
            let with_opt = seen.query.len() > HEADER_LEN + seen.question().len();
            reply(1, if with_opt { seen.reply(1, [0; 3], &[]) } else { seen.a(60) })
        });
        let one = servers(1);
        assert_eq!(ask_once(&network, &one).await.seen.len(), 2);
        let run = ask_once(&network, &one).await;
        assert_eq!((run.result.unwrap().kind, run.seen.len()), (Kind::Data, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_ourselves_is_never_asked() {
    local(async {
        let network = Network::new(|seen| reply(1, seen.a(60)));
        let two = servers(2);
        two[0].health().is_ourselves();
        for _ in 0..10 {
            assert_eq!(ask_once(&network, &two).await.seen[0].server, 1);
        }
        two[1].health().loops(Instant::now());
        assert_eq!(ask_once(&network, &two).await.result.unwrap_err(), Failure::Loop);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_left_is_asked_nothing_more_and_its_late_answer_is_taken() {
    local(async {
        let network = Network::new(|seen| if seen.server < 2 { reply(1500, seen.a(60)) } else { vec![] });
        let zones = zones(2);
        let (start, zone) = (Instant::now(), zones.find(Name::ROOT.as_wire()).unwrap());
        let leave = async {
            tokio::time::sleep(MS * 100).await;
            zones.set(&Name::ROOT, &Endpoints { members: vec![endpoint(2)], last_resort: vec![] });
        };
        let (question, standing) = (question(), standing());
        let (answer, ()) = tokio::join!(ask(&network, zone, &question, &standing), leave);
        assert_eq!((answer.unwrap().kind, start.elapsed()), (Kind::Data, MS * 1500));
        let asked: Vec<_> = network.seen().iter().map(|seen| seen.server).collect();
        assert!(asked[0] < 2 && asked[1..] == [2, 2, 2, 2], "{asked:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_left_is_not_asked_over_tcp_either() {
    local(async {
        let zones = Rc::new(zones(1));
        let of_the_script = Rc::clone(&zones);
        let network = Network::new(move |seen| {
            let members = vec![endpoint(1)];
            of_the_script.set(&Name::ROOT, &Endpoints { members, last_resort: vec![] });
            reply(5, if seen.server == 0 { seen.reply(Flags::TC, [0; 3], &[]) } else { seen.a(60) })
        });
        let zone = zones.find(Name::ROOT.as_wire()).unwrap();
        assert_eq!(ask(&network, zone, &question(), &standing()).await.unwrap().kind, Kind::Data);
        let asked: Vec<_> = network.seen().iter().map(|seen| (seen.server, seen.over)).collect();
        assert_eq!(asked, [(0, Transport::Udp), (1, Transport::Udp)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_resort_is_asked_third_or_before_those_that_fail() {
    local(async {
        let network = Network::new(|seen| if seen.server == 4 { reply(1, seen.a(60)) } else { vec![] });
        let zones = zones(0);
        let members = (0..4).map(endpoint).collect();
        zones.set(&Name::ROOT, &Endpoints { members, last_resort: vec![endpoint(4)] });
        let zone = zones.find(Name::ROOT.as_wire()).unwrap();
        let took = async || {
            let start = Instant::now();
            assert_eq!(ask(&network, zone, &question(), &standing()).await.unwrap().kind, Kind::Data);
            start.elapsed()
        };
        assert_eq!(took().await, TRY_TIMEOUT * 2 + MS);
        for member in &zone.servers().members {
            (0..20).for_each(|_| member.failed(TryFailure::Timeout, Instant::now()));
        }
        assert_eq!(took().await, MS);
        network.becomes(|seen| reply(1, seen.a(60)));
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = network.seen().len();
        for _ in 0..20 {
            ask(&network, zone, &question(), &standing()).await.unwrap();
        }
        assert!(network.seen()[before..].iter().all(|seen| seen.server != 4), "members share the questions");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_second_server_is_asked_when_the_first_is_later_than_it_mostly_is() {
    local(async {
        let (network, two) = (Network::new(|_| vec![]), servers_with(2, "10000/s"));
        answer_for_a_while(&network, &two).await;
        // The first packet of a question is lost, whichever server it goes to.
        let mut first = true;
        network.becomes(
            move |seen| if std::mem::replace(&mut first, false) { vec![] } else { reply(10, seen.a(60)) },
        );
        let run = ask_once(&network, &two).await;
        assert_eq!((run.result.unwrap().kind, run.seen.len()), (Kind::Data, 2));
        assert!(run.took < MS * 30 && run.seen[0].server != run.seen[1].server, "{:?}", run.took);
        assert_eq!(two[0].group.figures().hedges, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_second_server_is_asked_early_where_the_rate_is_used_up_or_the_second_fails() {
    local(async {
        let network = Network::new(|_| vec![]);
        let (two, failing) = (servers_with(2, "200/s"), servers_with(2, "10000/s"));
        for servers in [&two, &failing] {
            answer_for_a_while(&network, servers).await;
        }
        network.becomes(|seen| reply(100, seen.a(60)));
        let all: Vec<_> = (0..30)
            .map(|_| {
                let (network, two) = (network.clone(), two.clone());
                tokio::task::spawn_local(async move { ask_once(&network, &two).await.result.unwrap().kind })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Kind::Data);
        }
        let hedges = two[0].group.figures().hedges;
        assert!(hedges <= 5, "{hedges}: none while others wait");
        (0..20).for_each(|_| failing[1].failed(TryFailure::Timeout, Instant::now()));
        for _ in 0..5 {
            assert_eq!(ask_once(&network, &failing).await.seen.len(), 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_packet_comes_out_of_the_budget() {
    local(async {
        let network = Network::new(|seen| match seen.over {
            Transport::Udp => reply(5, seen.reply(Flags::TC, [0; 3], &[])),
            _ => reply(5, seen.a(60)),
        });
        let one = servers_with(1, "10/s");
        let run = ask_once(&network, &one).await;
        assert_eq!((run.result.unwrap().kind, run.seen.len()), (Kind::Data, 2));
        assert_eq!(
            one[0].group.figures().sent,
            1,
            "a stream is counted by its segments, which the kernel does"
        );
        probe(&network, &one[0], &question().octets, &Standing::of(Waiter::ourselves(Class::Prefetch))).await;
        assert_eq!(one[0].group.figures().sent, 2);
        // Five were there; a datagram, a stream of two and a probe have been taken.
        let run = ask_once(&network, &one).await;
        assert!(run.took > MS * 50, "{:?}: the stream had to wait", run.took);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_without_a_turn_is_refused_in_time_and_nothing_is_sent() {
    local(async {
        let network = Network::new(|seen| reply(5, seen.a(60)));
        let one = servers_with(1, "10/s");
        for _ in 0..5 {
            ask_once(&network, &one).await;
        }
        let all: Vec<_> = (0..40)
            .map(|_| {
                let (network, one) = (network.clone(), one.clone());
                tokio::task::spawn_local(
                    async move { (ask_once(&network, &one).await.result, Instant::now()) },
                )
            })
            .collect();
        let start = Instant::now();
        let mut answered = 0;
        for task in all {
            let (result, at) = task.await.unwrap();
            match result {
                Ok(_) => answered += 1,
                Err(why) => {
                    assert_eq!((why, at), (Failure::Refused(Refused::Deadline), start), "at once");
                }
            }
        }
        // Ten a second, for as long as a question may wait that still needs a try.
        assert_eq!(answered, 15);
        assert_eq!(network.seen().len(), 5 + answered);
    })
    .await;
}

/// SERVFAIL or REFUSED at once from a server that answered well for the same domain a moment ago.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_may_be_a_limiters_is_asked_once_more_where_much_is_asked() {
    local(async {
        let network = Network::new(|_| vec![]);
        let one = servers_with(1, "adaptive");
        network.becomes(|seen| reply(1, seen.reply(5, [0; 3], &[])));
        let run = ask_once(&network, &one).await;
        assert_eq!(
            (run.result.unwrap().rcode, run.seen.len(), run.took),
            (Rcode::REFUSED, 1, MS),
            "an honest one"
        );
        answer_for_a_while(&network, &one).await;
        let mut first = true;
        network.becomes(move |seen| {
            reply(
                1,
                if std::mem::replace(&mut first, false) { seen.reply(5, [0; 3], &[]) } else { seen.a(60) },
            )
        });
        let run = ask_once(&network, &one).await;
        assert_eq!((run.result.unwrap().kind, run.seen.len()), (Kind::Data, 2));
        network.becomes(|seen| reply(1, seen.reply(5, [0; 3], &[])));
        let run = ask_once(&network, &one).await;
        assert_eq!((run.result.unwrap().rcode, run.seen.len()), (Rcode::REFUSED, 2), "once, not more");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(ask_once(&network, &one).await.seen.len(), 1, "little is asked now");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_left_alone_is_tried_again_by_one_question() {
    local(async {
        let network = Network::new(|seen| if seen.server == 0 { vec![] } else { reply(5, seen.a(60)) });
        let two = servers(2);
        (0..3).for_each(|_| two[0].failed(TryFailure::Timeout, Instant::now()));
        tokio::time::sleep(MS * 250).await;
        let before = network.seen().len();
        let all: Vec<_> = (0..100)
            .map(|_| {
                let (network, two) = (network.clone(), two.clone());
                tokio::task::spawn_local(async move { ask_once(&network, &two).await.result.unwrap().kind })
            })
            .collect();
        for one in all {
            assert_eq!(one.await.unwrap(), Kind::Data);
        }
        let to_it = network.seen()[before..].iter().filter(|seen| seen.server == 0).count();
        assert_eq!(to_it, 1);
    })
    .await;
}
