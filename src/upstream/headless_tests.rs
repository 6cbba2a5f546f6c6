//! Members of a headless Service under virtual time: what each answer does to the set, and when the name is asked.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::super::health::TryFailure;
use super::super::simulation::{Network, Seen, local};
use super::super::udp::Arrival;
use super::super::zones::Endpoints;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn v4(last: &[u8]) -> Said {
    Said::Addresses(last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect(), 5)
}

fn v6(last: &[u8]) -> Said {
    let ip = |last: &u8| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(*last)]);
    Said::Addresses(last.iter().map(ip).collect(), 5)
}

fn texts(members: &Members) -> Vec<String> {
    members.endpoints(53).iter().map(|endpoint| endpoint.addr.ip().to_string()).collect()
}

fn members() -> Members {
    Members::new(Instant::now(), 7)
}

/// Tells them, without a choice of time.
fn tell(members: &mut Members, said: [Said; 2]) -> Heard {
    members.heard(said, Instant::now(), 0)
}

#[test]
fn both_families_are_members_and_an_answer_replaces_the_set() {
    let mut members = members();
    assert_eq!(tell(&mut members, [v4(&[2, 1, 1]), v6(&[1])]), Heard::Changed);
    assert_eq!(texts(&members), ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    assert_eq!(tell(&mut members, [v4(&[1, 2]), v6(&[1])]), Heard::Same);
    assert_eq!(tell(&mut members, [v4(&[2, 3]), Said::Nothing]), Heard::Changed);
    assert_eq!(texts(&members), ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(tell(&mut members, [Said::Nothing, v6(&[9])]), Heard::Changed);
    assert_eq!(texts(&members), ["2001:db8::9"]);
}

#[test]
fn an_answer_without_an_address_keeps_the_last_set() {
    let mut members = members();
    for said in [[Said::Nothing, Said::Nothing], [Said::Failed, Said::Nothing], [Said::Failed, Said::Failed]]
    {
        assert_eq!(tell(&mut members, said), Heard::Kept, "nothing was known before");
        assert!(texts(&members).is_empty());
    }
    tell(&mut members, [v4(&[1]), v6(&[1])]);
    for said in [
        [Said::Nothing, Said::Nothing],
        [Said::Failed, Said::Nothing],
        [Said::Failed, Said::Failed],
        [v4(&[]), Said::Nothing],
        [Said::Addresses(vec!["0.0.0.0".parse().unwrap(), "224.0.0.1".parse().unwrap()], 5), Said::Nothing],
    ] {
        assert_eq!(tell(&mut members, said.clone()), Heard::Kept, "{said:?}");
        assert_eq!(texts(&members), ["192.0.2.1", "2001:db8::1"], "{said:?}");
    }
    assert_eq!(tell(&mut members, [v4(&[2]), Said::Failed]), Heard::Changed);
    assert_eq!(texts(&members), ["192.0.2.2", "2001:db8::1"], "a family of which nobody knows stays");
}

#[test]
fn of_too_many_a_choice_is_made_that_stays() {
    let all: Vec<u8> = (1..=200).collect();
    let mut members = members();
    tell(&mut members, [v4(&all), Said::Nothing]);
    let chosen = texts(&members);
    assert_eq!(chosen.len(), MAX_MEMBERS);
    let mut others = Members::new(Instant::now(), 8);
    tell(&mut others, [v4(&all), Said::Nothing]);
    assert_ne!(chosen, texts(&others), "another node takes others");
    tell(&mut members, [v4(&all[1..]), Said::Nothing]);
    let stay = texts(&members).iter().filter(|member| chosen.contains(member)).count();
    assert!(stay >= MAX_MEMBERS - 1, "{stay}");
}

#[tokio::test(start_paused = true)]
async fn the_ttl_says_when_to_ask_again_between_one_second_and_five() {
    for (ttl, least, most) in
        [(0, 0.75, 1.0), (1, 0.75, 1.0), (3, 2.25, 3.0), (5, 3.75, 5.0), (3600, 3.75, 5.0)]
    {
        let Said::Addresses(all, _) = v4(&[1]) else { panic!() };
        for random in [0, u32::MAX / 2, u32::MAX] {
            let (mut members, now) = (members(), Instant::now());
            members.heard([Said::Addresses(all.clone(), ttl), Said::Nothing], now, random);
            let wait = (members.ask_at() - now).as_secs_f64();
            assert!((least..=most).contains(&wait), "{ttl}: {wait}");
        }
    }
    let (mut members, now) = (members(), Instant::now());
    members.heard([Said::Nothing, Said::Nothing], now, 0);
    assert_eq!(members.ask_at() - now, LONGEST);
    members.heard([Said::Failed, v6(&[1])], now, 0);
    assert_eq!(members.ask_at() - now, SHORTEST);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_begins_to_fail_brings_the_question_forward() {
    let (mut members, start) = (members(), Instant::now());
    members.asks(start);
    members.heard([v4(&[1]), Said::Nothing], start, 0);
    members.member_failed(start + SECOND * 2);
    assert_eq!(members.ask_at(), start + SECOND * 2, "at once");
    members.asks(start + SECOND * 2);
    members.heard([v4(&[1]), Said::Nothing], start + SECOND * 2, 0);
    members.member_failed(start + SECOND * 2);
    assert_eq!(members.ask_at(), start + SECOND * 2 + AGAIN, "but not all the time");
    members.member_failed(start + SECOND * 3);
    assert_eq!(members.ask_at(), start + SECOND * 2 + AGAIN, "never later than it was");
}

const BOOTSTRAP: [u8; 4] = [10, 96, 0, 10];

fn service() -> Service {
    let bootstrap = vec![SocketAddr::from((BOOTSTRAP, 53))];
    Service { name: Name::from_text("dns.kube-system.svc.cluster.local").unwrap(), port: 5353, bootstrap }
}

fn a_record(last: u8, ttl: u32) -> Vec<u8> {
    [&b"\xc0\x0c\x00\x01\x00\x01"[..], &ttl.to_be_bytes(), &[0, 4, 192, 0, 2, last]].concat()
}

/// A Service whose pods are these, an answer away.
fn answer(seen: &Seen, pods: &[u8]) -> Vec<(Duration, Arrival)> {
    let is_v4 = seen.question().ends_with(&[0, 1, 0, 1]);
    let records: Vec<u8> = pods.iter().flat_map(|last| a_record(*last, 5)).collect();
    let message = match is_v4 {
        true => seen.reply(0, [pods.len() as u16, 0, 0], &records),
        false => seen.reply(0, [0; 3], &[]),
    };
    vec![(Duration::from_millis(2), Arrival::Reply(message))]
}

#[tokio::test(start_paused = true)]
async fn the_name_is_asked_of_the_bootstrap_server_alone_and_the_set_follows() {
    local(async {
        let pods = Rc::new(RefCell::new(vec![1, 2, 3]));
        let of_the_script = Rc::clone(&pods);
        let network = Network::new(move |seen| answer(seen, &of_the_script.borrow()));
        let (root, service) = (Name::ROOT, service());
        let zones = Arc::new(Zones::new([root], vec![]));
        zones.set(&root, &Endpoints { members: vec![], last_resort: service.bootstrap() });
        let sets = Rc::new(RefCell::new(Vec::new()));
        let (of_the_task, kept, carrier) = (Arc::clone(&zones), Rc::clone(&sets), network.clone());
        tokio::task::spawn_local(async move {
            let last_resort = service.bootstrap();
            let publish = |members: Vec<Endpoint>| {
                kept.borrow_mut().push((Instant::now(), members.len()));
                of_the_task.set(&root, &Endpoints { members, last_resort: last_resort.clone() });
            };
            follow(service, &of_the_task, &root, &carrier, publish, |_| ()).await;
        });
        let start = Instant::now();
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(sets.borrow().len(), 1, "the same answer is no change");
        assert_eq!(sets.borrow()[0], (start + Duration::from_millis(2), 3));
        let asked = network.seen();
        assert!(asked.iter().all(|seen| seen.name() == "dns.kube-system.svc.cluster.local."));
        assert!(asked.iter().all(|seen| seen.server == 0), "the bootstrap server's number");
        // Two families every 3.75 to 5 s.
        assert!((24..=34).contains(&asked.len()), "{}", asked.len());

        // One of the pods goes, just after the name was asked for; that it fails tells.
        let zone = zones.find(root.as_wire()).unwrap();
        let gone = Arc::clone(&zone.servers().members[0]);
        let before = network.seen().len();
        while network.seen().len() == before {
            tokio::time::sleep(SECOND / 100).await;
        }
        tokio::time::sleep(SECOND).await;
        pods.borrow_mut().remove(0);
        gone.failed(TryFailure::Timeout, Instant::now());
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert!(!zone.has(&gone));
        assert_eq!(sets.borrow().last().unwrap().1, 2);

        // One that goes on failing and is a member all the same is no reason to ask all the time.
        let failing = Arc::clone(&zone.servers().members[0]);
        let before = network.seen().len();
        for _ in 0..200 {
            failing.failed(TryFailure::Timeout, Instant::now());
            tokio::time::sleep(SECOND / 10).await;
        }
        let count = network.seen().len() - before;
        assert!((8..=14).contains(&count), "{count} questions in 20 s");
    })
    .await;
}
