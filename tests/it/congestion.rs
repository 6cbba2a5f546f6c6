//! A link that takes less than nodens has to say: replies wait for room in the socket, and none is lost.

use std::fmt::Write as _;

use crate::clients::Pod;
use crate::harness::{Dir, Nodens, need, tool};

/// Questions in flight, whose replies are many times what a socket's buffer holds.
const IN_FLIGHT: &str = "6000";
const QUESTIONS: usize = 30_000;

#[test]
fn a_link_slower_than_the_answers_loses_none_of_them() {
    if !["tc", "ip", "dnsperf"].into_iter().all(need) {
        return;
    }
    let pod = Pod::of("slow");
    let listen = format!("{}:53", pod.own());
    let mut command =
        pod.command(&["serve", "--lab", "--workers", "1", "--search", "off", "--listen", &listen]);
    command.args(["--admin", "127.0.0.1:0"]);
    let _nodens = Nodens::spawn(command);
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
