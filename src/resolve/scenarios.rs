//! Whole queries under virtual time: from a packet to its reply, with a simulated network behind.

use std::rc::Rc;
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query as HQuery, ResponseCode};
use hickory_server::proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_server::proto::rr::{Name as HName, RecordType};
use tokio::time::{Instant, advance, sleep};

use super::hit::Outcome;
use super::*;
use crate::cache::Size;
use crate::cache::ttl::Caps;
use crate::observe::cells::{Event, Sum};
use crate::search::Mode;
use crate::search::list::Suffixes;
use crate::upstream::loops::Nonces;
use crate::upstream::simulation::{Network, Seen, local, zones};
use crate::upstream::udp::Arrival;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// Places of one client for questions whose answers are late.
const LATE_PLACES: u32 = 20;

pub(super) fn resolver(network: &Network, waiting: Gate, search: Search) -> Rc<Resolver> {
    let caps = Caps { positive: SECOND * 86_400, negative: SECOND * 3600, stale: SECOND * 86_400 };
    resolver_with(network, waiting, search, caps)
}

pub(super) fn resolver_with(network: &Network, waiting: Gate, search: Search, caps: Caps) -> Rc<Resolver> {
    let size = Size { store_bytes: 1 << 20, hot_entries: 100, hot_bytes: 1 << 18 };
    let shared = Shared {
        cache: Cache::new(size, caps),
        upstreams: Upstreams { zones: zones(1), nonces: Nonces::default() },
        flights: Arc::new(Flights::default()),
        walks: Arc::new(Flights::default()),
        search,
        waiting: Arc::new(waiting),
        late: Arc::new(Gate::new(100, LATE_PLACES)),
        clock: Clock::start(),
        cookies: cookie::Secret::new([7; 16]),
    };
    Rc::new(Resolver {
        shared: Arc::new(shared),
        carrier: Box::new(network.clone()),
        cells: Arc::default(),
        notebook: None,
    })
}

pub(super) fn plain(network: &Network) -> Rc<Resolver> {
    resolver(network, Gate::new(1000, 1000), Search::new(Mode::Off, Suffixes::default(), false))
}

/// A query for a name's addresses.
pub(super) fn query(name: &str) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(HQuery::query(HName::from_ascii(name).unwrap(), RecordType::A));
    message.set_edns(Edns::new());
    message
}

pub(super) async fn send(resolver: &Rc<Resolver>, query: &Message) -> Message {
    let packet = query.to_vec().unwrap();
    let client = Client { addr: "127.0.0.1:4000".parse().unwrap(), proto: Proto::Udp };
    let mut out = [0; 4096];
    let outcome = resolver.answer(&packet, client, &resolver.batch(), &mut out);
    match outcome {
        Outcome::Reply(length) => Message::from_vec(&out[..length]).unwrap(),
        Outcome::ReplyAndPrefetch(length, prefetch) => {
            tokio::task::spawn_local(prefetch::ahead(Rc::clone(resolver), prefetch));
            Message::from_vec(&out[..length]).unwrap()
        }
        Outcome::Silence => panic!("silence"),
        Outcome::Miss(miss) => Message::from_vec(&miss::answer(Rc::clone(resolver), miss).await).unwrap(),
    }
}

pub(super) async fn ask(resolver: &Rc<Resolver>, name: &str) -> Message {
    send(resolver, &query(name)).await
}

pub(super) fn reply(after: u32, message: Vec<u8>) -> Vec<(Duration, Arrival)> {
    vec![(MS * after, Arrival::Reply(message))]
}

pub(super) fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// The info codes of the extended errors.
pub(super) fn extended_errors(message: &Message) -> Vec<u16> {
    let options = message.edns.as_ref().unwrap().options().get_all(EdnsCode::from(15));
    options
        .into_iter()
        .map(|option| match option {
            EdnsOption::Unknown(_, data) => u16::from_be_bytes([data[0], data[1]]),
            other => panic!("{other:?}"),
        })
        .collect()
}

pub(super) fn events(resolver: &Resolver, event: Event) -> u64 {
    Sum(std::slice::from_ref(&resolver.cells)).events(event)
}

#[tokio::test(start_paused = true)]
async fn an_answer_ages_and_is_asked_again_when_its_ttl_is_over() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(10, seen.a(60)));
        let resolver = plain(&network);
        assert_eq!(ask(&resolver, "www.example.").await.answers[0].ttl, 60);
        advance(SECOND * 25).await;
        assert_eq!(ask(&resolver, "WWW.example.").await.answers[0].ttl, 35);
        advance(SECOND * 34).await;
        assert_eq!(ask(&resolver, "www.example.").await.answers[0].ttl, 1);
        assert_eq!(network.seen().len(), 1);
        advance(SECOND).await;
        assert_eq!(ask(&resolver, "www.example.").await.answers[0].ttl, 60);
        assert_eq!(network.seen().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_first_hit_is_the_stores_and_all_later_ones_are_hot() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(10, seen.a(60)));
        let resolver = plain(&network);
        for _ in 0..5 {
            ask(&resolver, "www.example.").await;
        }
        let counted = [Event::Miss, Event::HitStore, Event::HitHot].map(|event| events(&resolver, event));
        assert_eq!(counted, [1, 1, 3]);
    })
    .await;
}

/// RFC 2308 section 5: the lesser of the SOA's TTL and MINIMUM, counted down in the SOA's TTL.
#[tokio::test(start_paused = true)]
async fn a_denial_ages_and_ends_with_its_soa() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(10, seen.nxdomain(30)));
        let resolver = plain(&network);
        assert_eq!(code(&ask(&resolver, "nx.example.").await), ResponseCode::NXDomain);
        advance(SECOND * 10).await;
        let aged = ask(&resolver, "nx.example.").await;
        assert_eq!((code(&aged), aged.authorities[0].ttl), (ResponseCode::NXDomain, 20));
        advance(SECOND * 20).await;
        ask(&resolver, "nx.example.").await;
        assert_eq!(network.seen().len(), 2);
    })
    .await;
}

/// Servers exist that deny one family only: a denial says nothing about other types.
#[tokio::test(start_paused = true)]
async fn a_denial_is_kept_for_its_type_alone() {
    local(async {
        let network = Network::new(|seen: &Seen| {
            let is_v6 = seen.question().ends_with(&[0, 28, 0, 1]);
            reply(1, if is_v6 { seen.nxdomain(30) } else { seen.a(60) })
        });
        let resolver = plain(&network);
        let mut v6 = query("www.example.");
        v6.queries[0].set_query_type(RecordType::AAAA);
        assert_eq!(code(&send(&resolver, &v6).await), ResponseCode::NXDomain);
        assert_eq!(ask(&resolver, "www.example.").await.answers.len(), 1);
    })
    .await;
}

/// RFC 9520 section 3.2: kept for a second at least, longer while it lasts, and counted for each question.
#[tokio::test(start_paused = true)]
async fn a_failure_is_not_asked_again_for_longer_and_longer() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(1, seen.reply(2, [0; 3], &[])));
        let resolver = plain(&network);
        let start = Instant::now();
        while start.elapsed() < SECOND * 100 {
            assert_eq!(code(&ask(&resolver, "www.example.").await), ResponseCode::ServFail);
            sleep(MS * 100).await;
        }
        let asked: Vec<u64> =
            network.seen().iter().map(|seen| (seen.at - start).as_millis() as u64 / 1000).collect();
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
        network.becomes(|seen| reply(1, seen.a(60)));
        assert_eq!(ask(&resolver, "other.example.").await.answers.len(), 1, "another question");
        sleep(SECOND * 30).await;
        assert_eq!(ask(&resolver, "www.example.").await.answers.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_failure_in_time_and_a_late_reply_mends_it() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(2500, seen.a(60)));
        let resolver = plain(&network);
        let start = Instant::now();
        let failed = ask(&resolver, "www.example.").await;
        assert_eq!((code(&failed), start.elapsed()), (ResponseCode::ServFail, MS * 1900));
        assert_eq!(extended_errors(&failed), [22], "RFC 8914 section 4.23");
        for _ in 0..3 {
            assert_eq!(code(&ask(&resolver, "www.example.").await), ResponseCode::ServFail, "kept, also hot");
        }
        sleep(MS * 700).await;
        let asked = network.seen().len();
        assert_eq!(ask(&resolver, "www.example.").await.answers.len(), 1);
        assert_eq!(network.seen().len(), asked);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_network_that_refuses_is_told_as_such_and_at_once() {
    local(async {
        let refused = || vec![(MS, Arrival::Refused(std::io::ErrorKind::ConnectionRefused))];
        let network = Network::new(move |_: &Seen| refused());
        let resolver = plain(&network);
        let start = Instant::now();
        let failed = ask(&resolver, "www.example.").await;
        assert_eq!((code(&failed), extended_errors(&failed)), (ResponseCode::ServFail, vec![23]));
        assert!(start.elapsed() <= MS * 1900);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn equal_questions_on_their_way_are_one() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(300, seen.a(60)));
        let resolver = plain(&network);
        let clients: Vec<_> = (0..500)
            .map(|_| {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(async move { ask(&resolver, "www.example.").await.answers.len() })
            })
            .collect();
        for client in clients {
            assert_eq!(client.await.unwrap(), 1);
        }
        assert_eq!((network.seen().len(), events(&resolver, Event::Joined)), (1, 499));
        assert_eq!(resolver.shared.waiting.count(), 0, "every place is given back");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_may_not_be_kept_still_serves_all_who_wait() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(100, seen.a(0)));
        let resolver = plain(&network);
        let (one, other) = tokio::join!(ask(&resolver, "www.example."), ask(&resolver, "www.example."));
        assert_eq!((one.answers[0].ttl, other.answers[0].ttl, network.seen().len()), (0, 0, 1));
        ask(&resolver, "www.example.").await;
        assert_eq!(network.seen().len(), 2);
    })
    .await;
}

#[test]
fn a_worker_that_ends_takes_its_flights_with_it() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    let shared = runtime.block_on(async {
        let resolver = plain(&Network::new(|_| vec![]));
        let shared = Arc::clone(&resolver.shared);
        tokio::task::spawn_local(async move { send(&resolver, &query("www.example")).await });
        tokio::task::yield_now().await;
        shared
    });
    assert_eq!(shared.waiting.count(), 1);
    drop(runtime);
    assert_eq!((shared.waiting.count(), Arc::strong_count(&shared)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_its_question_and_nothing_else() {
    local(async {
        let network = Network::new(|seen: &Seen| {
            assert!(seen.name() != "bad.example.", "on purpose");
            reply(10, seen.a(60))
        });
        let resolver = plain(&network);
        let (one, other, good) = tokio::join!(
            ask(&resolver, "bad.example."),
            ask(&resolver, "bad.example."),
            ask(&resolver, "good.example.")
        );
        assert_eq!((code(&one), code(&other)), (ResponseCode::ServFail, ResponseCode::ServFail));
        assert_eq!(good.answers.len(), 1);
        assert_eq!(events(&resolver, Event::Panic), 2, "the one that followed led in its turn");
        network.becomes(|seen| reply(10, seen.a(60)));
        assert_eq!(ask(&resolver, "bad.example.").await.answers.len(), 1, "nothing of it was kept");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_questions_are_refused_at_once_and_not_kept() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(300, seen.a(60)));
        let resolver =
            resolver(&network, Gate::new(100, 10), Search::new(Mode::Off, Suffixes::default(), false));
        let waiting: Vec<_> = (0..10)
            .map(|n| {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(async move {
                    ask(&resolver, &format!("n{n}.example.")).await.answers.len()
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let start = Instant::now();
        let refused = ask(&resolver, "one.more.example.").await;
        assert_eq!((code(&refused), extended_errors(&refused)), (ResponseCode::ServFail, vec![0]));
        assert_eq!(start.elapsed(), Duration::ZERO);
        for client in waiting {
            assert_eq!(client.await.unwrap(), 1);
        }
        assert_eq!(ask(&resolver, "one.more.example.").await.answers.len(), 1);
    })
    .await;
}

/// Whoever has been told that a name fails waits no more: what may still come late has room of its own, and little.
#[tokio::test(start_paused = true)]
async fn names_whose_servers_are_dead_keep_no_room_from_others() {
    local(async {
        let network = Network::new(|seen: &Seen| match seen.name().starts_with("dead") {
            true => vec![],
            false => reply(1, seen.a(60)),
        });
        let resolver =
            resolver(&network, Gate::new(100, 40), Search::new(Mode::Off, Suffixes::default(), false));
        let dead: Vec<_> = (0..40)
            .map(|n| {
                let resolver = Rc::clone(&resolver);
                tokio::task::spawn_local(
                    async move { code(&ask(&resolver, &format!("dead{n}.example.")).await) },
                )
            })
            .collect();
        for client in dead {
            assert_eq!(client.await.unwrap(), ResponseCode::ServFail);
        }
        let counts = [&resolver.shared.waiting, &resolver.shared.late].map(|gate| gate.count());
        assert_eq!(counts, [0, LATE_PLACES]);
        assert_eq!(ask(&resolver, "good.example.").await.answers.len(), 1);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(resolver.shared.late.count(), 0);
    })
    .await;
}

/// RFC 8906 section 3.1.3 and RFC 4035 section 3.2.2: what these bits ask for has answers of its own.
#[tokio::test(start_paused = true)]
async fn questions_with_do_or_cd_have_entries_of_their_own() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(1, seen.a(60)));
        let resolver = plain(&network);
        let mut with_do = query("www.example.");
        with_do.edns.as_mut().unwrap().set_dnssec_ok(true);
        let mut with_cd = query("www.example.");
        with_cd.metadata.checking_disabled = true;
        for _ in 0..2 {
            for message in [&query("www.example."), &with_do, &with_cd] {
                send(&resolver, message).await;
            }
        }
        assert_eq!(network.seen().len(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_rd_the_cache_is_read_and_nobody_is_asked() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(1, seen.a(60)));
        let resolver = plain(&network);
        let mut quiet = query("www.example.");
        quiet.metadata.recursion_desired = false;
        assert_eq!(code(&send(&resolver, &quiet).await), ResponseCode::Refused);
        assert_eq!(network.seen().len(), 0);
        ask(&resolver, "www.example.").await;
        let answered = send(&resolver, &quiet).await;
        assert_eq!((answered.answers.len(), answered.metadata.recursion_desired), (1, false));
    })
    .await;
}

/// RFC 8482 section 4: known addresses, else one HINFO; nothing is asked upstream.
#[tokio::test(start_paused = true)]
async fn any_is_answered_from_what_is_known() {
    local(async {
        let network = Network::new(|seen: &Seen| reply(1, seen.a(60)));
        let resolver = plain(&network);
        let mut any = query("www.example.");
        any.queries[0].set_query_type(RecordType::ANY);
        assert_eq!(send(&resolver, &any).await.answers[0].record_type(), RecordType::HINFO);
        ask(&resolver, "www.example.").await;
        assert_eq!(send(&resolver, &any).await.answers[0].record_type(), RecordType::A);
        assert_eq!(network.seen().len(), 1);
    })
    .await;
}

/// Another forwarder behind us that leads back: our question comes in again, in the case we gave it.
#[tokio::test(start_paused = true)]
async fn a_server_that_leads_back_here_is_found_and_left_out() {
    local(async {
        let own: Rc<std::cell::RefCell<Option<Rc<Resolver>>>> = Rc::default();
        let back = Rc::clone(&own);
        let network = Network::new(move |seen: &Seen| {
            if let Some(resolver) = back.borrow().clone() {
                let packet = Message::from_vec(&seen.query).unwrap();
                tokio::task::spawn_local(async move { send(&resolver, &packet).await });
            }
            vec![]
        });
        let resolver = plain(&network);
        *own.borrow_mut() = Some(Rc::clone(&resolver));
        assert_eq!(code(&ask(&resolver, "www.example.").await), ResponseCode::ServFail);
        sleep(SECOND * 10).await;
        let asked = network.seen().len();
        assert!(resolver.shared.upstreams.zones.servers()[0].health().is_loop(Instant::now()));
        assert_eq!(code(&ask(&resolver, "other.example.").await), ResponseCode::ServFail);
        assert_eq!(network.seen().len(), asked, "it is not asked again");
        sleep(SECOND * 300).await;
        *own.borrow_mut() = None;
        network.becomes(|seen| reply(1, seen.a(60)));
        assert_eq!(ask(&resolver, "third.example.").await.answers.len(), 1, "until it is tried again");
    })
    .await;
}
