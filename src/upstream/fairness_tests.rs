//! Who has a turn when, among clients, domains and classes; and what leaves the line otherwise.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { total: 8192, client: 1024 };
const SOON: Duration = Duration::from_secs(2);

fn client(number: u32) -> IpAddr {
    IpAddr::from((0x0a00_0000 + number).to_be_bytes())
}

fn place(number: u32, class: Class) -> Place {
    Place { client: client(number), class, deadline: SOON }
}

/// Puts a question in line at a rate at which all have a turn in time.
fn push(queue: &mut Queue<u32>, place: Place, domain: u64, item: u32) -> Ticket {
    queue.push(Duration::ZERO, 1e9, &[place], domain, 1, item).unwrap()
}

fn drain(queue: &mut Queue<u32>) -> Vec<u32> {
    std::iter::from_fn(|| queue.pop(Duration::ZERO)).map(|turn| turn.item).collect()
}

#[test]
fn clients_have_turns_and_inside_a_client_domains() {
    let mut queue = Queue::new(BOUNDS);
    for item in 0..6 {
        push(&mut queue, place(1, Class::Client), 7, item);
    }
    push(&mut queue, place(1, Class::Client), 8, 10);
    push(&mut queue, place(2, Class::Client), 7, 20);
    push(&mut queue, place(2, Class::Client), 7, 21);
    assert_eq!(drain(&mut queue), [0, 20, 10, 21, 1, 2, 3, 4, 5]);
    assert!(queue.is_empty() && queue.clients.is_empty() && queue.places == 0);
}

#[test]
fn classes_come_in_order() {
    let mut queue = Queue::new(BOUNDS);
    for (item, class) in Class::ALL.into_iter().rev().enumerate() {
        push(&mut queue, place(item as u32, class), 7, item as u32);
    }
    assert_eq!(queue.pop_of(Class::Refresh, Duration::ZERO).unwrap().item, 1);
    assert_eq!(drain(&mut queue), [3, 2, 0]);
}

#[test]
fn what_costs_more_waits_for_as_many_turns() {
    let mut queue = Queue::new(BOUNDS);
    for item in 0..4 {
        queue.push(Duration::ZERO, 1e9, &[place(1, Class::Client)], 7, 3, item).unwrap();
    }
    for item in 10..22 {
        push(&mut queue, place(2, Class::Client), 7, item);
    }
    let order: Vec<u32> = std::iter::from_fn(|| queue.pop(Duration::ZERO)).map(|turn| turn.item).collect();
    assert_eq!(order[..8], [10, 11, 0, 12, 13, 14, 1, 15]);
}

#[test]
fn a_question_has_the_best_place_of_all_who_wait_for_it_and_only_one_turn() {
    let mut queue = Queue::new(BOUNDS);
    for item in 0..100 {
        push(&mut queue, place(1, Class::Client), 7, item);
    }
    let slow = push(&mut queue, place(1, Class::Client), 7, 100);
    let idle = push(&mut queue, place(3, Class::Prefetch), 7, 101);
    queue.also(slow, place(2, Class::Client));
    queue.also(idle, place(3, Class::Client));
    let order = drain(&mut queue);
    assert_eq!(
        order[..3],
        [0, 100, 101],
        "the second client's turn, then the third's, who has come to want it"
    );
    assert_eq!(order.len(), 102);
    assert!(queue.clients.is_empty() && queue.rounds.iter().all(|round| round.places == 0));
}

#[test]
fn the_latest_deadline_of_all_who_wait_counts() {
    let mut queue = Queue::new(BOUNDS);
    let early = Place { deadline: Duration::from_millis(100), ..place(1, Class::Client) };
    let one = push(&mut queue, early, 7, 1);
    push(&mut queue, early, 7, 2);
    queue.also(one, place(1, Class::Client));
    let now = Duration::from_millis(500);
    let (first, second) = (queue.pop(now).unwrap(), queue.pop(now).unwrap());
    assert_eq!(((first.item, first.late), (second.item, second.late)), ((1, false), (2, true)));
}

#[test]
fn places_of_one_question_are_bounded() {
    let mut queue = Queue::new(BOUNDS);
    let one = push(&mut queue, place(0, Class::Client), 7, 1);
    (1..100).for_each(|number| queue.also(one, place(number, Class::Client)));
    assert_eq!(queue.len_of(Class::Client), MAX_PLACES);
    assert_eq!(queue.remove(one), Some(1));
    assert_eq!(queue.len_of(Class::Client), 0);
}

#[test]
fn what_cannot_have_its_turn_in_time_is_refused_when_it_comes() {
    let mut queue = Queue::new(BOUNDS);
    let mut at = |place, item| queue.push(Duration::ZERO, 100.0, &[place], 7, 1, item).err();
    // 100 a second for two seconds.
    let refused: Vec<_> = (0..300).filter_map(|item| at(place(1, Class::Client), item)).collect();
    assert_eq!(refused, [Refused::Deadline; 100]);
    // Another client has its turn after the first one's next.
    assert_eq!((0..50).filter_map(|item| at(place(2, Class::Client), item)).count(), 0);
    // Whatever is less urgent waits for all of them.
    assert_eq!(at(place(3, Class::Prefetch), 0), Some(Refused::Deadline));
}

#[test]
fn bounds_hold_and_the_less_urgent_makes_room() {
    let mut queue = Queue::new(Bounds { total: 10, client: 4 });
    let mut at = |place, item| queue.push(Duration::ZERO, 1e9, &[place], 7, 1, item).err();
    assert_eq!(
        (0..6).filter_map(|item| at(place(1, Class::Prefetch), item)).collect::<Vec<_>>(),
        [Refused::ClientFull, Refused::ClientFull]
    );
    (0..6).for_each(|number| assert_eq!(at(place(10 + number, Class::Client), 10 + number), None));
    assert_eq!(at(place(20, Class::Prefetch), 0), Some(Refused::Full), "nothing is less urgent");
    assert_eq!(at(place(21, Class::Retry), 21), None);
    assert_eq!(at(place(22, Class::Client), 22), None);
    assert_eq!((queue.len_of(Class::Prefetch), queue.places), (2, 10));
    assert_eq!(drain(&mut queue), [10, 11, 12, 13, 14, 15, 22, 21, 0, 1], "the last to come made room");
}

/// One client at 5,000 misses a second, nine at 20 each, 1,000 a second go out.
#[test]
fn a_flood_of_one_leaves_nine_theirs() {
    let mut queue: Queue<(u32, u64)> = Queue::new(BOUNDS);
    let (mut served, mut asked) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
    let mut longest = [Duration::ZERO; 2];
    for tenth in 0..200_000u64 {
        let now = Duration::from_micros(tenth * 100);
        let mut ask = |number: u32| {
            *asked.entry(number).or_default() += 1;
            let place = Place {
                client: client(number),
                class: Class::Client,
                deadline: now + Duration::from_millis(1550),
            };
            let _ = queue.push(now, 1000.0, &[place], tenth % 7, 1, (number, tenth));
        };
        if tenth % 2 == 0 {
            ask(0);
        }
        if tenth % 500 == 0 {
            (1..10).for_each(ask);
        }
        if tenth % 10 == 0
            && let Some(turn) = queue.pop(now)
        {
            assert!(!turn.late);
            let (number, came) = turn.item;
            *served.entry(number).or_default() += 1;
            let waited = now - Duration::from_micros(came * 100);
            let longest = &mut longest[usize::from(number != 0)];
            *longest = waited.max(*longest);
        }
    }
    for number in 1..10 {
        assert_eq!((asked[&number], served[&number]), (400, 400));
    }
    assert!(served[&0] >= 20_000 - 9 * 400 - 1, "what they leave is used: {}", served[&0]);
    assert!(
        longest[0] <= Duration::from_millis(1550) && longest[1] <= Duration::from_millis(20),
        "{longest:?}"
    );
}

/// A client's random names under one domain do not hold up its questions for another.
#[test]
fn a_flood_under_one_domain_leaves_the_clients_other_questions_theirs() {
    let mut queue = Queue::new(BOUNDS);
    for item in 0..1000 {
        push(&mut queue, place(1, Class::Client), 7, item);
    }
    push(&mut queue, place(1, Class::Client), 8, 5000);
    let order = drain(&mut queue);
    assert_eq!(order.iter().position(|item| *item == 5000), Some(1));
}

proptest! {
    /// Whatever comes and goes in whatever order: every question leaves once, and nothing is left of it.
    #[test]
    fn nothing_is_lost_twice_or_left_behind(steps in prop::collection::vec((0u8..5, 0u32..5, 0u64..3, 0usize..4), 1..300)) {
        let mut queue = Queue::new(Bounds { total: 40, client: 20 });
        let (mut tickets, mut inside) = (Vec::new(), std::collections::BTreeSet::new());
        for (item, (step, number, domain, class)) in steps.into_iter().enumerate() {
            let item = item as u32;
            let place = place(number, Class::ALL[class]);
            match step {
                0 | 1 => if let Ok(ticket) = queue.push(Duration::ZERO, 1e9, &[place], domain, 1 + number % 2, item) {
                    tickets.push(ticket);
                    inside.insert(item);
                },
                2 => if let Some(ticket) = tickets.last() { queue.also(*ticket, place) },
                3 => if let Some(item) = tickets.pop().and_then(|ticket| queue.remove(ticket)) {
                    prop_assert!(inside.remove(&item));
                },
                _ => if let Some(turn) = queue.pop(Duration::ZERO) { prop_assert!(inside.remove(&turn.item)) },
            }
            let in_rounds: usize = queue.rounds.iter().map(|round| round.places).sum();
            let of_clients: usize = queue.clients.values().sum();
            prop_assert_eq!((in_rounds, of_clients), (queue.places, queue.places));
            prop_assert!(queue.places <= 40 && queue.clients.values().all(|mine| *mine <= 20));
        }
        // What made room for others is gone too: what is left is what comes out.
        let left = queue.waiting.len();
        prop_assert_eq!(drain(&mut queue).len(), left);
        prop_assert!(queue.clients.is_empty() && queue.places == 0);
        let rounds_empty = queue.rounds.iter().all(|round| round.clients.is_empty() && round.turn.is_empty() && round.places == 0);
        prop_assert!(rounds_empty);
    }
}
