//! Turns as tasks see them, under virtual time.

use std::net::IpAddr;

use super::super::simulation::local;
use super::super::standing::Waiter;
use super::*;
use crate::wire::name::Name;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const SPOT: Spot = Spot { server: 0, domain: 1 };

fn group(budget: &str) -> Arc<Group> {
    Arc::new(Group::new("test".into(), Budget::from_text(budget).unwrap()))
}

fn waiter(client: u8, class: Class) -> Waiter {
    let client = IpAddr::from([192, 0, 2, client]);
    Waiter { client, class, deadline: Instant::now() + Duration::from_millis(1900) }
}

/// Takes what may go at once, and answers it.
fn drain(group: &Arc<Group>) -> u32 {
    let standing = Standing::of(waiter(1, Class::Client));
    let mut sent = 0;
    while let Turn::Now(mut permit) = group.ask(&standing, SPOT, What::Question, false) {
        permit.answered(true);
        sent += 1;
    }
    sent
}

/// How long it takes until one has its turn.
async fn turn(group: &Arc<Group>, standing: &Arc<Standing>) -> Result<Duration, Refused> {
    let start = Instant::now();
    match group.ask(standing, SPOT, What::Question, false) {
        Turn::Now(mut permit) => permit.answered(true),
        Turn::Wait(mut wait) => wait.turn().await?.answered(true),
        Turn::No(why) => return Err(why),
    }
    Ok(start.elapsed())
}

#[test]
fn names_share_their_last_labels() {
    let parent = |text: &str| {
        let name = Name::from_text(text).unwrap().to_lower();
        Name::from_wire(parent_domain(name.as_wire())).unwrap().to_string()
    };
    assert_eq!(parent("a.b.www.example.com"), "example.com.");
    assert_eq!(parent("example.com"), "example.com.");
    assert_eq!(parent("www.example.co.uk"), "example.co.uk.");
    assert_eq!(parent("www.amazon.com.br"), "amazon.com.br.");
    assert_eq!(parent("co.uk"), "co.uk.");
    assert_eq!(parent("www.example.de"), "example.de.");
    assert_eq!(parent("web.shop.svc.cluster.local"), "cluster.local.");
    assert_eq!(parent("localhost"), "localhost.");
    assert_eq!(parent("."), ".");
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_at_once_and_the_rest_at_the_pace() {
    local(async {
        let group = group("100/s");
        assert_eq!(drain(&group), 5);
        let waits: Vec<_> = (0..20)
            .map(|_| {
                let group = Arc::clone(&group);
                tokio::task::spawn_local(async move {
                    turn(&group, &Standing::of(waiter(2, Class::Client))).await
                })
            })
            .collect();
        for (number, wait) in (1..).zip(waits) {
            let waited = wait.await.unwrap().unwrap();
            assert!(
                waited >= MS * 10 * number - MS && waited <= MS * 10 * number + 2 * MS,
                "{number}: {waited:?}"
            );
        }
        tokio::time::sleep(SECOND).await;
        assert_eq!(drain(&group), 5, "the line is over, and so is its pacer");
        tokio::time::sleep(MS * 20).await;
        assert!(!group.book().unwrap().is_paced);
        let figures = group.figures();
        assert_eq!((figures.sent, figures.answered, figures.rate), (30, 30, Some(100)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_group_without_a_limit_keeps_no_book() {
    local(async {
        let group = group("none");
        let standing = Standing::of(waiter(1, Class::Client));
        for _ in 0..100_000 {
            assert!(matches!(group.ask(&standing, SPOT, What::Retry, false), Turn::Now(_)));
        }
        assert!(group.hedge(SPOT).is_some());
        let figures = group.figures();
        assert_eq!(
            (figures.sent, figures.retries, figures.hedges, figures.rate),
            (100_001, 100_000, 1, None)
        );
    })
    .await;
}

/// A prefetch that waits behind a thousand others goes next when a client comes to want it.
#[tokio::test(start_paused = true)]
async fn a_question_in_line_moves_up_with_whoever_joins_it() {
    local(async {
        let group = group("1000/s");
        drain(&group);
        let mut others: Vec<_> = (0..500)
            .map(|_| Box::pin(async { turn(&group, &Standing::of(waiter(2, Class::Prefetch))).await }))
            .collect();
        for other in &mut others {
            assert!(futures_poll(other).is_pending());
        }
        let standing = Standing::of(waiter(3, Class::Prefetch));
        let mut last = Box::pin(turn(&group, &standing));
        assert!(futures_poll(&mut last).is_pending());
        standing.join(waiter(4, Class::Client));
        assert!(last.await.unwrap() <= MS * 5);
    })
    .await;
}

fn futures_poll<F: Future>(future: &mut std::pin::Pin<Box<F>>) -> std::task::Poll<F::Output> {
    future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
}

/// Whoever joins with a later deadline keeps the question in line for as long.
#[tokio::test(start_paused = true)]
async fn a_question_stands_in_line_until_the_latest_deadline() {
    local(async {
        let group = group("10/s");
        drain(&group);
        // Half a packet's time is left to the first, ten packets' to the second.
        let soon = Waiter { deadline: Instant::now() + MS * 400, ..waiter(1, Class::Client) };
        let (early, late) =
            (Standing::of(Waiter { deadline: soon.deadline + MS * 100, ..soon }), Standing::of(soon));
        late.join(waiter(2, Class::Client));
        assert_eq!(turn(&group, &late).await.unwrap(), MS * 100);
        let third = Standing::of(waiter(3, Class::Client));
        let blocked = turn(&group, &third);
        let (blocked, early) = tokio::join!(blocked, turn(&group, &early));
        assert_eq!((blocked.is_ok(), early), (true, Err(Refused::Deadline)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_gives_up_the_place_and_the_turn() {
    local(async {
        let group = group("100/s");
        drain(&group);
        let standing = Standing::of(waiter(1, Class::Client));
        let Turn::Wait(first) = group.ask(&standing, SPOT, What::Question, false) else {
            panic!("the budget is spent")
        };
        let second = Standing::of(waiter(2, Class::Client));
        let mut second = Box::pin(turn(&group, &second));
        assert!(futures_poll(&mut second).is_pending());
        drop(first);
        assert!(group.has_line());
        assert!(second.await.unwrap() <= MS * 11, "the next turn, not the one after");
        assert!(!group.has_line());
    })
    .await;
}

/// Segments that were not paid for beforehand are paid for before anything else goes.
#[tokio::test(start_paused = true)]
async fn segments_of_streams_count() {
    local(async {
        let group = group("100/s");
        drain(&group);
        tokio::time::sleep(SECOND).await;
        let standing = Standing::of(waiter(1, Class::Client));
        assert!(matches!(group.ask(&standing, SPOT, What::Question, true), Turn::Now(_)));
        group.streamed(12);
        assert_eq!(group.figures().sent, 5 + 12);
        // Two were taken for the question: a burst less these is left, ten are owed.
        let waited = turn(&group, &standing).await.unwrap();
        assert!((MS * 78..=MS * 82).contains(&waited), "{waited:?}");
    })
    .await;
}

/// What was taken for questions that never went out, because there was no connection or no turn, pays for no segments.
#[tokio::test(start_paused = true)]
async fn questions_that_never_went_out_over_a_stream_pay_for_nothing() {
    local(async {
        let group = group("100/s");
        let standing = || Standing::of(waiter(1, Class::Client));
        for _ in 0..50 {
            drop(group.ask(&standing(), SPOT, What::Question, true));
            tokio::time::sleep(SECOND / 10).await;
        }
        let before = group.figures().sent;
        group.streamed(116);
        assert_eq!(group.figures().sent, before + 116);
        // A burst of five is left and the arrears of sixteen are paid: 95 are owed.
        let waited = turn(&group, &standing()).await.unwrap();
        assert!((MS * 930..=MS * 970).contains(&waited), "{waited:?}");
    })
    .await;
}

/// The worker that paced the line goes away: the next to wait does it.
#[tokio::test(start_paused = true)]
async fn a_pacer_that_is_gone_is_replaced() {
    let group = group("100/s");
    let waits = Standing::of(waiter(1, Class::Client));
    local(async {
        drain(&group);
        let mut wait = Box::pin(turn(&group, &waits));
        assert!(futures_poll(&mut wait).is_pending());
        std::mem::forget(wait);
    })
    .await;
    local(async {
        let second = turn(&group, &Standing::of(waiter(2, Class::Client))).await.unwrap();
        assert!(second <= MS * 21, "{second:?}");
    })
    .await;
}
