//! Answers in use shortly before their end, under virtual time: nobody waits for the next, and no question goes upstream
//! more than once in nine tenths of a TTL.

use std::rc::Rc;
use std::time::Duration;

use hickory_server::proto::op::ResponseCode;
use tokio::time::{Instant, sleep};

use super::scenarios::{MS, SECOND, ask, code, events, extended_errors, plain, query, reply, send};
use super::search_scenarios::{Has, STEP, scene, texts};
use super::*;
use crate::observe::cells::Event;
use crate::upstream::simulation::{Network, Seen, local};

const NAME: &str = "www.example.";

fn resolver(ttl: u32) -> (Network, Rc<Resolver>) {
    let network = Network::new(move |seen: &Seen| reply(10, seen.a(ttl)));
    let resolver = plain(&network);
    (network, resolver)
}

/// Asks for so long, so often, and tells how many of the answers had to be waited for.
async fn in_use(resolver: &Rc<Resolver>, how_long: Duration, pause: Duration) -> u32 {
    let start = Instant::now();
    let mut waited = 0;
    while start.elapsed() < how_long {
        let asked = Instant::now();
        assert_eq!(ask(resolver, NAME).await.answers.len(), 1);
        waited += u32::from(asked.elapsed() > Duration::ZERO);
        sleep(pause).await;
    }
    waited
}

/// Milliseconds between one question upstream and the next.
fn gaps(network: &Network) -> Vec<u128> {
    let seen = network.seen();
    seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect()
}

/// P2: a (name, type) is asked upstream at most once per nine tenths of its TTL.
#[tokio::test(start_paused = true)]
async fn an_answer_in_use_is_asked_for_again_in_its_last_tenth_and_nobody_waits() {
    local(async {
        for ttl in [10, 30, 60] {
            let (network, resolver) = resolver(ttl);
            assert_eq!(in_use(&resolver, SECOND * 600, MS * 70).await, 1, "the first");
            let ttl = u128::from(ttl) * 1000;
            assert!(
                gaps(&network).iter().all(|gap| (ttl * 9 / 10..ttl).contains(gap)),
                "{:?}",
                gaps(&network)
            );
            let asked = network.seen().len() as u64;
            assert_eq!(events(&resolver, Event::Prefetched), asked - 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_lives_less_than_ten_seconds_ends_by_itself() {
    local(async {
        let (network, resolver) = resolver(9);
        in_use(&resolver, SECOND * 60, MS * 70).await;
        assert_eq!(events(&resolver, Event::Prefetched), 0);
        assert!(gaps(&network).iter().all(|gap| *gap >= 9000));
    })
    .await;
}

/// Two questions are no use yet: the second finds the answer in the store.
#[tokio::test(start_paused = true)]
async fn what_is_asked_seldom_is_left_to_end() {
    local(async {
        let (network, resolver) = resolver(60);
        ask(&resolver, NAME).await;
        sleep(SECOND * 55).await;
        ask(&resolver, NAME).await;
        sleep(SECOND).await;
        assert_eq!(network.seen().len(), 1);
        ask(&resolver, NAME).await;
        sleep(SECOND).await;
        assert_eq!(network.seen().len(), 2, "the third is");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn before_the_last_tenth_and_without_rd_nothing_is_asked() {
    local(async {
        let (network, resolver) = resolver(60);
        in_use(&resolver, SECOND * 53, SECOND).await;
        let mut quiet = query(NAME);
        quiet.metadata.recursion_desired = false;
        sleep(SECOND * 2).await;
        for _ in 0..5 {
            assert_eq!(send(&resolver, &quiet).await.answers.len(), 1);
            sleep(MS * 100).await;
        }
        assert_eq!(network.seen().len(), 1);
        ask(&resolver, NAME).await;
        sleep(MS * 20).await;
        assert_eq!(network.seen().len(), 2, "the refresh was still to be had");
    })
    .await;
}

/// The answer is asked for as it was asked: DO and CD have entries of their own.
#[tokio::test(start_paused = true)]
async fn each_form_of_a_question_is_refreshed_as_it_is() {
    local(async {
        let (network, resolver) = resolver(60);
        let mut message = query("www.Example.");
        message.edns.as_mut().unwrap().set_dnssec_ok(true);
        message.metadata.checking_disabled = true;
        for _ in 0..59 {
            send(&resolver, &message).await;
            sleep(SECOND).await;
        }
        let seen = network.seen();
        assert_eq!(seen.len(), 2);
        let plain = |seen: &Seen| seen.query[2..].to_ascii_lowercase();
        assert_eq!(plain(&seen[0]), plain(&seen[1]));
    })
    .await;
}

/// The good answer stays to its end, and then whoever asks does not wait for servers that have just failed.
#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_costs_nobody_anything() {
    local(async {
        let (network, resolver) = resolver(60);
        in_use(&resolver, SECOND * 53, SECOND).await;
        network.becomes(|seen| reply(10, seen.reply(2, [0; 3], &[])));
        assert_eq!(in_use(&resolver, SECOND * 20, SECOND).await, 0);
        let last = ask(&resolver, NAME).await;
        assert_eq!((code(&last), extended_errors(&last)), (ResponseCode::NoError, vec![3]));
        assert_eq!(network.seen().len(), 2, "once before the end, and not within 30 s after");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_at_the_end_is_joined() {
    local(async {
        let (network, resolver) = resolver(10);
        in_use(&resolver, SECOND * 9, SECOND).await;
        network.becomes(|seen| reply(300, seen.a(60)));
        sleep(MS * 900).await;
        ask(&resolver, NAME).await;
        sleep(MS * 200).await;
        assert_eq!(ask(&resolver, NAME).await.answers[0].ttl, 60);
        assert_eq!(network.seen().len(), 2);
    })
    .await;
}

/// Each of its parts came some milliseconds after the one before; all are in their last tenths when the first is asked for.
#[tokio::test(start_paused = true)]
async fn the_parts_of_a_search_are_refreshed_together() {
    local(async {
        let scene = scene(&[("www.example.com.", [Has::Data(300); 2])]);
        for _ in 0..3 {
            scene.a(STEP).await;
        }
        sleep(MS * 26_980).await;
        let start = Instant::now();
        while start.elapsed() < SECOND * 4 {
            let asked = Instant::now();
            assert_eq!(texts(&scene.a(STEP).await).len(), 2);
            assert_eq!(asked.elapsed(), Duration::ZERO);
            sleep(MS).await;
        }
        assert_eq!(scene.network.seen().len(), 10 + 8);
    })
    .await;
}

/// A search's answer is made anew from parts that have been refreshed: its client waits for nothing.
#[tokio::test(start_paused = true)]
async fn the_parts_of_a_search_are_refreshed_before_it_ends() {
    local(async {
        let scene = scene(&[("www.example.com.", [Has::Data(300); 2])]);
        let start = Instant::now();
        let mut waited = Vec::new();
        while start.elapsed() < SECOND * 600 {
            let asked = Instant::now();
            assert_eq!(texts(&scene.a(STEP).await).len(), 2);
            assert_eq!(texts(&scene.aaaa(STEP).await).len(), 2);
            if asked.elapsed() > Duration::ZERO {
                waited.push((asked - start).as_secs());
            }
            sleep(MS * 250).await;
        }
        assert_eq!(waited, [0]);
        // Each name for both families, the denials once in 27 to 30 s, the bare name once in 270 to 300.
        let asked = |name: &str| scene.asked(name) / 2;
        assert!((20..=23).contains(&asked(STEP)), "{}", asked(STEP));
        assert!((2..=3).contains(&asked("www.example.com.")), "{}", asked("www.example.com."));
    })
    .await;
}
