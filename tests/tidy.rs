//! What keeps the source readable: imports go one way, and the documents name what is there.
//!
//! It prints the longest files and functions, for whoever looks for a place to begin.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may import; the program's shell (`run`, `main` and what belongs to it) may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("limits", &[]),
    ("buckets", &[]),
    ("descriptors", &[]),
    ("query", &["wire"]),
    ("cache", &["buckets", "query", "wire"]),
    ("search", &["cache", "query", "wire"]),
    ("upstream", &["buckets", "descriptors", "limits", "wire"]),
    ("clock", &["cache"]),
    ("resolve", &["cache", "clock", "limits", "observe", "query", "search", "upstream", "wire"]),
    ("server", &["descriptors", "limits", "observe", "query", "resolve", "search", "upstream", "wire"]),
    ("observe", &["cache", "query", "resolve", "search", "upstream", "wire"]),
    ("admin", &["observe"]),
    ("config", &["limits", "search", "upstream", "wire"]),
    ("lab", &[]),
];
/// Modules that wait for packets, timers or people; all others only decide, with the time handed to them.
const MAY_WAIT: &[&str] = &["admin", "clock", "lab", "observe", "resolve", "run", "server", "upstream"];
/// Files of modules that wait, which only decide.
const DECIDES: &[&str] = &["budget", "experiment", "fairness", "latency", "ledger", "rate", "window"];
/// What a module that only decides has no business with.
const OUTSIDE: &[&str] =
    &["tokio::", "std::net::UdpSocket", "std::net::TcpStream", "rand::", "SystemTime", "std::fs::"];
/// Macros of the log, which are exported at the top.
const LOG: &[&str] = &["error!", "warning!", "info!"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, by its path from the root.
fn sources(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.insert(path.strip_prefix(root()).unwrap().to_path_buf(), text);
            }
        }
    }
    found
}

/// The code of a file, its comments and tests left out; nothing for a file of tests.
fn code(path: &Path, text: &str) -> String {
    let name = path.file_stem().unwrap().to_str().unwrap();
    if name == "tests" || name.ends_with("_tests") || name.ends_with("scenarios") || name == "simulation" {
        return String::new();
    }
    let tests = text.find("\n#[cfg(test)]\n#[path").or_else(|| text.find("\n#[cfg(test)]\nmod "));
    let lines = text[..tests.unwrap_or(text.len())].lines();
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The module below `src` that a file belongs to.
fn module(path: &Path) -> String {
    let first = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

/// The modules that a file's code names by `crate::` or, from below, by `super::`.
fn imports(path: &Path, code: &str) -> BTreeSet<String> {
    let is_top = path.ends_with("mod.rs");
    let depth = path.components().count() - 2 - usize::from(is_top);
    let outward = if depth == 0 { "super::".to_string() } else { "super::".repeat(depth + 1) };
    let mut found = BTreeSet::new();
    for prefix in ["crate::", outward.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let rest = &code[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let bang = if rest[end..].starts_with('!') { "!" } else { "" };
            found.insert(format!("{}{bang}", &rest[..end]));
        }
    }
    found
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let (module, code) = (module(&path), code(&path, &text));
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            assert!(
                ["lib", "main", "cli", "follow", "playground", "run"].contains(&module.as_str()),
                "{module} has no rule"
            );
            continue;
        };
        for import in imports(&path, &code) {
            let logs = LOG.contains(&import.as_str()) && (MAY_WAIT.contains(&module.as_str()));
            if import != module && !logs && !allowed.contains(&import.as_str()) {
                wrong.push(format!("{}: {module} imports {import}", path.display()));
            }
        }
        // Counts are for people: who decides does not read them.
        if module != "observe" && code.contains("Sum(") {
            wrong.push(format!("{}: reads counters", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_decides_has_no_socket_runtime_clock_or_chance_in_it() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let code = code(&path, &text);
        let is_of_upstream = path.starts_with("src/upstream")
            && DECIDES.iter().any(|file| path.ends_with(format!("{file}.rs")));
        if ["wire", "query", "cache", "search", "limits"].contains(&module(&path).as_str()) || is_of_upstream
        {
            let found = OUTSIDE.iter().filter(|word| code.contains(**word));
            wrong.extend(found.map(|word| format!("{}: {word}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_direction_is_noticed_when_it_is_broken() {
    let from = |path: &str, code: &str| imports(Path::new(path), code).into_iter().collect::<Vec<_>>();
    assert_eq!(from("src/wire/name.rs", "use crate::cache::Cache;"), ["cache"]);
    assert_eq!(from("src/wire/name.rs", "use super::header; use super::super::cache::key;"), ["cache"]);
    assert_eq!(from("src/wire/mod.rs", "use super::query::Query;"), ["query"]);
    assert_eq!(from("src/query.rs", "fn f() { crate::error!(\"x\") }"), ["error!"]);
}

/// Rows of a table are `| section | module | test |`; both must be there.
#[test]
fn the_rfcs_name_modules_and_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/rfcs.md")).unwrap();
    let all: String =
        [sources("src"), sources("tests")].into_iter().flatten().map(|(_, text)| text).collect();
    let mut rows = 0;
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| RFC") || line.starts_with("| draft")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [section, modules, tests] = cells[..] else { panic!("{line}") };
        rows += 1;
        let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(String::from).collect::<Vec<_>>();
        for module in quoted(modules) {
            if !root().join("src").join(&module).exists() {
                wrong.push(format!("{section}: no {module}"));
            }
        }
        let tests = quoted(tests);
        if tests.is_empty() {
            wrong.push(format!("{section}: no test"));
        }
        for test in tests {
            if !all.contains(&format!("fn {}(", test.rsplit("::").next().unwrap_or_default())) {
                wrong.push(format!("{section}: no test {test}"));
            }
        }
    }
    assert!(rows > 20, "{rows} rows");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_says_what_it_is_for() {
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let text = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    for table in ["dependencies", "dev-dependencies"] {
        for name in manifest[table].as_table().unwrap().keys() {
            assert!(text.contains(&format!("| `{name}` |")), "docs/dependencies.md lacks {name}");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents = vec![root().join("README.md")];
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    documents.extend(fs::read_dir(root().join("docs/decisions")).unwrap().map(|entry| entry.unwrap().path()));
    let mut wrong = Vec::new();
    for document in
        documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if !target.is_empty()
                && !target.contains("://")
                && !document.parent().unwrap().join(target).exists()
            {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions of a formatted file with their lengths: each ends where its own indentation closes.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_head = |line: &str| {
        let line = line.trim_start();
        let words = ["pub ", "pub(crate) ", "const ", "async ", "unsafe "];
        let bare = words.iter().fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
        bare.starts_with("fn ")
    };
    let mut found = Vec::new();
    for (start, head) in lines.iter().enumerate().filter(|(_, line)| is_head(line)) {
        let indentation = &head[..head.len() - head.trim_start().len()];
        let end = lines.iter().skip(start).position(|line| *line == format!("{indentation}}}"));
        if let Some(length) = end {
            found.push((head.trim().trim_end_matches(" {").to_string(), length + 1));
        }
    }
    found
}

#[test]
fn the_longest_are_shown() {
    let mut files = Vec::new();
    let mut all = Vec::new();
    for (path, text) in sources("src") {
        files.push((text.lines().count(), path.display().to_string()));
        let named = |(name, length)| (length, format!("{}: {name}", path.display()));
        all.extend(functions(&text).into_iter().map(named));
    }
    files.sort_unstable_by(|one, other| other.cmp(one));
    all.sort_unstable_by(|one, other| other.cmp(one));
    assert!(files.len() > 20 && all.len() > 200);
    println!("longest files:");
    files.iter().take(8).for_each(|(lines, path)| println!("{lines:>6}  {path}"));
    println!("longest functions:");
    all.iter().take(8).for_each(|(lines, name)| println!("{lines:>6}  {name}"));
}
