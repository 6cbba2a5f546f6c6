//! Answers past their end and shortly before it, under virtual time: who waits how long for a newer one, what goes out
//! meanwhile, and what goes upstream.

use std::rc::Rc;
use std::time::Duration;

use hickory_server::proto::op::{Message, ResponseCode};
use tokio::time::{Instant, sleep};

use super::scenarios::{
    MS, SECOND, ask, code, events, extended_errors, plain, query, reply, resolver, resolver_with, send,
};
use super::search_scenarios::{BOTH, Has, NX_TTL, STEP, Scene, no_data, scene, texts};
use super::*;
use crate::cache::ttl::Caps;
use crate::observe::cells::Event;
use crate::search::Mode;
use crate::search::list::Suffixes;
use crate::upstream::exchange;
use crate::upstream::simulation::{Network, Seen, local};
use crate::upstream::udp::Arrival;

const NAME: &str = "www.example.";
const DAY: Duration = Duration::from_secs(86_400);

fn off() -> Search {
    Search::new(Mode::Off, Suffixes::default(), false)
}

fn silent(_: &Seen) -> Vec<(Duration, Arrival)> {
    vec![]
}

fn servfail(seen: &Seen) -> Vec<(Duration, Arrival)> {
    reply(10, seen.reply(2, [0; 3], &[]))
}

/// A resolver that holds an answer to [`NAME`] whose 60 seconds are just over.
async fn expired() -> (Network, Rc<Resolver>) {
    let network = Network::new(|seen: &Seen| reply(10, seen.a(60)));
    let resolver = plain(&network);
    assert_eq!(ask(&resolver, NAME).await.answers[0].ttl, 60);
    sleep(SECOND * 60).await;
    (network, resolver)
}

/// The reply, and how long it took.
async fn timed(resolver: &Rc<Resolver>, name: &str) -> (Message, Duration) {
    let start = Instant::now();
    let message = ask(resolver, name).await;
    (message, start.elapsed())
}

fn is_stale(message: &Message) -> bool {
    let errors = extended_errors(message);
    let stale = errors.first().is_some_and(|code| [3, 19].contains(code));
    let records = message.answers.iter().chain(&message.authorities);
    assert!(
        !stale || records.clone().count() > 0 && records.clone().all(|record| (1..=30).contains(&record.ttl))
    );
    stale
}

/// When exchanges began, in seconds since the start: tries of one exchange are less than two seconds apart.
fn exchanges(network: &Network, start: Instant) -> Vec<u64> {
    let mut begun: Vec<Instant> = Vec::new();
    for seen in network.seen().iter().filter(|seen| seen.at >= start) {
        if begun.last().is_none_or(|last| seen.at > *last + SECOND * 2) {
            begun.push(seen.at);
        }
    }
    begun.iter().map(|at| (*at - start).as_secs()).collect()
}

/// The client response timer.
#[tokio::test(start_paused = true)]
async fn the_first_to_ask_waits_1800_ms_for_a_newer_answer_and_the_next_not_at_all() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(silent);
        let (first, took) = timed(&resolver, NAME).await;
        assert_eq!((code(&first), took), (ResponseCode::NoError, MS * 1800));
        assert_eq!((first.answers[0].ttl, extended_errors(&first)), (30, vec![3]), "RFC 8767 section 4");
        sleep(MS * 200).await;
        for _ in 0..20 {
            let (next, took) = timed(&resolver, NAME).await;
            assert_eq!((is_stale(&next), took), (true, Duration::ZERO));
        }
        assert_eq!(events(&resolver, Event::StaleData), 21);
        // Whose name nothing is known of is told so in time.
        let (unknown, took) = timed(&resolver, "unknown.example.").await;
        assert_eq!((code(&unknown), extended_errors(&unknown)), (ResponseCode::ServFail, vec![22]));
        assert!(took < SECOND * 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_joins_waits_for_his_own_time_or_for_the_end_of_the_exchange() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(silent);
        let joined: Vec<_> = [0, 20, 50, 1000]
            .map(|after| {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(async move {
                    sleep(MS * after).await;
                    timed(&resolver, NAME).await
                })
            })
            .into();
        let mut waited = Vec::new();
        for one in joined {
            let (message, took) = one.await.unwrap();
            assert!(is_stale(&message));
            waited.push(took);
        }
        // The exchange has come to nothing after 1.9 s.
        assert_eq!(waited, [MS * 1800, MS * 1800, MS * 1800, MS * 900]);
        assert_eq!(network.seen().len(), 1 + exchange::MAX_TRIES, "one exchange for all");
        let counts = [&resolver.shared.waiting, &resolver.shared.late].map(|gate| gate.count());
        assert_eq!(counts, [0, 1], "a late answer would still be taken");
    })
    .await;
}

/// The failure recheck timer; and while refreshes fail nobody waits for the next.
#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_tried_again_every_thirty_seconds_and_behind_the_answer() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(silent);
        let start = Instant::now();
        let mut waits = 0;
        while start.elapsed() < SECOND * 120 {
            let (message, took) = timed(&resolver, NAME).await;
            assert!(is_stale(&message));
            waits += u32::from(took > Duration::ZERO);
            sleep(MS * 250).await;
        }
        assert_eq!(exchanges(&network, start), [0, 32, 64, 96], "1.9 s until it has failed, then 30 s");
        assert_eq!(waits, 1);
        // The servers are back: the next refresh brings a fresh answer, and the one before it was the last stale one.
        network.becomes(|seen| reply(10, seen.a(60)));
        sleep(SECOND * 8).await;
        assert!(is_stale(&ask(&resolver, NAME).await));
        sleep(MS * 20).await;
        assert!(!is_stale(&ask(&resolver, NAME).await));
    })
    .await;
}

/// Long after a refresh has failed nothing is known of the servers any more.
#[tokio::test(start_paused = true)]
async fn after_a_pause_the_first_to_ask_waits_again() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(silent);
        ask(&resolver, NAME).await;
        sleep(SECOND * 62).await;
        assert_eq!(timed(&resolver, NAME).await.1, MS * 1800);
        network.becomes(|seen| reply(10, seen.a(60)));
        sleep(SECOND * 62).await;
        assert!(!is_stale(&ask(&resolver, NAME).await), "and gets the newer answer");
    })
    .await;
}

/// The maximum stale timer.
#[tokio::test(start_paused = true)]
async fn a_day_after_its_end_an_answer_is_no_more() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(servfail);
        sleep(DAY - SECOND).await;
        assert!(is_stale(&ask(&resolver, NAME).await));
        sleep(SECOND).await;
        assert_eq!(code(&ask(&resolver, NAME).await), ResponseCode::ServFail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_stale_where_that_is_turned_off() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(10, seen.a(60)));
        let caps = Caps { positive: DAY, negative: SECOND * 3600, stale: Duration::ZERO };
        let resolver = resolver_with(&network, Gate::new(1000, 1000), off(), caps);
        ask(&resolver, NAME).await;
        network.becomes(servfail);
        sleep(SECOND * 60).await;
        assert_eq!(code(&ask(&resolver, NAME).await), ResponseCode::ServFail);
    })
    .await;
}

/// RFC 8767 section 4: any code but NOERROR and NXDOMAIN is a failure to refresh. It ends the wait.
#[tokio::test(start_paused = true)]
async fn a_server_that_fails_or_refuses_is_answered_with_what_is_stale_at_once() {
    local(async {
        let network_refuses =
            |_: &Seen| vec![(MS * 10, Arrival::Refused(std::io::ErrorKind::ConnectionRefused))];
        let referral = |seen: &Seen| {
            reply(10, seen.reply(0, [0, 1, 0], b"\xc0\x0c\x00\x02\x00\x01\0\0\0\x3c\x00\x03\x01x\x00"))
        };
        type Script = Box<dyn FnMut(&Seen) -> Vec<(Duration, Arrival)>>;
        let scripts: [(&str, Script); 4] = [
            ("SERVFAIL", Box::new(servfail)),
            ("REFUSED", Box::new(|seen: &Seen| reply(10, seen.reply(5, [0; 3], &[])))),
            ("the network refuses", Box::new(network_refuses)),
            ("a referral", Box::new(referral)),
        ];
        for (what, script) in scripts {
            let (network, resolver) = expired().await;
            network.becomes(script);
            let (message, took) = timed(&resolver, NAME).await;
            assert!(is_stale(&message), "{what}: {message}");
            assert!(took < MS * 1800, "{what}: {took:?}");
            let asked = network.seen().len();
            sleep(SECOND * 29).await;
            assert!(is_stale(&ask(&resolver, NAME).await), "{what}");
            assert_eq!(network.seen().len(), asked, "{what}");
        }
    })
    .await;
}

/// The query resolution timer: what comes until 6 s after the question still replaces the stale answer.
#[tokio::test(start_paused = true)]
async fn a_late_answer_replaces_the_stale_one() {
    local(async {
        for (after, replaced) in [(2500, true), (6500, false)] {
            let (network, resolver) = expired().await;
            network.becomes(move |seen| reply(after, seen.a(60)));
            assert!(is_stale(&ask(&resolver, NAME).await));
            sleep(SECOND * 7).await;
            assert_eq!(!is_stale(&ask(&resolver, NAME).await), replaced, "after {after} ms");
            assert_eq!(network.seen().len(), 1 + exchange::MAX_TRIES);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn denials_are_given_stale_with_a_code_of_their_own() {
    local(async {
        let network = Network::new(|seen: &Seen| {
            reply(10, if seen.name() == "nx.example." { seen.nxdomain(30) } else { no_data(seen) })
        });
        let resolver = plain(&network);
        for name in ["nx.example.", "nodata.example."] {
            ask(&resolver, name).await;
        }
        sleep(SECOND * 30).await;
        network.becomes(servfail);
        let denial = ask(&resolver, "nx.example.").await;
        assert_eq!((code(&denial), extended_errors(&denial)), (ResponseCode::NXDomain, vec![19]));
        assert_eq!(denial.authorities[0].ttl, 30, "downstream caches read the SOA's TTL");
        let nothing = ask(&resolver, "nodata.example.").await;
        assert_eq!((code(&nothing), extended_errors(&nothing)), (ResponseCode::NoError, vec![3]));
        let counted = [Event::StaleNxDomain, Event::StaleNoData, Event::StaleData]
            .map(|event| events(&resolver, event));
        assert_eq!(counted, [1, 1, 0]);
    })
    .await;
}

/// RFC 9520: a failure ends when its time is over and leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn failures_are_never_stale() {
    local(async {
        let network = Network::new(servfail);
        let resolver = plain(&network);
        let start = Instant::now();
        for _ in 0..7 {
            assert_eq!(extended_errors(&ask(&resolver, NAME).await), [0u16; 0]);
            sleep(MS * 1100).await;
        }
        assert_eq!(
            network.seen().iter().map(|seen| (seen.at - start).as_secs()).collect::<Vec<_>>(),
            [0, 1, 3]
        );
    })
    .await;
}

/// Whatever upstream says of the name, also what must not be kept, is newer than what is stale.
#[tokio::test(start_paused = true)]
async fn what_has_been_replaced_is_never_given_again() {
    local(async {
        for (what, ttl) in [("NXDOMAIN", 1), ("data that must not be kept", 0)] {
            let (network, resolver) = expired().await;
            network.becomes(move |seen| reply(10, if ttl == 0 { seen.a(0) } else { seen.nxdomain(ttl) }));
            let newer = ask(&resolver, NAME).await;
            assert!(!is_stale(&newer), "{what}");
            assert_eq!(code(&ask(&resolver, NAME).await), code(&newer), "{what}");
            network.becomes(servfail);
            sleep(SECOND * 2).await;
            let after = ask(&resolver, NAME).await;
            let expected = if ttl == 0 { ResponseCode::ServFail } else { ResponseCode::NXDomain };
            assert_eq!((code(&after), after.answers.len()), (expected, 0), "{what}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn extended_errors_go_to_who_speaks_edns_and_upstreams_own_stay() {
    local(async {
        let theirs = b"\x00\x00\x29\x04\xd0\0\0\0\0\x00\x08\x00\x0f\x00\x04\x00\x04ok";
        let network = Network::new(move |seen: &Seen| {
            let mut message = seen.a(60);
            message[11] = 1;
            message.extend_from_slice(theirs);
            reply(10, message)
        });
        let resolver = plain(&network);
        assert_eq!(extended_errors(&ask(&resolver, NAME).await), [4]);
        sleep(SECOND * 60).await;
        network.becomes(servfail);
        assert_eq!(extended_errors(&ask(&resolver, NAME).await), [3, 4]);
        let mut plain = query(NAME);
        plain.edns = None;
        let answered = send(&resolver, &plain).await;
        assert_eq!((answered.edns.is_none(), answered.answers[0].ttl), (true, 30));
    })
    .await;
}

/// RFC 8767 section 5: without RD what is stale is not consulted.
#[tokio::test(start_paused = true)]
async fn without_rd_nothing_stale_is_given_and_nobody_is_asked() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(servfail);
        ask(&resolver, NAME).await;
        let asked = network.seen().len();
        let mut quiet = query(NAME);
        quiet.metadata.recursion_desired = false;
        assert_eq!(code(&send(&resolver, &quiet).await), ResponseCode::Refused);
        assert_eq!(network.seen().len(), asked);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_room_to_wait_the_stale_answer_goes_out_at_once() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(10, seen.a(60)));
        let resolver = resolver(&network, Gate::new(100, 1), off());
        ask(&resolver, NAME).await;
        sleep(SECOND * 60).await;
        network.becomes(silent);
        let waiting = Rc::clone(&resolver);
        let waiting = tokio::task::spawn_local(async move { ask(&waiting, "other.example.").await });
        tokio::task::yield_now().await;
        let asked = network.seen().len();
        let (message, took) = timed(&resolver, NAME).await;
        assert_eq!((is_stale(&message), took), (true, Duration::ZERO));
        assert_eq!(network.seen().len(), asked);
        assert_eq!(code(&waiting.await.unwrap()), ResponseCode::ServFail);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_question_that_is_given_up_is_answered_with_what_is_stale() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(|_| panic!("on purpose"));
        assert!(is_stale(&ask(&resolver, NAME).await));
    })
    .await;
}

/// What is hot is fresh: stale answers come from the store and take no place above.
#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_never_hot() {
    local(async {
        let (network, resolver) = expired().await;
        network.becomes(servfail);
        let hot = || resolver.shared.cache.usage()[0].1;
        let before = hot();
        for _ in 0..5 {
            assert!(is_stale(&ask(&resolver, NAME).await));
        }
        assert_eq!((events(&resolver, Event::HitHot), hot()), (0, before));
    })
    .await;
}

/// Both families of a name that is in use, composed for its first step, then past their ends.
async fn composed_and_expired(data_ttl: u32) -> Scene {
    let scene = scene(&[("www.example.com.", [Has::Data(data_ttl); 2])]);
    assert_eq!(texts(&scene.a(STEP).await).len(), 2);
    sleep(SECOND * 60).await;
    scene
}

/// A search rests on stale denials where a plain look-up would be given them.
#[tokio::test(start_paused = true)]
async fn a_walk_rests_on_what_is_stale_and_lives_as_long_as_that_may() {
    local(async {
        let scene = composed_and_expired(60).await;
        scene.network.becomes(servfail);
        let answer = scene.a(STEP).await;
        assert_eq!(texts(&answer)[1], "www.example.com. 192.0.2.1");
        assert!(is_stale(&answer), "{answer}");
        let asked = scene.network.seen().len();
        sleep(SECOND * 29).await;
        assert_eq!(scene.a(STEP).await.answers[0].ttl, 1);
        assert_eq!(texts(&scene.aaaa(STEP).await).len(), 2);
        assert_eq!(scene.network.seen().len(), asked);
        // It is made anew as long as nothing newer can be had,
        sleep(SECOND * 2).await;
        assert!(is_stale(&scene.a(STEP).await));
        // and from newer answers when there are some.
        scene.network.becomes(|seen| {
            let bare = seen.name() == "www.example.com.";
            reply(5, if bare { seen.a(60) } else { seen.nxdomain(NX_TTL) })
        });
        sleep(SECOND * 62).await;
        let answer = scene.a(STEP).await;
        assert_eq!((is_stale(&answer), texts(&answer).len()), (false, 2));
    })
    .await;
}

/// The name itself is fresh, the denials before it are not.
#[tokio::test(start_paused = true)]
async fn a_fresh_answer_behind_stale_denials_keeps_its_own_ttl() {
    local(async {
        let scene = composed_and_expired(300).await;
        scene.network.becomes(servfail);
        let answer = scene.a(STEP).await;
        assert_eq!(extended_errors(&answer), [3]);
        assert_eq!((answer.answers[0].ttl, answer.answers[1].ttl), (30, 240));
    })
    .await;
}

/// 1.8 s are counted once, from the question, and not for the walk and each of its steps anew.
#[tokio::test(start_paused = true)]
async fn a_search_waits_no_longer_than_a_plain_question() {
    local(async {
        let scene = composed_and_expired(60).await;
        scene.network.becomes(silent);
        let start = Instant::now();
        let (literal, took) = timed(&scene.resolver, STEP).await;
        assert_eq!((code(&literal), extended_errors(&literal)), (ResponseCode::NXDomain, vec![19]));
        assert_eq!(took, MS * 1800);
        // The walk was late. It goes on, its later steps do not wait either: every question is on its way,
        sleep(MS * 50).await;
        let seen = scene.network.seen();
        let asked = seen.iter().filter(|seen| seen.at >= start);
        let distinct: std::collections::HashSet<_> =
            asked.map(|seen| seen.question().to_ascii_lowercase()).collect();
        assert_eq!(distinct.len(), 10);
        // and nothing is left for the next look-up to wait for.
        sleep(SECOND * 31).await;
        let (next, took) = timed(&scene.resolver, STEP).await;
        assert_eq!((texts(&next).len(), took), (2, Duration::ZERO));
    })
    .await;
}

/// A family that fails where the other does not: what is stale of it, and no retry.
#[tokio::test(start_paused = true)]
async fn a_family_that_fails_is_composed_from_what_is_stale() {
    local(async {
        let scene = composed_and_expired(60).await;
        scene.becomes("www.example.com.", [Has::Data(60), Has::Fails]);
        let asked = scene.asked("www.example.com.");
        let answer = scene.aaaa(STEP).await;
        assert_eq!((code(&answer), texts(&answer).len()), (ResponseCode::NoError, 2));
        assert!(is_stale(&answer));
        assert_eq!(scene.asked("www.example.com."), asked + 2);
    })
    .await;
}

/// A stale denial leads its client to the next step as a fresh one does: that step must not look like another's first.
#[tokio::test(start_paused = true)]
async fn a_stale_denial_bars_what_its_client_may_ask_next() {
    local(async {
        let scene = scene(&[("www.amazon.com.", BOTH)]);
        let first = "www.amazon.com.shop.dev.svc.cluster.local.";
        let barred = "www.amazon.com.shop.svc.cluster.local.";
        assert_eq!(code(&scene.a(first).await), ResponseCode::NXDomain);
        // The denial has ended, and the bar with it.
        sleep(SECOND * (NX_TTL + 31)).await;
        let world = Rc::clone(&scene.world);
        world.borrow_mut().insert("www.amazon.com.shop.dev.svc.cluster.local.", [Has::Fails; 2]);
        assert!(is_stale(&scene.a(first).await));
        // Given again without a question upstream, it leads on again.
        sleep(SECOND * 25).await;
        assert!(is_stale(&scene.a(first).await));
        sleep(SECOND * 10).await;
        assert_eq!(code(&scene.a(barred).await), ResponseCode::NXDomain);
        sleep(SECOND * 31).await;
        assert_eq!(code(&scene.a(barred).await), ResponseCode::NoError, "nobody is on that search any more");
    })
    .await;
}
