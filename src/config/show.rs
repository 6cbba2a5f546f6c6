//! A configuration as people and scripts read it, with what it can use at most.

use std::fmt::Write;

use serde_json::{Value, json};

use super::units::duration_text;
use super::{Config, Upstream};
use crate::limits::{self, bytes_text};
use crate::search::Mode;

fn texts(of: &[impl ToString]) -> Vec<String> {
    of.iter().map(ToString::to_string).collect()
}

/// The nameservers that a zone has from the host's `resolv.conf` now.
fn nameservers(upstreams: &[Upstream]) -> Option<Vec<String>> {
    upstreams.iter().find_map(|upstream| match upstream {
        Upstream::ResolvConf(servers) => Some(texts(servers)),
        _ => None,
    })
}

fn mode(config: &Config) -> &'static str {
    match config.search {
        Mode::Off => "off",
        Mode::Static(_) => "static",
        Mode::Learn => "learn",
    }
}

fn search_list(config: &Config) -> Vec<String> {
    match &config.search {
        Mode::Off => vec![],
        Mode::Learn => config.suffixes.hosts().iter().map(ToString::to_string).collect(),
        Mode::Static(namespace) => config.suffixes.list(namespace).iter().map(ToString::to_string).collect(),
    }
}

/// TOML that means this configuration, then the maxima as comments.
pub fn toml(config: &Config) -> String {
    let list =
        |texts: Vec<String>| texts.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(", ");
    let mut out = String::new();
    let listen = list(config.listen.iter().map(ToString::to_string).collect());
    let admin = config.admin.map_or("off".to_string(), |addr| addr.to_string());
    let _ = writeln!(out, "[server]\nlisten = [{listen}]\nworkers = {}\n", config.workers);
    let _ = writeln!(out, "[cache]\nsize = {:?}", bytes_text(config.cache_bytes));
    let _ = writeln!(out, "max_ttl = {:?}", duration_text(config.max_ttl));
    let _ = writeln!(out, "max_negative_ttl = {:?}", duration_text(config.max_negative_ttl));
    let _ = writeln!(out, "max_stale = {:?}\n", duration_text(config.max_stale));
    let _ = writeln!(out, "[search]\nmode = {:?}", mode(config));
    if config.follows_host {
        let _ = writeln!(out, "# list = [{}], as the host has it now", list(search_list(config)));
    } else if config.search != Mode::Off {
        let _ = writeln!(out, "list = [{}]", list(search_list(config)));
    }
    let _ = writeln!(out, "denial_cut = {}", config.denial_cut);
    let _ = writeln!(out, "cluster_domain = {:?}\n", config.suffixes.zone().to_string());
    let _ = writeln!(out, "[admin]\nlisten = {admin:?}");
    if let Some(file) = &config.ca_file {
        let _ = writeln!(out, "\n[tls]\nca_file = {file:?}");
    }
    for forward in &config.forward {
        let upstreams = list(texts(&forward.upstreams));
        let _ =
            writeln!(out, "\n[[forward]]\nzone = {:?}\nupstreams = [{upstreams}]", forward.zone.to_string());
        if let Some(servers) = nameservers(&forward.upstreams) {
            let _ = writeln!(out, "# resolv.conf: [{}], as the host has it now", list(servers));
        }
        if let Some(file) = &forward.ca_file {
            let _ = writeln!(out, "ca_file = {file:?}");
        }
        let _ = writeln!(out, "budget = {:?}", forward.plan.budget.to_string());
        if let Some(group) = &forward.plan.group {
            let _ = writeln!(out, "budget_group = {group:?}");
        }
    }
    let lines = limits::sums(&config.settings());
    let _ = writeln!(out, "\n# At most:");
    for line in &lines {
        let _ = writeln!(out, "# {:>12}  {:>10}  {}", line.count, bytes_text(line.bytes), line.what);
    }
    let _ = writeln!(out, "# {:>12}  {:>10}  in all", "", bytes_text(limits::total_bytes(&lines)));
    let _ = writeln!(out, "# {:>12}  {:>10}  file descriptors", limits::descriptors(&config.settings()), "");
    out
}

/// The same for scripts.
pub fn json(config: &Config) -> Value {
    let lines = limits::sums(&config.settings());
    let maxima: Vec<Value> = lines
        .iter()
        .map(|line| json!({"what": line.what, "count": line.count, "bytes": line.bytes}))
        .collect();
    let forward: Vec<Value> = config
        .forward
        .iter()
        .map(|forward| {
            json!({
                "zone": forward.zone.to_string(),
                "upstreams": texts(&forward.upstreams),
                "resolv_conf": nameservers(&forward.upstreams),
                "ca_file": forward.ca_file,
                "budget": forward.plan.budget.to_string(),
                "budget_group": forward.plan.group,
            })
        })
        .collect();
    json!({
        "server": {"listen": config.listen, "workers": config.workers},
        "cache": {
            "size_bytes": config.cache_bytes,
            "max_ttl_s": config.max_ttl.as_secs(),
            "max_negative_ttl_s": config.max_negative_ttl.as_secs(),
            "max_stale_s": config.max_stale.as_secs(),
        },
        "search": {
            "mode": mode(config),
            "list": search_list(config),
            "follows_host": config.follows_host,
            "denial_cut": config.denial_cut,
            "cluster_domain": config.suffixes.zone().to_string(),
        },
        "admin": {"listen": config.admin},
        "tls": {"ca_file": config.ca_file},
        "forward": forward,
        "maxima": maxima,
        "total_bytes": limits::total_bytes(&lines),
        "descriptors": limits::descriptors(&config.settings()),
    })
}
