//! Arguments, environment and files: what is wrong is told with its place and what would be right, exit code 2.

use crate::harness::{Dir, nodens, run};

fn check(toml: &str) -> (Option<i32>, String) {
    let dir = Dir::new();
    let file = dir.file("nodens.toml", toml);
    let output = nodens().args(["serve", "--config", file.to_str().unwrap()]).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn five_mistakes_have_five_clear_errors() {
    let mistakes = [
        (
            "[server]\nlisten_on = [\"127.0.0.1:53\"]\n",
            ["nodens.toml:2:1", "server.listen_on", "`listen_on`", "`listen` or `workers`"],
        ),
        (
            "[server]\nworkers = \"two\"\n",
            ["nodens.toml:2:11", "server.workers", "\"two\"", "a whole number"],
        ),
        ("[cache]\n\nsize = \"64MB\"\n", ["nodens.toml:3:8", "cache.size", "\"64MB\"", "KiB, MiB, GiB"]),
        (
            "[server]\nlisten = [\"127.0.0.1\"]\n",
            ["nodens.toml:2:10", "server.listen", "\"127.0.0.1\"", "127.0.0.1:1053"],
        ),
        (
            "[[forward]]\nzone = \"a..b\"\nupstreams = [\"udp://192.0.2.1\"]\n",
            ["nodens.toml:2:8", "forward.zone", "\"a..b\"", "a domain name"],
        ),
    ];
    for (toml, parts) in mistakes {
        let (code, said) = check(toml);
        assert_eq!(code, Some(2), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{toml}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn flags_and_variables_are_named_as_such() {
    let output = run(&["check", "--upstream", "udp://192.0.2.1", "--cache-size", "lots"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("argument --cache-size: cache.size: found \"lots\""), "{said}");
    let output = nodens()
        .args(["check", "--upstream", "udp://192.0.2.1"])
        .env("NODENS_WORKERS", "0")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("environment variable NODENS_WORKERS: server.workers: found 0"), "{said}");
    assert_eq!(run(&["serve", "--nonsense"]).status.code(), Some(2));
    assert_eq!(run(&["check", "--config", "/nonexistent.toml"]).status.code(), Some(2));
    assert_eq!(run(&["lab", "--loss", "2"]).status.code(), Some(2));
}

#[test]
fn what_check_prints_can_be_served() {
    let dir = Dir::new();
    let output = run(&[
        "check",
        "--upstream",
        "udp://192.0.2.1,tcp://[2001:db8::1]:54",
        "--forward",
        "corp=udp://192.0.2.2",
        "--workers",
        "3",
    ]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("At most:") && text.contains("tcp://[2001:db8::1]:54"), "{text}");
    let file = dir.file("shown.toml", &text);
    let again = run(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(String::from_utf8(again.stdout).unwrap(), text);
    let json = run(&["check", "--json", "--config", file.to_str().unwrap()]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["server"]["workers"], 3);
    assert!(json["total_bytes"].as_u64().unwrap() > 64 << 20);
}

#[test]
fn help_shows_examples() {
    for args in [&["--help"][..], &["serve", "--help"], &["check", "--help"], &["lab", "--help"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8(output.stdout).unwrap().contains("Examples:"), "{args:?}");
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}
