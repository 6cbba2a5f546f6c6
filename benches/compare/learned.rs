//! What search lists add to a hit: 250 clients, unknown and learned, against the echo under the same load.

use std::time::Duration;

use crate::Bench;
use crate::ask::{self, http, query, wait_for};
use crate::authority::host;
use crate::clients::{Task, What, address, first_step};
use crate::contenders::{Role, Server};
use crate::echo::Template;
use crate::machine::cpu;
use crate::measure::Sample;
use crate::workloads::Plan;

/// Questions a second while answers are fetched, and how often each is asked.
const WARM_RATE: u32 = 8000;
const WARM_PASSES: usize = 4;
/// A search that was late is left to its client for half a minute; a machine that stumbles may make one late.
const LITERAL: Duration = Duration::from_secs(31);

/// A line of the table.
pub struct Line {
    pub label: &'static str,
    /// The line that it is compared with.
    pub against: Option<usize>,
    pub samples: Vec<Sample>,
    pub p99_us: u32,
}

/// Echoes for both kinds of answers, and nodens with lists unknown and learned.
pub fn measure(bench: &Bench) -> Vec<Line> {
    let find = |role| bench.contenders.iter().find(|one| one.role == role).unwrap();
    bench.progress.say(&format!("learned: {} clients walk their search lists", bench.plan.clients));
    let unknown = bench.start(find(Role::Ours));
    let learned = bench.start(find(Role::Ours));
    warm(bench, &unknown, What::Services);
    learn(&learned, bench.plan.clients);
    warm(bench, &learned, What::Services);
    warm(bench, &learned, What::FirstSteps);
    let echo = bench.start(find(Role::Echo));
    let composed_echo = bench.start_echo(find(Role::Echo), &composed_template(&learned));
    let lines: [(&Server, &str, What, Option<usize>); 5] = [
        (&echo, "echo", What::Services, None),
        (&unknown, "services, lists unknown", What::Services, Some(0)),
        (&learned, "services, lists learned", What::Services, Some(0)),
        (&composed_echo, "echo, as long as composed", What::FirstSteps, None),
        (&learned, "first steps, composed", What::FirstSteps, Some(3)),
    ];
    let mut table: Vec<Line> =
        lines.map(|(_, label, _, against)| Line { label, against, samples: vec![], p99_us: 0 }).into();
    for round in 0..bench.plan.rounds {
        for ((server, label, what, _), line) in lines.iter().zip(&mut table) {
            bench.progress.say(&format!("learned: round {} of {}, {label}", round + 1, bench.plan.rounds));
            let Plan { clients, rate, time, names, .. } = bench.plan;
            let task = Task { server: server.addr, clients, rate, time, what: *what, names };
            let before = cpu(server.pid());
            let (said, p99_us) = task.run(&bench.cores);
            assert!(said.nxdomain == 0, "{label}: {} denials", said.nxdomain);
            line.samples.push(Sample { cpu: cpu(server.pid()) - before, said });
            line.p99_us = line.p99_us.max(p99_us);
        }
    }
    table
}

/// Has every name asked for once, one after the other, and then often enough to be hot.
fn warm(bench: &Bench, server: &Server, what: What) {
    let Plan { clients, names: most, .. } = bench.plan;
    let (names, rate) = (what.names(most), WARM_RATE);
    for (number, name) in names.iter().enumerate() {
        let from = address((number % usize::from(clients)) as u8).into();
        // A composed answer is an alias and an address.
        let records = if what == What::FirstSteps { 2 } else { 1 };
        let is_right = || {
            let reply = ask::udp_from(from, server.addr, &query(name));
            reply.is_some_and(|reply| reply[3] & 15 == 0 && reply[7] == records)
        };
        let again = || {
            std::thread::sleep(LITERAL);
            is_right()
        };
        assert!(is_right() || again(), "{name} is not answered as it should be");
    }
    let time = Duration::from_secs(1).mul_f64((names.len() * WARM_PASSES) as f64 / f64::from(rate));
    Task { server: server.addr, clients, rate, time, what, names: most }.run(&bench.cores);
}

/// Each client walks its list for two names, as a stub resolver would; nodens shows in its metrics that it has understood.
fn learn(server: &Server, clients: u8) {
    for client in 0..clients {
        for base in [host(0), host(1)] {
            let steps = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "node.internal"];
            let names = steps.iter().map(|suffix| format!("{base}.{suffix}")).chain([base.clone()]);
            for name in names {
                let reply = ask::udp_from(address(client).into(), server.addr, &query(&name));
                let denied = reply.is_some_and(|reply| reply[3] & 15 == 3);
                assert_eq!(denied, name != base, "{name}");
            }
        }
    }
    let proven = format!("nodens_search_clients{{state=\"proven\"}} {clients}");
    wait_for("the clients' lists are learned", || {
        http(server.admin, "/metrics").is_some_and(|text| text.lines().any(|line| line == proven))
    });
}

fn composed_template(learned: &Server) -> Template {
    let query = query(&first_step(&host(100)));
    let reply = ask::udp_from(address(0).into(), learned.addr, &query).unwrap();
    Template::of(&query, &reply)
}
