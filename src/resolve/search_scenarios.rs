//! Searches cut short under virtual time: what is composed, what is left to the client, and for how long.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::RecordType;
use tokio::time::{Instant, sleep};

use super::scenarios::{MS, SECOND, ask, code, events, extended_errors, query, reply, resolver, send};
use super::*;
use crate::observe::cells::Event;
use crate::search::list::Suffixes;
use crate::search::{Mode, WALK};
use crate::upstream::simulation::{Network, Seen, local};
use crate::upstream::udp::Arrival;
use crate::wire::name::Name;

/// What a name has in a family.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Has {
    Data(u32),
    Nothing,
    Fails,
    Silent,
    Slow(u32),
}

pub(super) type World = Rc<RefCell<HashMap<&'static str, [Has; 2]>>>;

pub(super) const NX_TTL: u32 = 30;

/// A network in which all names are denied but these.
fn network(world: &World) -> Network {
    let world = Rc::clone(world);
    Network::new(move |seen: &Seen| {
        let v6 = seen.question().ends_with(&[0, 28, 0, 1]);
        let has = world.borrow().get(seen.name().as_str()).map(|has| has[usize::from(v6)]);
        let data = |ttl: u32| if v6 { aaaa(seen, ttl) } else { seen.a(ttl) };
        match has {
            None => reply(5, seen.nxdomain(NX_TTL)),
            Some(Has::Data(ttl)) => reply(5, data(ttl)),
            Some(Has::Nothing) => reply(5, no_data(seen)),
            Some(Has::Fails) => reply(5, seen.reply(2, [0; 3], &[])),
            Some(Has::Silent) => Vec::<(Duration, Arrival)>::new(),
            Some(Has::Slow(after)) => reply(after, data(60)),
        }
    })
}

fn aaaa(seen: &Seen, ttl: u32) -> Vec<u8> {
    let data = [&b"\xc0\x0c\x00\x1c\x00\x01"[..], &ttl.to_be_bytes(), b"\x00\x10\x20\x01\x0d\xb8", &[1; 12]]
        .concat();
    seen.reply(0, [1, 0, 0], &data)
}

/// NODATA with the SOA that the denial of the same question would have.
pub(super) fn no_data(seen: &Seen) -> Vec<u8> {
    let mut message = seen.nxdomain(NX_TTL);
    message[3] &= 0xf0;
    message
}

pub(super) struct Scene {
    pub(super) world: World,
    pub(super) network: Network,
    pub(super) resolver: Rc<Resolver>,
}

pub(super) fn scene(names: &[(&'static str, [Has; 2])]) -> Scene {
    scene_with(names, false)
}

fn scene_with(names: &[(&'static str, [Has; 2])], denial_cut: bool) -> Scene {
    let world: World = Rc::new(RefCell::new(names.iter().copied().collect()));
    let network = network(&world);
    let name = |text| Name::from_text(text).unwrap();
    let suffixes = Suffixes::new(name("cluster.local"), &[name("corp.internal")]).unwrap();
    let search = Search::new(Mode::Static(b"shop"[..].into()), suffixes, denial_cut);
    let resolver = resolver(&network, Gate::new(1000, 1000), search);
    Scene { world, network, resolver }
}

pub(super) const BOTH: [Has; 2] = [Has::Data(60), Has::Data(60)];

impl Scene {
    pub(super) async fn a(&self, name: &str) -> Message {
        ask(&self.resolver, name).await
    }

    pub(super) async fn aaaa(&self, name: &str) -> Message {
        let mut message = query(name);
        message.queries[0].set_query_type(RecordType::AAAA);
        send(&self.resolver, &message).await
    }

    /// How often a name was asked for upstream.
    pub(super) fn asked(&self, name: &str) -> usize {
        self.network.seen().iter().filter(|seen| seen.name() == name).count()
    }

    pub(super) fn becomes(&self, name: &'static str, has: [Has; 2]) {
        self.world.borrow_mut().insert(name, has);
    }
}

/// The answer section, a word for each record.
pub(super) fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

pub(super) const STEP: &str = "www.example.com.shop.svc.cluster.local.";

#[tokio::test(start_paused = true)]
async fn the_first_step_is_answered_with_what_the_search_ends_with() {
    local(async {
        let scene = scene(&[("www.example.com.", BOTH)]);
        let answer = scene.a("www.Example.com.shop.svc.cluster.local.").await;
        assert_eq!(answer.queries[0].name().to_ascii(), "www.Example.com.shop.svc.cluster.local.");
        assert_eq!(
            texts(&answer),
            ["www.Example.com.shop.svc.cluster.local. www.example.com.", "www.example.com. 192.0.2.1"]
        );
        assert!(answer.answers[0].ttl <= NX_TTL && answer.answers[1].ttl == 60);
        assert!(!answer.metadata.authentic_data && !answer.metadata.authoritative);
        let asked = network_len(&scene);
        assert_eq!(texts(&scene.aaaa(STEP).await).len(), 2);
        assert_eq!(network_len(&scene), asked, "both families were walked at once");
        // The name itself, two candidates in the cluster, one domain of the host's, the bare name, A and AAAA each.
        assert_eq!(asked, 10);
        assert_eq!(events(&scene.resolver, Event::SearchComposed), 1);
    })
    .await;
}

pub(super) fn network_len(scene: &Scene) -> usize {
    scene.network.seen().len()
}

#[tokio::test(start_paused = true)]
async fn a_family_that_is_not_there_is_an_alias_without_data() {
    local(async {
        for missing in [Has::Nothing, Has::Data(60)] {
            let scene = scene(&[("www.example.com.", [Has::Data(60), missing])]);
            if missing == Has::Data(60) {
                // Servers exist that deny one family of a name that they have.
                scene.network.becomes(|seen| {
                    let bare = seen.name() == "www.example.com.";
                    let v6 = seen.question().ends_with(&[0, 28, 0, 1]);
                    reply(5, if bare && !v6 { seen.a(60) } else { seen.nxdomain(NX_TTL) })
                });
            }
            let answer = scene.aaaa(STEP).await;
            assert_eq!((code(&answer), texts(&answer).len()), (ResponseCode::NoError, 1));
            assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
            assert_eq!(texts(&scene.a(STEP).await).len(), 2);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_first_candidate_that_exists_decides_for_both_families() {
    local(async {
        let scene = scene(&[
            ("api.prod.svc.svc.cluster.local.", [Has::Data(60), Has::Nothing]),
            ("api.prod.svc.cluster.local.", BOTH),
        ]);
        let answer = scene.aaaa("api.prod.svc.shop.svc.cluster.local.").await;
        assert_eq!(
            (code(&answer), texts(&answer).len()),
            (ResponseCode::NoError, 1),
            "an alias without data"
        );
        assert_eq!(answer.answers[0].data.to_string(), "api.prod.svc.svc.cluster.local.");
    })
    .await;
}

/// So many A records of the bare name.
fn many(seen: &Seen, count: u16) -> Vec<u8> {
    let record =
        |n: u16| [&b"\xc0\x0c\x00\x01\x00\x01\0\0\0\x3c\x00\x04\xc0\x00\x02"[..], &[n as u8]].concat();
    seen.reply(0, [count, 0, 0], &(0..count).flat_map(record).collect::<Vec<_>>())
}

/// The alias makes an answer longer: a client without TCP would get fewer addresses than its own search finds.
#[tokio::test(start_paused = true)]
async fn what_would_not_fit_into_a_datagram_is_left_to_the_client() {
    local(async {
        // Header 12, question 44, alias 29, addresses of 16 octets.
        for (count, fits) in [(26, true), (27, false)] {
            let scene = scene(&[]);
            scene.network.becomes(move |seen| {
                let bare = seen.name() == "www.example.com.";
                let v6 = seen.question().ends_with(&[0, 28, 0, 1]);
                reply(5, if bare && !v6 { many(seen, count) } else { seen.nxdomain(NX_TTL) })
            });
            let (v4, v6) = (scene.a(STEP).await, scene.aaaa(STEP).await);
            let wanted = if fits { ResponseCode::NoError } else { ResponseCode::NXDomain };
            assert_eq!((code(&v4), code(&v6)), (wanted, wanted), "{count}");
            assert_eq!(v4.answers.len(), if fits { 27 } else { 0 });
            assert!(!v4.metadata.truncation);
            assert_eq!(events(&scene.resolver, Event::SearchTooLong), u64::from(!fits));
            assert_eq!(events(&scene.resolver, Event::SearchComposed), u64::from(fits));
        }
    })
    .await;
}

/// musl ends its search at a name without an address, glibc, Go and c-ares go on: nothing is right for all.
#[tokio::test(start_paused = true)]
async fn a_candidate_without_an_address_leaves_the_search_to_the_client() {
    local(async {
        let nothing = [Has::Nothing, Has::Nothing];
        let scene = scene(&[("www.example.com.svc.cluster.local.", nothing), ("www.example.com.", BOTH)]);
        assert_eq!(code(&scene.a(STEP).await), ResponseCode::NXDomain);
        assert_eq!(events(&scene.resolver, Event::SearchUndecided), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_domain_of_the_hosts_own_has_is_left_to_the_client() {
    local(async {
        let scene = scene(&[("www.example.com.corp.internal.", BOTH), ("www.example.com.", BOTH)]);
        assert_eq!(code(&scene.a(STEP).await), ResponseCode::NXDomain);
        assert_eq!(events(&scene.resolver, Event::SearchExists), 1);
        assert_eq!(code(&scene.aaaa(STEP).await), ResponseCode::NXDomain);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_literal_answer_that_may_not_be_kept_is_asked_for_once() {
    local(async {
        let scene = scene(&[(STEP, [Has::Data(0), Has::Data(0)])]);
        assert_eq!(scene.a(STEP).await.answers.len(), 1);
        assert_eq!(scene.asked(STEP), 2, "A and AAAA");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_candidate_leaves_the_search_to_the_client() {
    local(async {
        let open = "www.example.com.svc.cluster.local.";
        for has in [[Has::Fails; 2], [Has::Data(60), Has::Fails], [Has::Silent; 2]] {
            let scene = scene(&[("www.example.com.", BOTH), (open, has)]);
            if has[0] == Has::Data(60) {
                // One family denied, the other failing: nobody can say whether the name exists.
                scene.becomes(open, [Has::Fails, Has::Fails]);
            }
            let start = Instant::now();
            assert_eq!(code(&scene.a(STEP).await), ResponseCode::NXDomain);
            assert!(start.elapsed() < SECOND, "no client has given up");
            // It stays so for both families until every look-up that saw it has ended.
            scene.world.borrow_mut().remove(open);
            sleep(SECOND * 20).await;
            assert_eq!(code(&scene.aaaa(STEP).await), ResponseCode::NXDomain);
            sleep(SECOND * 31).await;
            assert_eq!(code(&scene.a(STEP).await), ResponseCode::NoError);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_walk_lets_the_literal_answer_go_and_fills_the_cache() {
    local(async {
        let scene = scene(&[("www.example.com.", [Has::Slow(1500), Has::Slow(1500)])]);
        let start = Instant::now();
        assert_eq!(code(&scene.a(STEP).await), ResponseCode::NXDomain);
        assert_eq!(start.elapsed(), WALK);
        assert_eq!(events(&scene.resolver, Event::SearchLate), 1);
        sleep(SECOND).await;
        let asked = network_len(&scene);
        assert_eq!(scene.a("www.example.com.").await.answers.len(), 1);
        assert_eq!(network_len(&scene), asked);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_family_that_fails_after_the_decision_is_retried_once_and_then_fails() {
    local(async {
        let scene = scene(&[("www.example.com.", [Has::Data(60), Has::Fails])]);
        let answer = scene.aaaa(STEP).await;
        assert_eq!(code(&answer), ResponseCode::ServFail, "never the literal NXDOMAIN");
        assert_eq!(texts(&scene.a(STEP).await).len(), 2);
        assert_eq!(scene.asked("www.example.com."), 3, "A, AAAA and one retry");
        let _ = extended_errors(&answer);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bare_name_is_asked_once_although_the_denials_end_sooner() {
    local(async {
        let long = [Has::Data(300), Has::Data(300)];
        let scene = scene(&[("www.example.com.", long)]);
        for _ in 0..250 {
            assert_eq!(code(&scene.a(STEP).await), ResponseCode::NoError);
            sleep(SECOND).await;
        }
        assert_eq!(scene.asked("www.example.com."), 2);
        assert!(scene.asked(STEP) >= 2 * 250 / NX_TTL as usize);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_could_have_meant_is_literal() {
    local(async {
        let scene = scene(&[
            ("mysql-0.mysql.svc.cluster.local.", BOTH),
            ("www.example.com.", BOTH),
            ("github.com.", BOTH),
            ("web.backend.svc.cluster.local.", BOTH),
        ]);
        for name in
            ["mysql-0.mysql", "web", "web.backend", "_http._tcp.web", "wpad.example.com", "printer.local"]
        {
            let literal = scene.a(&format!("{name}.shop.svc.cluster.local.")).await;
            assert_eq!(code(&literal), ResponseCode::NXDomain, "{name}");
        }
        let mut with_do = query(STEP);
        with_do.edns.as_mut().unwrap().set_dnssec_ok(true);
        let mut with_cd = query(STEP);
        with_cd.metadata.checking_disabled = true;
        let mut mx = query(STEP);
        mx.queries[0].set_query_type(RecordType::MX);
        for message in [with_do, with_cd, mx] {
            assert_eq!(code(&send(&scene.resolver, &message).await), ResponseCode::NXDomain);
        }
        assert_eq!(code(&scene.a("www.example.com.prod.svc.cluster.local.").await), ResponseCode::NXDomain);
        assert_eq!(events(&scene.resolver, Event::SearchComposed), 0);
        assert_eq!(texts(&scene.a("github.com.shop.svc.cluster.local.").await).len(), 2);
    })
    .await;
}

/// A headless service without ready pods is NXDOMAIN: its pods' clients must never be sent to another host.
#[tokio::test(start_paused = true)]
async fn a_service_named_like_a_top_level_domain_is_remembered_for_a_day() {
    local(async {
        let service = "com.shop.svc.cluster.local.";
        let scene = scene(&[(service, BOTH), ("github.com.", BOTH)]);
        let pod = "github.com.shop.svc.cluster.local.";
        assert_eq!(code(&scene.a(pod).await), ResponseCode::NXDomain);
        scene.world.borrow_mut().remove(service);
        sleep(SECOND * 3600).await;
        assert_eq!(code(&scene.a(pod).await), ResponseCode::NXDomain, "its pods are not ready");
    })
    .await;
}

/// `www.amazon.com.br` from a pod, and a namespace `br`: the second step of one search is the first of another.
#[tokio::test(start_paused = true)]
async fn a_later_step_of_another_search_is_barred() {
    local(async {
        let scene = scene(&[("www.amazon.com.", BOTH)]);
        let barred = "www.amazon.com.shop.svc.cluster.local.";
        // A client of another namespace asks its first step for `www.amazon.com.shop`, in vain.
        let first = scene.a("www.amazon.com.shop.dev.svc.cluster.local.").await;
        assert_eq!(code(&first), ResponseCode::NXDomain);
        for _ in 0..3 {
            assert_eq!(code(&scene.a(barred).await), ResponseCode::NXDomain);
        }
        sleep(SECOND * (u64::from(NX_TTL) as u32 + 31)).await;
        assert_eq!(code(&scene.a(barred).await), ResponseCode::NoError, "nobody is on that search any more");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_composed_answer_ends_when_what_it_rests_on_is_replaced() {
    local(async {
        let scene = scene(&[("www.example.com.", BOTH)]);
        for _ in 0..3 {
            assert_eq!(texts(&scene.a(STEP).await).len(), 2);
        }
        // Somebody learns that the first candidate exists now.
        let shared = &scene.resolver.shared;
        let first = Name::from_text("www.example.com.svc.cluster.local").unwrap();
        let wanted = miss::Wanted::of(&scene.resolver, &first, 1);
        let message = [&[0; 12], first.as_wire(), &[0, 1, 0, 1]].concat();
        let mut answer = crate::wire::answer::Answer::read(&message).unwrap();
        (answer.kind, answer.answer_ttl) = (crate::wire::answer::Kind::Data, Some(60));
        miss::keep(&scene.resolver, &wanted.key, answer, "127.0.0.1".parse().unwrap());
        scene.becomes("www.example.com.svc.cluster.local.", BOTH);
        let batch = scene.resolver.batch();
        let key = walk::searched_key(&scene.resolver, &Name::from_text(STEP).unwrap(), 1);
        assert!(batch.pin.get(&key, shared.clock.now()).is_none(), "also in the hot level");
        drop(batch);
        // The decision has changed: the client is left to search for a while.
        assert_eq!(code(&scene.a(STEP).await), ResponseCode::NXDomain);
        sleep(SECOND * 41).await;
        let answer = scene.a(STEP).await;
        assert_eq!(answer.answers[0].data.to_string(), "www.example.com.svc.cluster.local.");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn equal_steps_are_walked_once() {
    local(async {
        let scene = Rc::new(scene(&[("www.example.com.", BOTH)]));
        let clients: Vec<_> = (0..100)
            .map(|n| {
                let scene = Rc::clone(&scene);
                tokio::task::spawn_local(async move {
                    if n % 2 == 0 {
                        scene.a(STEP).await.answers.len()
                    } else {
                        scene.aaaa(STEP).await.answers.len()
                    }
                })
            })
            .collect();
        for client in clients {
            assert_eq!(client.await.unwrap(), 2);
        }
        assert_eq!(network_len(&scene), 10);
        assert_eq!(scene.resolver.shared.waiting.count(), 0);
        sleep(MS).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_denied_name_denies_what_is_below_it_until_that_is_seen_to_be_wrong() {
    local(async {
        let scene = scene_with(&[], true);
        let below = |n: usize| format!("www{n}.example.com.prod.svc.cluster.local.");
        for n in 0..15 {
            assert_eq!(code(&scene.a(&below(n)).await), ResponseCode::NXDomain);
        }
        assert_eq!(network_len(&scene), 1, "the name above alone");
        let denial = scene.a(&below(3)).await;
        assert_eq!(denial.authorities[0].record_type(), RecordType::SOA);
        // The sixteenth is asked all the same, and it exists.
        scene.becomes("www15.example.com.prod.svc.cluster.local.", BOTH);
        assert_eq!(scene.a(&below(15)).await.answers.len(), 1);
        scene.becomes("www16.example.com.prod.svc.cluster.local.", BOTH);
        assert_eq!(scene.a(&below(16)).await.answers.len(), 1, "it is off");
    })
    .await;
}
