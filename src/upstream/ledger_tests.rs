//! What the book of a group promises, in simulated traffic.

use super::*;

/// 3,000 distinct questions a second before a limit, nothing configured.
fn keeps_to_the_limit(seed: u64, what: &str, path: Path, domains: u64) {
    let limit = path.limit.unwrap();
    let mut simulation = adaptive(seed, path, &[client(3000.0, domains)]);
    simulation.run(30 * SECOND);
    simulation.show(what, 10..30);
    let (sent, answered) = (simulation.mean(10..30, sent), simulation.mean(10..30, in_time));
    assert!((0.97 * limit..=limit).contains(&sent), "{limit}: sent {sent}");
    assert!(answered >= 0.95 * limit, "{limit}: answered {answered}");
    let each = simulation.packets_per_question();
    // What is lost at 1,000 a second until a low limit is found is asked again.
    let most = if limit < 1000.0 { 1.05 } else { 1.03 };
    assert!(each < most, "{limit}: {each} packets a question");
}

#[test]
fn a_limit_is_found_and_kept_to() {
    with_seeds(|seed| {
        let limit = Path { limit: Some(1024.0), ..PATH };
        keeps_to_the_limit(seed, "3,000/s under one domain, limit 1,024", limit, 1);
        keeps_to_the_limit(seed, "the same under 1,000 domains", limit, 1000);
        keeps_to_the_limit(seed, "the same, answers after 300 ms", Path { latency: 300 * MS, ..limit }, 1);
        // Far below the rate that it begins with: what is lost until it is found is not the path's own loss.
        for limit in [700.0, 500.0, 300.0] {
            let path = Path { limit: Some(limit), ..PATH };
            keeps_to_the_limit(seed, &format!("the same, limit {limit}"), path, 1);
            let path = Path { refuses: true, ..path };
            keeps_to_the_limit(seed, &format!("the same, limit {limit}, REFUSED over it"), path, 1);
            keeps_to_the_limit(
                seed,
                &format!("the same under 100 domains, limit {limit}, REFUSED over it"),
                path,
                100,
            );
        }
    });
}

#[test]
fn a_limiter_that_answers_refused_is_found_all_the_same() {
    with_seeds(|seed| {
        let path = Path { limit: Some(1024.0), refuses: true, ..PATH };
        keeps_to_the_limit(seed, "the same, REFUSED over the limit", path, 1);
    });
}

/// Most domains are asked for the first time, and nobody knows if they are refused for a limit or for good. But what is refused for
/// good is so at any rate.
#[test]
fn refusals_of_unknown_domains_show_a_limit() {
    with_seeds(|seed| {
        for limit in [300.0, 700.0, 1024.0] {
            let path = Path { limit: Some(limit), refuses: true, ..PATH };
            let mut simulation = adaptive(seed, path, &[client(3000.0, 1_000_000)]);
            simulation.run(30 * SECOND);
            simulation
                .show(&format!("3,000/s under a million domains, limit {limit}, REFUSED over it"), 10..30);
            let (sent, answered) = (simulation.mean(10..30, sent), simulation.mean(10..30, in_time));
            assert!(
                sent <= 1.01 * limit && answered >= 0.94 * limit,
                "{limit}: sent {sent}, answered {answered}"
            );
        }
    });
}

/// Names that a server refuses for good, of ten domains, a sixth of all: nobody else loses by it.
#[test]
fn what_is_refused_for_good_is_no_limit() {
    with_seeds(|seed| {
        let unknown = Client { refused: true, ..client(300.0, 10) };
        let mut simulation = adaptive(seed, PATH, &[client(1500.0, 100), unknown]);
        simulation.run(30 * SECOND);
        simulation.show("1,500/s, and 300/s that are refused for good, no limit", 10..30);
        assert!(adaptive_rates(&simulation, 0..30).0 >= 1000.0);
        assert!(adaptive_rates(&simulation, 10..30).0 >= 1800.0);
        assert_eq!(simulation.failed[0] + simulation.refused[0], 0);
    });
}

#[test]
fn a_limit_that_moves_is_followed() {
    with_seeds(|seed| {
        for (after, within) in [(2048.0, 8), (512.0, 8), (100.0, 8)] {
            let mut simulation = adaptive(seed, Path { limit: Some(1024.0), ..PATH }, &[client(3000.0, 1)]);
            simulation.run(15 * SECOND);
            simulation.path.limit = Some(after);
            simulation.run(35 * SECOND);
            simulation.show(&format!("the limit becomes {after} at 15 s; 25 to 35 s"), 25..35);
            let first = simulation.mean(15 + within..16 + within, let_through);
            let (sent, through) = (simulation.mean(25..35, sent), simulation.mean(25..35, let_through));
            assert!(first >= 0.7 * after, "{first} of {after} in the second {within} later");
            assert!(
                sent <= 1.1 * after && through >= 0.88 * after,
                "{after}: sent {sent}, through {through}"
            );
        }
    });
}

/// Where a tenth is lost each way, one packet in five is not answered, and more so with three tenths.
#[test]
fn loss_that_does_not_depend_on_the_rate_is_no_limit() {
    with_seeds(|seed| {
        for (loss, rate, answered) in
            [(0.1, 500.0, 0.999), (0.1, 900.0, 0.999), (0.3, 200.0, 0.95), (0.3, 1500.0, 0.95)]
        {
            let mut simulation = adaptive(seed, Path { loss, ..PATH }, &[client(rate, 100)]);
            simulation.run(30 * SECOND);
            simulation.show(&format!("{rate}/s, no limit, {loss} lost each way"), 10..30);
            let (lowest, _) = adaptive_rates(&simulation, 0..30);
            assert!(lowest >= 1000.0, "{loss}: {lowest}/s");
            let (well, failed) =
                (f64::from(simulation.answered[0]), f64::from(simulation.failed[0] + simulation.refused[0]));
            assert!(well / (well + failed) >= answered, "{loss}: {well} well, {failed} failed");
        }
    });
}

#[test]
fn a_rate_grows_to_what_is_asked_also_where_packets_are_lost() {
    with_seeds(|seed| {
        let mut simulation = adaptive(seed, Path { loss: 0.1, ..PATH }, &[client(3000.0, 100)]);
        simulation.run(10 * SECOND);
        simulation.show("3,000/s, no limit, 0.1 lost each way; 3 to 10 s", 3..10);
        let answered = simulation.mean(3..10, in_time);
        assert!(answered >= 0.98 * 3000.0, "{answered}");
    });
}

#[test]
fn a_limit_on_a_lossy_path_is_used() {
    with_seeds(|seed| {
        let mut simulation =
            adaptive(seed, Path { limit: Some(1024.0), loss: 0.1, ..PATH }, &[client(3000.0, 100)]);
        simulation.run(40 * SECOND);
        simulation.show("3,000/s, limit 1,024, 0.1 lost each way; 20 to 40 s", 20..40);
        let through = simulation.mean(20..40, let_through);
        assert!(through >= 0.93 * 1024.0, "{through}");
        let each = simulation.packets_per_question();
        assert!(each <= 1.11, "{each} packets a question: a tenth for retries");
    });
}

/// Losses that begin are no limit that begins: more sent is more delivered.
#[test]
fn loss_that_begins_does_not_cut_the_rate() {
    with_seeds(|seed| {
        let mut simulation = adaptive(seed, PATH, &[client(900.0, 100)]);
        simulation.run(15 * SECOND);
        simulation.path.loss = 0.1;
        simulation.run(40 * SECOND);
        simulation.show("900/s, no limit, 0.1 lost each way from 15 s on; 20 to 40 s", 20..40);
        assert!(adaptive_rates(&simulation, 0..40).0 >= 1000.0);
        assert!(simulation.mean(20..40, in_time) >= 0.98 * 900.0);
    });
}

/// A client that asks only names of a dead domain, 500 a second: nobody else loses by it.
#[test]
fn timeouts_under_a_dead_domain_are_no_limit() {
    with_seeds(|seed| {
        let dead = Client { dead: true, ..client(500.0, 1) };
        for (loss, domains) in [(0.0, 100), (0.1, 100), (0.0, 1)] {
            let mut simulation = adaptive(
                seed,
                Path { loss, ..PATH },
                &[client(400.0, domains), Client { rate: 0.0, ..dead }],
            );
            simulation.run(10 * SECOND);
            simulation.clients[1] = dead;
            simulation.ask_later(1);
            simulation.run(30 * SECOND);
            let what = format!(
                "400/s under {domains} domains and 500/s under a dead one from 10 s on, no limit, {loss} lost each way"
            );
            simulation.show(&what, 10..30);
            assert!(adaptive_rates(&simulation, 0..30).0 >= 1000.0, "{loss} {domains}");
            let (well, failed) = (simulation.answered[0], simulation.failed[0] + simulation.refused[0]);
            // On a lossy path the others' retries have to share what is left over, until the rate has grown.
            let share = if loss > 0.0 { 0.01 } else { 0.001 };
            assert!(
                f64::from(failed) <= share * f64::from(well),
                "{loss} {domains}: {well} well, {failed} failed"
            );
        }
        // And where dead names have living ones beside them.
        let beside = Client { under: Some(0), ..dead };
        let mut simulation = adaptive(seed, PATH, &[client(400.0, 1), beside]);
        simulation.run(30 * SECOND);
        simulation.show("400/s and 500/s under one domain, the latter dead, no limit", 10..30);
        assert!(adaptive_rates(&simulation, 0..30).0 >= 1000.0);
        assert_eq!(simulation.failed[0] + simulation.refused[0], 0);
        // Also where there is a limit: what it lets through goes on being used.
        let mut simulation =
            adaptive(seed, Path { limit: Some(1024.0), ..PATH }, &[client(2000.0, 100), dead]);
        simulation.run(30 * SECOND);
        simulation.show("2,000/s and 500/s under a dead domain, limit 1,024", 10..30);
        let (through, sent) = (simulation.mean(10..30, let_through), simulation.mean(10..30, sent));
        assert!(through >= 0.95 * 1024.0 && sent <= 1.15 * 1024.0, "through {through}, sent {sent}");
    });
}

/// When nothing is answered any more that is no limit either, but no reason to ask more than once.
#[test]
fn a_server_that_is_down_leaves_the_rate_and_stops_retries() {
    with_seeds(|seed| {
        let mut simulation = adaptive(seed, PATH, &[client(900.0, 100)]);
        simulation.run(10 * SECOND);
        simulation.path.limit = Some(0.0);
        simulation.run(20 * SECOND);
        simulation.show("900/s, all servers silent from 10 s on; 13 to 20 s", 13..20);
        assert!(adaptive_rates(&simulation, 0..20).0 >= 1000.0);
        let meanwhile = simulation.mean(13..20, sent);
        assert!(meanwhile <= 1.12 * 900.0, "{meanwhile}");
        simulation.path.limit = None;
        simulation.run(30 * SECOND);
        assert!(simulation.mean(22..30, in_time) >= 0.97 * 900.0);
    });
}

/// One client asks 5,000 a second, nine ask 20 each, 1,000 packets a second are there.
#[test]
fn a_flood_leaves_the_others_theirs() {
    with_seeds(|seed| {
        let mut clients = vec![client(5000.0, 1)];
        clients.extend([client(20.0, 5); 9]);
        let fixed = Simulation::new(seed, Budget::from_text("1000/s").unwrap(), PATH, &clients);
        let found = adaptive(seed, Path { limit: Some(1024.0), ..PATH }, &clients);
        for (what, mut simulation) in [("budget 1,000/s", fixed), ("limit 1,024", found)] {
            simulation.run(30 * SECOND);
            simulation.show(&format!("one client 5,000/s, nine 20/s each, {what}"), 10..30);
            for client in 1..10 {
                let (well, asked) = (simulation.answered[client], simulation.asked[client]);
                assert!(f64::from(well + 1) >= 0.99 * f64::from(asked), "client {client}: {well} of {asked}");
            }
            let all = simulation.mean(10..30, in_time);
            assert!(all >= 970.0, "what they leave is used: {all}");
        }
    });
}

#[test]
fn a_fixed_budget_is_never_exceeded() {
    with_seeds(|seed| {
        for (text, rate) in [("aws", 1024.0), ("1000/s", 1000.0), ("50/s", 50.0)] {
            let path = Path { loss: 0.1, ..PATH };
            let mut simulation =
                Simulation::new(seed, Budget::from_text(text).unwrap(), path, &[client(3000.0, 1)]);
            simulation.run(10 * SECOND);
            for second in &simulation.seconds[..10] {
                assert!(
                    f64::from(second.sent) <= rate + f64::from(crate::upstream::budget::BURST),
                    "{text}: {second:?}"
                );
            }
            assert!(simulation.mean(1..10, sent) >= 0.995 * rate - 1.0, "{text}: it is used");
            assert!(simulation.packets_per_question() <= 1.11, "{text}: a tenth for retries");
        }
    });
}

/// Below the rate retries take what they need, up to half of what is left over.
#[test]
fn retries_share_what_is_left_over() {
    let path = Path { loss: 1.0, ..PATH };
    let mut ledger = Simulation::new(FIRST_SEED, Budget::from_text("1000/s").unwrap(), path, &[]).ledger;
    let place = Place { client: [10, 0, 0, 1].into(), class: Class::Client, deadline: Duration::MAX };
    let mut counts = [0; 2];
    for ms in 0..10_000 {
        let now = MS * ms;
        let wish = Wish { places: &[place], domain: 1, packets: 1, extra: false };
        if ms % 5 == 0 && matches!(ledger.ask(now, &wish, || 0), Asked::Go(_)) {
            counts[0] += 1;
        }
        // Nobody waits for a prefetch: its retry goes at once or not at all.
        let retry = Wish { places: &[Place { class: Class::Prefetch, ..place }], extra: true, ..wish };
        counts[1] += u32::from(ms >= 1000 && matches!(ledger.ask(now, &retry, || 0), Asked::Go(_)));
        // Somebody answers.
        ledger.answered(now, Permit::default(), Spot { server: 0, domain: 1 }, true);
    }
    assert_eq!(counts[0], 2000);
    // 800 are left over in each of nine seconds.
    assert!((3500..=3700).contains(&counts[1]), "{}", counts[1]);
}

#[test]
fn hedges_go_below_the_rate_only() {
    let mut ledger = Simulation::new(FIRST_SEED, Budget::from_text("1000/s").unwrap(), PATH, &[]).ledger;
    let now = SECOND;
    assert!(ledger.hedge(now).is_some());
    let place = Place { client: [10, 0, 0, 1].into(), class: Class::Client, deadline: Duration::MAX };
    let wish = Wish { places: &[place], domain: 1, packets: 1, extra: false };
    let waiting = (0..20).filter(|_| matches!(ledger.ask(now, &wish, || 0), Asked::Wait(_))).count();
    assert!(waiting > 0);
    assert_eq!(ledger.hedge(now + 5 * MS), None, "questions wait");
    let mut cut = adaptive(FIRST_SEED, Path { limit: Some(1024.0), ..PATH }, &[client(3000.0, 1)]);
    cut.run(3 * SECOND);
    cut.clients[0].rate = 10.0;
    cut.run(6 * SECOND);
    assert!(cut.ledger.is_at_rate(cut.now), "the rate was cut a moment ago");
    assert_eq!(cut.ledger.hedge(cut.now), None);
}

#[test]
fn what_cannot_wait_is_refused_at_once() {
    let mut simulation =
        Simulation::new(FIRST_SEED, Budget::from_text("100/s").unwrap(), PATH, &[client(1000.0, 1)]);
    simulation.run(10 * SECOND);
    let (asked, refused) = (simulation.asked[0], simulation.refused[0]);
    assert_eq!(simulation.failed[0], 0, "nobody waits in vain");
    assert!(refused > 8 * asked / 10 && simulation.answered[0] >= 990);
    assert!(simulation.longest_line <= 160, "{}: what can go in 1.55 s", simulation.longest_line);
}

/// What a limiter has saved up passes for more than it lets through, until it is gone.
#[test]
fn a_limiter_that_saves_up_is_kept_to_and_used() {
    with_seeds(|seed| {
        for (limit, burst) in [(300.0, 300.0), (1024.0, 100.0), (1024.0, 1024.0)] {
            let path = Path { limit: Some(limit), burst, ..PATH };
            let mut simulation = adaptive(seed, path, &[client(3.0 * limit, 1), client(20.0, 5)]);
            simulation.run(10 * SECOND);
            let (well, asked) = (simulation.answered[1], simulation.asked[1]);
            simulation.run(60 * SECOND);
            let what = format!("{}/s, limit {limit}, {burst} saved up; 20 to 60 s", 3.0 * limit + 20.0);
            simulation.show(&what, 20..60);
            let (sent, answered) = (simulation.mean(20..60, sent), simulation.mean(20..60, in_time));
            // At 300 a second 1.06 x the limit takes 18 packets a second of what was saved up: it takes larger steps to tell.
            let most = if limit < 1000.0 { 1.12 } else { 1.06 };
            assert!(
                sent <= most * limit && answered >= 0.97 * limit,
                "{limit}: sent {sent}, answered {answered}"
            );
            let (well, asked) = (simulation.answered[1] - well, simulation.asked[1] - asked);
            assert!(f64::from(well) >= 0.99 * f64::from(asked), "{limit}: {well} of {asked}");
        }
    });
}

/// Limits of other sizes, loads that are hardly above them, and answers that take their time.
#[test]
fn limits_are_found_wherever_they_are() {
    with_seeds(|seed| {
        for (limit, burst, asked, domains, latency, loss) in [
            (5000.0, 500.0, 8000.0, 100, 5, 0.0),
            (200.0, 5.0, 3000.0, 1, 5, 0.0),
            (100.0, 5.0, 500.0, 100, 5, 0.0),
            (1024.0, 5.0, 1100.0, 100, 5, 0.0),
            (1024.0, 200.0, 3000.0, 100, 100, 0.0),
            (500.0, 5.0, 600.0, 100, 5, 0.0),
            (1024.0, 5.0, 3000.0, 100, 5, 0.005),
            (1024.0, 5.0, 3000.0, 100, 5, 0.01),
        ] {
            let path = Path { limit: Some(limit), burst, latency: latency * MS, loss, ..PATH };
            let mut simulation = adaptive(seed, path, &[client(asked, domains)]);
            simulation.run(40 * SECOND);
            let what = format!(
                "{asked}/s under {domains} domains, limit {limit}, {burst} saved up, {latency} ms, {loss} lost each way; 20 to 40 s"
            );
            let soon = simulation.mean(8..10, sent);
            assert!(soon <= 1.25 * limit, "{what}: sent {soon} after 8 s");
            simulation.show(&what, 20..40);
            let (sent, answered) = (simulation.mean(20..40, sent), simulation.mean(20..40, in_time));
            assert!(
                sent <= 1.03 * limit && answered >= 0.9 * limit,
                "{what}: sent {sent}, answered {answered}"
            );
        }
    });
}

/// Six hours, each with half an hour of a flood before a limit: the limit and each share hold, and nothing piles up.
#[test]
fn hours_change_nothing() {
    const HALF: usize = 1800;
    let flood = client(70.0, 100_000);
    let mut clients = vec![flood];
    clients.extend([client(1.0, 2); 4]);
    let mut simulation = adaptive(FIRST_SEED, Path { limit: Some(60.0), ..PATH }, &clients);
    simulation.run(300 * SECOND);
    let at_first = (simulation.longest_line, simulation.most_questions, simulation.most_entries);
    for hour in 0..6 {
        let begin = 2 * HALF * hour;
        simulation.run(Duration::from_secs((begin + HALF) as u64));
        let mean = simulation.mean(begin + HALF - 600..begin + HALF, sent);
        assert!((0.93 * 60.0..=1.07 * 60.0).contains(&mean), "hour {hour}: {mean}");
        let well = simulation.mean(begin + HALF - 600..begin + HALF, in_time);
        assert!(well >= 0.92 * 60.0, "hour {hour}: {well} answered");
        simulation.clients[0].rate = 0.0;
        simulation.run(Duration::from_secs((begin + 2 * HALF) as u64));
        simulation.clients[0] = flood;
        simulation.ask_later(0);
    }
    for client in 1..5 {
        let (well, asked) = (f64::from(simulation.answered[client]), f64::from(simulation.asked[client]));
        assert!(asked > 20_000.0 && well + 1.0 >= 0.99 * asked, "{well} of {asked}");
    }
    let at_most = |first: usize| first + first / 2;
    let (line, questions, entries) = at_first;
    let at_last = (simulation.longest_line, simulation.most_questions, simulation.most_entries);
    assert!(
        at_last.0 <= at_most(line) && at_last.1 <= at_most(questions) && at_last.2 <= at_most(entries),
        "{at_last:?}, at first {at_first:?}"
    );
    assert_eq!(simulation.ledger.spots.places.len(), SPOTS);
    simulation.clients.iter_mut().for_each(|client| client.rate = 0.0);
    simulation.run(simulation.now + 10 * SECOND);
    assert_eq!(
        (simulation.ledger.queue.entries(), simulation.questions.len()),
        (0, 0),
        "nothing is left behind"
    );
}
