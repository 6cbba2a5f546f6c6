//! Both levels together: what moves up, what goes first, and what nobody can displace.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cache::key::SearchListId;
use crate::wire::iana::Rcode;
use crate::wire::name::Name;
use crate::wire::question::Question;

const CAPS: Caps =
    Caps { positive: Duration::from_secs(86_400), negative: Duration::from_secs(3600), stale: DAY };
const DAY: Duration = Duration::from_secs(86_400);
const START: Moment = Moment(1000);

fn client(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

fn cache(store_bytes: u64, hot_entries: usize) -> Cache {
    Cache::new(Size { store_bytes, hot_entries, hot_bytes: 1 << 20 }, CAPS)
}

fn question(name: &str) -> Vec<u8> {
    [&[0; 12], Name::from_text(name).unwrap().as_wire(), &[0, 1, 0, 1]].concat()
}

fn key(cache: &Cache, name: &str) -> QueryKey {
    let message = question(name);
    QueryKey::of(&Question::read(&message).unwrap(), false, false, SearchListId::LITERAL, cache.hasher())
}

/// An answer that lives for `ttl` seconds; a failure lives as failures do.
fn answer(name: &str, kind: Kind, ttl: u32) -> Answer {
    Answer {
        wire: question(name),
        ttl_offsets: vec![],
        rcode: if kind == Kind::Failure { Rcode::SERVFAIL } else { Rcode::NOERROR },
        kind,
        answer_ttl: Some(ttl),
        negative_ttl: Some(ttl),
        ede: vec![],
        had_opt: false,
        referral: false,
    }
}

fn keep(cache: &Cache, name: &str, kind: Kind, ttl: u32, from: u8, now: Moment) -> Arc<Entry> {
    cache.keep(&key(cache, name), answer(name, kind, ttl), client(from), now)
}

fn is_hot(cache: &Cache, name: &str, now: Moment) -> bool {
    cache.pin().get(&key(cache, name), now).is_some()
}

fn is_stored(cache: &Cache, name: &str, now: Moment) -> bool {
    cache.peek(&key(cache, name), now).is_some()
}

#[test]
fn what_is_asked_twice_moves_up_and_what_is_asked_once_does_not() {
    let cache = cache(1 << 20, 100);
    keep(&cache, "once.example", Kind::Data, 60, 1, START);
    keep(&cache, "twice.example", Kind::Data, 60, 1, START);
    assert!(!is_hot(&cache, "twice.example", START), "asked once so far");
    assert!(cache.stored(&key(&cache, "twice.example"), START).is_some());
    assert!(is_hot(&cache, "TWICE.example", START));
    assert!(!is_hot(&cache, "once.example", START));
}

#[test]
fn an_answer_ends_with_its_ttl_to_the_millisecond() {
    let cache = cache(1 << 20, 100);
    keep(&cache, "a.example", Kind::Data, 5, 1, START);
    cache.stored(&key(&cache, "a.example"), START);
    for (after, fresh) in [(4999, true), (5000, false)] {
        let now = START.after(Duration::from_millis(after));
        assert_eq!((is_hot(&cache, "a.example", now), is_stored(&cache, "a.example", now)), (fresh, fresh));
    }
}

#[test]
fn a_void_answer_is_given_by_neither_level() {
    let cache = cache(1 << 20, 100);
    let entry = keep(&cache, "a.example", Kind::Data, 60, 1, START);
    cache.stored(&key(&cache, "a.example"), START);
    entry.make_void();
    assert!(!is_hot(&cache, "a.example", START) && !is_stored(&cache, "a.example", START));
}

#[test]
fn a_new_answer_replaces_the_one_in_the_hot_level_too() {
    let cache = cache(1 << 20, 100);
    keep(&cache, "a.example", Kind::Failure, 0, 1, START);
    cache.stored(&key(&cache, "a.example"), START);
    assert!(is_hot(&cache, "a.example", START));
    keep(&cache, "a.example", Kind::Data, 60, 1, START);
    assert!(!is_hot(&cache, "a.example", START), "the failure");
    assert_eq!(cache.stored(&key(&cache, "a.example"), START).unwrap().kind(), Kind::Data);
    assert_eq!(cache.pin().get(&key(&cache, "a.example"), START).unwrap().kind(), Kind::Data);
}

/// A composed answer made of `part`, under the key of a search.
fn compose(cache: &Cache, name: &str, part: &Arc<Entry>, rests_on: &[Arc<Entry>]) -> Arc<Entry> {
    let message = question(name);
    let question = Question::read(&message).unwrap();
    let key = QueryKey::of(&question, false, false, SearchListId::SEARCHED, cache.hasher());
    let answer = answer(name, Kind::Data, 60);
    let lifetime = Duration::from_secs(60);
    let bucket = cache.bucket(client(1));
    let entry = Entry::composed(&key, &answer, lifetime, 4, bucket, vec![Arc::clone(part)], START);
    cache.put(&key, entry, rests_on, START)
}

#[test]
fn what_a_composed_answer_is_made_of_is_found_also_after_the_store_has_dropped_it() {
    let cache = cache(1 << 20, 0);
    let part = keep(&cache, "www.example", Kind::Data, 3600, 1, START);
    let composed = compose(&cache, "www.example.shop", &part, std::slice::from_ref(&part));
    for n in 0..20_000 {
        keep(&cache, &format!("flood{n}.example"), Kind::Data, 3600, (n % 200) as u8, START);
    }
    cache.usage();
    assert!(cache.store.get(&key(&cache, "www.example")).is_none(), "the store has dropped it");
    assert!(is_stored(&cache, "www.example", START));
    drop((composed, part));
    assert!(!is_stored(&cache, "www.example", START), "nothing is made of it any more");
}

#[test]
fn a_composed_answer_ends_when_another_kind_of_answer_comes_to_what_it_rests_on() {
    let cache = cache(1 << 20, 0);
    let part = keep(&cache, "www.example", Kind::Data, 3600, 1, START);
    let denial = keep(&cache, "www.example.svc", Kind::NxDomain, 30, 1, START);
    let composed = compose(&cache, "www.example.shop", &part, &[Arc::clone(&part), Arc::clone(&denial)]);
    drop(denial);
    keep(&cache, "www.example.svc", Kind::NxDomain, 30, 1, START);
    assert!(composed.is_fresh(START), "the same kind");
    keep(&cache, "www.example.svc", Kind::NoData, 30, 1, START);
    assert!(!composed.is_fresh(START));
}

#[test]
fn a_bar_is_not_replaced_by_what_a_walk_ends_with() {
    let cache = cache(1 << 20, 0);
    let part = keep(&cache, "www.example", Kind::Data, 3600, 1, START);
    let message = question("www.example.shop");
    let question = Question::read(&message).unwrap();
    let key = QueryKey::of(&question, false, false, SearchListId::SEARCHED, cache.hasher());
    let literal = |role, seconds| {
        Entry::literal(&key, role, Duration::from_secs(seconds), cache.bucket(client(1)), START)
    };
    cache.put(&key, literal(Role::Bar, 60), &[], START);
    cache.put(&key, literal(Role::Literal, 10), &[], START);
    assert_eq!(compose(&cache, "www.example.shop", &part, &[]).role(), Role::Bar);
    cache.put(&key, literal(Role::Bar, 30), &[], START);
    let left = cache.peek(&key, START).unwrap().remaining(START);
    assert_eq!(left, Duration::from_secs(60), "a shorter bar does not shorten it");
}

#[test]
fn an_answer_near_its_end_is_claimed_by_one_alone() {
    let cache = cache(1 << 20, 0);
    let entry = keep(&cache, "a.example", Kind::Data, 60, 1, START);
    let (before, near) = (START.after(Duration::from_millis(53_999)), START.after(Duration::from_secs(54)));
    assert!(!entry.claim(before));
    let claimed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| entry.claim(near))).collect();
        threads.into_iter().map(|thread| u32::from(thread.join().unwrap())).sum::<u32>()
    });
    assert_eq!(claimed, 1);
    assert!(!entry.is_due(near) && entry.is_fresh(near));
    let failure = keep(&cache, "b.example", Kind::Failure, 0, 1, START);
    assert!(!failure.is_due(START.after(Duration::from_millis(999))));
}

#[test]
fn a_failure_does_not_replace_a_good_answer() {
    let cache = cache(1 << 20, 100);
    keep(&cache, "a.example", Kind::Data, 60, 1, START);
    assert_eq!(keep(&cache, "a.example", Kind::Failure, 0, 1, START).kind(), Kind::Data);
    assert_eq!(cache.peek(&key(&cache, "a.example"), START).unwrap().kind(), Kind::Data);
}

#[test]
fn failures_of_one_question_in_a_row_live_longer_and_longer() {
    let cache = cache(1 << 20, 100);
    let lives = |name: &str| keep(&cache, name, Kind::Failure, 0, 1, START).lifetime_ms();
    assert_eq!([lives("a.example"), lives("a.example"), lives("a.example")], [1000, 2000, 4000]);
    assert_eq!(lives("b.example"), 1000);
    keep(&cache, "a.example", Kind::NoData, 1, 1, START);
    let later = START.after(Duration::from_secs(10));
    assert_eq!(keep(&cache, "a.example", Kind::Failure, 0, 1, later).lifetime_ms(), 1000, "answered between");
}

#[test]
fn the_store_keeps_to_its_bytes() {
    let cache = cache(1 << 20, 0);
    for n in 0..20_000 {
        keep(&cache, &format!("n{n}.example"), Kind::Data, 3600, (n % 200) as u8, START);
    }
    let [_, (_, entries, bytes)] = cache.usage();
    assert!(bytes <= 1 << 20, "{bytes}");
    assert!(entries > 1000, "{entries}");
    assert!(is_stored(&cache, "n19999.example", START), "newcomers are taken");
}

#[test]
fn one_client_cannot_push_out_what_others_brought() {
    let cache = cache(1 << 20, 0);
    let mine: Vec<String> = (0..300).map(|n| format!("mine{n}.example")).collect();
    mine.iter().for_each(|name| drop(keep(&cache, name, Kind::Data, 3600, 1, START)));
    for n in 0..50_000 {
        keep(&cache, &format!("flood{n}.example"), Kind::Data, 3600, 2, START);
    }
    cache.usage();
    let left = mine.iter().filter(|name| is_stored(&cache, name, START)).count();
    assert_eq!(left, mine.len());
}

#[test]
fn a_single_client_finds_its_latest_names_however_many_it_had_before() {
    let cache = cache(1 << 20, 0);
    for n in 0..20_000 {
        keep(&cache, &format!("earlier{n}.example"), Kind::Data, 3600, 1, START);
    }
    let latest: Vec<String> = (0..1000).map(|n| format!("latest{n}.example")).collect();
    latest.iter().for_each(|name| drop(keep(&cache, name, Kind::Data, 3600, 1, START)));
    cache.usage();
    assert!(latest.iter().all(|name| is_stored(&cache, name, START)));
}

#[test]
fn the_hot_level_drops_what_is_not_used_before_what_is() {
    let cache = cache(1 << 22, 100);
    let promote = |name: &str| {
        keep(&cache, name, Kind::Data, 3600, 1, START);
        cache.stored(&key(&cache, name), START);
    };
    let used: Vec<String> = (0..50).map(|n| format!("used{n}.example")).collect();
    used.iter().for_each(|name| promote(name));
    for n in 0..2000 {
        promote(&format!("passing{n}.example"));
        if n % 10 == 0 {
            assert!(used.iter().all(|name| is_hot(&cache, name, START)), "after {n}");
        }
    }
}

#[test]
fn a_reader_of_the_hot_level_never_sees_a_wrong_or_freed_answer() {
    let cache = Arc::new(cache(1 << 22, 64));
    let writer = Arc::clone(&cache);
    let names: Vec<String> = (0..400).map(|n| format!("n{n}.example")).collect();
    let writes = std::thread::spawn({
        let names = names.clone();
        move || {
            for name in names.iter().cycle().take(20_000) {
                keep(&writer, name, Kind::Data, 3600, 1, START);
                writer.stored(&key(&writer, name), START);
            }
        }
    });
    while !writes.is_finished() {
        let pin = cache.pin();
        for name in &names {
            if let Some(entry) = pin.get(&key(&cache, name), START) {
                assert_eq!(entry.said().wire, question(name));
            }
        }
    }
    writes.join().unwrap();
}

proptest! {
    /// Whatever is done, a level gives a key's own latest answer or nothing, and keeps to its bounds.
    #[test]
    fn levels_give_the_latest_answer_or_nothing(steps in prop::collection::vec((0u8..3, 0u8..30, 1u32..100, 0u64..20), 1..200)) {
        let cache = cache(1 << 20, 8);
        let mut latest = std::collections::HashMap::new();
        let mut now = START;
        for (step, name, ttl, pause) in steps {
            let name = format!("n{name}.example");
            match step {
                0 => {
                    let entry = keep(&cache, &name, Kind::Data, ttl, 1, now);
                    latest.insert(name, entry);
                }
                1 => drop(cache.stored(&key(&cache, &name), now)),
                _ => now = now.after(Duration::from_secs(pause)),
            }
            let pin = cache.pin();
            for (name, entry) in &latest {
                let key = key(&cache, name);
                let fresh = now < entry.expires();
                prop_assert!(pin.get(&key, now).is_none_or(|hot| fresh && std::ptr::eq(hot, &raw const **entry)));
                prop_assert!(cache.peek(&key, now).is_none_or(|stored| fresh && Arc::ptr_eq(&stored, entry)));
            }
            let [(_, hot, _), _] = cache.usage();
            prop_assert!(hot <= 8);
        }
    }
}
