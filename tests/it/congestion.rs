//! A link that takes less than nodens has to say: replies wait for room in the socket, and none is lost.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::time::Instant;

use hickory_resolver::proto::rr::RecordType;

use crate::clients::Pod;
use crate::harness::{Dir, Nodens, PATIENCE, need, query, tool};

/// Questions in flight, whose replies are many times what a socket's buffer holds.
const IN_FLIGHT: &str = "6000";
const QUESTIONS: usize = 30_000;

fn nodens_in(pod: &Pod) -> Nodens {
    let listen = format!("{}:53", pod.own());
    let mut command =
        pod.command(&["serve", "--lab", "--workers", "1", "--search", "off", "--listen", &listen]);
    command.args(["--admin", "127.0.0.1:0"]);
    Nodens::spawn(command)
}

#[test]
fn a_link_that_takes_hardly_anything_does_not_keep_it_from_ending() {
    if !["tc", "ip"].into_iter().all(need) {
        return;
    }
    let pod = Pod::of("stuck");
    let mut nodens = nodens_in(&pod);
    pod.slow_down("1kbit");
    let client = UdpSocket::bind("0.0.0.0:0").unwrap();
    client.connect((pod.own(), 53)).unwrap();
    let (packet, start) = (query("www.example.com", RecordType::A), Instant::now());
    while pod.found_no_room() == 0 && start.elapsed() < PATIENCE {
        (0..500).for_each(|_| drop(client.send(&packet)));
    }
    assert!(pod.found_no_room() > 0, "the link was fast enough");
    assert_eq!(nodens.stop(), 0);
}

#[test]
fn a_link_slower_than_the_answers_loses_none_of_them() {
    if !["tc", "ip", "dnsperf"].into_iter().all(need) {
        return;
    }
    let pod = Pod::of("slow");
    let _nodens = nodens_in(&pod);
    pod.slow_down("6mbit");

    let (dir, mut names) = (Dir::new(), String::new());
    for number in 0..QUESTIONS {
        // Every second one is a miss, whose reply does not come with a batch.
        match number % 2 {
            0 => writeln!(names, "n{number}.example.com A").unwrap(),
            _ => names.push_str("www.example.com A\n"),
        }
    }
    let file = dir.file("names", &names);
    let ask = ["-s", &pod.own().to_string(), "-n", "1", "-c", "4", "-b", "4096", "-t", "30", "-q", IN_FLIGHT];
    let said = tool("dnsperf").args(ask).arg("-d").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout);
    let count = |what: &str| -> usize {
        let line =
            said.lines().find_map(|line| line.trim().strip_prefix(what)).unwrap_or_else(|| panic!("{said}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!((count("Queries completed:"), count("Queries lost:")), (QUESTIONS, 0));
    assert!(pod.found_no_room() > 0, "the link was fast enough");
}
