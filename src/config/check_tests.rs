//! Each kind of wrong value has its error, each default its meaning.

use super::*;
use crate::upstream::budget::Plan;

fn config(toml: &str) -> Result<Config, ConfigErrors> {
    let raw = Raw::from_toml("nodens.toml", toml).map_err(|error| ConfigErrors(vec![error]))?;
    check(raw, Path::new("/nonexistent/resolv.conf"))
}

const ROOT: &str = "[[forward]]\nzone = \".\"\nupstreams = [\"udp://192.0.2.1\"]\n";

fn error(toml: &str) -> String {
    config(&format!("{toml}\n{ROOT}")).unwrap_err().to_string()
}

#[test]
fn defaults_mean_what_the_manual_says() {
    let config = config(ROOT).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:1053".parse().unwrap()]);
    assert_eq!(config.admin, Some("127.0.0.1:9253".parse().unwrap()));
    assert_eq!(config.cache_bytes, 64 << 20);
    assert_eq!(config.max_stale, Duration::from_secs(86_400));
    assert_eq!(config.search, Mode::Learn);
    assert_eq!(config.suffixes.zone().to_string(), "cluster.local.");
    assert_eq!(config.forward[0].upstreams[0].to_string(), "udp://192.0.2.1:53");
}

#[test]
fn errors_name_place_key_found_and_allowed() {
    let cases = [
        (
            "[server]\nlisen = []",
            "nodens.toml:2:1: server.lisen: found `lisen`; allowed: the keys `listen` or `workers`",
        ),
        ("[sever]", "nodens.toml:1:2: sever: found `sever`; allowed: the keys `server`"),
        (
            "[server]\nworkers = \"2\"",
            "nodens.toml:2:11: server.workers: found `\"2\"`; allowed: a whole number",
        ),
        (
            "[server]\nworkers = 0",
            "nodens.toml:2:11: server.workers: found 0; allowed: a whole number from 1 to 256",
        ),
        (
            "[server]\nlisten = [\"localhost\"]",
            "nodens.toml:2:10: server.listen: found \"localhost\"; allowed: addresses",
        ),
        ("[server]\nlisten = []", "found \"0 addresses\""),
        (
            "[cache]\nsize = \"64MB\"",
            "nodens.toml:2:8: cache.size: found \"64MB\"; allowed: a size with its unit",
        ),
        ("[cache]\nsize = \"1KiB\"", "from 1MiB to 1024GiB"),
        (
            "[cache]\nmax_ttl = \"8d\"",
            "cache.max_ttl: found \"8d\"; allowed: a time with its unit (ms, s, m, h, d) up to 7d",
        ),
        (
            "[cache]\nmax_stale = \"4d\"",
            "cache.max_stale: found \"4d\"; allowed: a time with its unit (ms, s, m, h, d) up to 3d, such as \"1d\", or \"0\"",
        ),
        ("[search]\nmode = \"on\"", "search.mode: found \"on\"; allowed: \"off\", \"static\" or \"learn\""),
        ("[search]\nmode = \"static\"", "search.mode: found \"static\"; allowed: with search.list"),
        (
            "[search]\nmode = \"static\"\nlist = [\"shop.svc.cluster.local\", \"cluster.local\"]",
            "nodens.toml:3:8: search.list: found \"shop.svc.cluster.local,cluster.local\"; allowed: NAMESPACE.svc.cluster.local, svc.cluster.local, cluster.local, then",
        ),
        ("[search]\nmode = \"off\"\nlist = [\"a\"]", "search.list: found \"a\"; allowed: nothing while"),
        (
            "[search]\ncluster_domain = \"a..b\"",
            "search.cluster_domain: found \"a..b\"; allowed: a domain name",
        ),
        ("[admin]\nlisten = \"9253\"", "admin.listen: found \"9253\"; allowed: an address with a port"),
        ("[[forward]]\nzone = \"x\"", "forward[0]"),
        ("[[forward]]\nzone = \"x\"\nupstreams = []", "forward.upstreams: found \"0 servers\""),
        (
            "[[forward]]\nzone = \"x\"\nupstreams = [\"8.8.8.8\"]",
            "nodens.toml:3:13: forward.upstreams: found \"8.8.8.8\"; allowed: udp://IP",
        ),
        (
            "[[forward]]\nzone = \"x\"\nupstreams = [\"tls://192.0.2.1\"]",
            "nodens.toml:3:13: forward.upstreams: found \"tls://192.0.2.1\"; allowed: tls://IP[:PORT]#NAME or https://IP[:PORT][/PATH]#NAME: the address",
        ),
        (
            "[[forward]]\nzone = \"x\"\nupstreams = [\"headless://dns.example\"]",
            "forward.upstreams: found \"headless://dns.example\"; allowed: headless://NAME[:PORT]?bootstrap=IP[:PORT]",
        ),
        (
            "[server]\nlisten = [\"127.0.0.1:1053\"]\n[[forward]]\nzone = \"x\"\nupstreams = [\"headless://dns.example?bootstrap=127.0.0.1:1053\"]",
            "nodens.toml:5:13: forward.upstreams: found \"headless://dns.example?bootstrap=127.0.0.1:1053\"; allowed: a bootstrap server that is not this process",
        ),
        (
            "[tls]\nca_file = \"/nonexistent/ca.pem\"",
            "nodens.toml:2:11: tls.ca_file: found \"/nonexistent/ca.pem: No such file or directory (os error 2)\"; allowed: a file of certificates in PEM form",
        ),
        (
            "[[forward]]\nzone = \"x\"\nupstreams = [\"tls://192.0.2.1#a\"]\nca_file = \"/dev/null\"",
            "nodens.toml:4:11: forward.ca_file: found \"/dev/null: no certificate in it\"",
        ),
        (
            "[[forward]]\nzone = \"x\"\nupstreams = [\"udp://192.0.2.1\"]\nca_file = \"/dev/null\"",
            "forward.ca_file: found \"/dev/null\"; allowed: nothing where no upstream is tls:// or https://",
        ),
        ("[tls]\nca = 1", "nodens.toml:2:1: tls.ca: found `ca`; allowed: the keys `ca_file`"),
        (
            "[[forward]]\nzone = \".\"\nupstreams = [\"udp://192.0.2.9\"]",
            "forward.zone: found \".\"; allowed: each zone once",
        ),
        ("= 1", "nodens.toml:1:1: the file: found `= 1`; allowed: TOML"),
    ];
    for (toml, expected) in cases {
        let found = error(toml);
        assert!(found.contains(expected), "{toml}\n  said: {found}\n  not:  {expected}");
    }
}

#[test]
fn budgets_mean_what_the_manual_says() {
    let path = std::env::temp_dir().join(format!("nodens-budget-{}", std::process::id()));
    std::fs::write(&path, "nameserver 192.0.2.7\n").unwrap();
    let plans = |toml: &str, flag: Option<&str>| {
        let mut raw = Raw::from_toml("nodens.toml", toml).unwrap();
        let at = Source::Flag("--upstream-budget".into());
        raw.upstream_budget = flag.map(|value| Written { value: value.into(), at });
        let config = check(raw, &path)?;
        let text = |plan: &Plan| (plan.budget.to_string(), plan.group.clone().unwrap_or_default());
        Ok::<_, ConfigErrors>(config.forward.iter().map(|forward| text(&forward.plan)).collect::<Vec<_>>())
    };
    let of = |budget: &str, group: &str| (budget.to_string(), group.to_string());
    assert_eq!(plans("", None).unwrap(), [of("adaptive", "resolv.conf")]);
    assert_eq!(plans("", Some("aws")).unwrap(), [of("aws", "aws")]);
    assert_eq!(plans("", Some("none")).unwrap(), [of("none", "")]);
    assert_eq!(plans(ROOT, None).unwrap(), [of("none", "")]);
    assert_eq!(plans(ROOT, Some("500/s")).unwrap(), [of("500/s", "")]);
    let corp = "[[forward]]\nzone = \"corp\"\nupstreams = [\"udp://192.0.2.9\"]\n";
    let both = format!("{corp}budget = \"200/s\"\nbudget_group = \"office\"\n");
    assert_eq!(plans(&both, None).unwrap(), [of("200/s", "office"), of("adaptive", "resolv.conf")]);
    let error = |toml: String, flag| plans(&toml, flag).unwrap_err().to_string();
    assert_eq!(
        error(format!("{corp}budget = \"lots\""), None),
        "nodens.toml:4:10: forward.budget: found \"lots\"; allowed: \"adaptive\", \"aws\", \"alibaba\", \"none\" or \
         packets a second from \"10/s\" to \"100000/s\""
    );
    let flag = error(String::new(), Some("5/s"));
    assert!(
        flag.starts_with("argument --upstream-budget: forward.budget: found \"5/s\"; allowed: "),
        "{flag}"
    );
    let group = error(format!("{corp}budget_group = \"office\""), None);
    assert!(group.contains("forward.budget_group: found \"office\"; allowed: nothing where"), "{group}");
    let address = error(format!("{corp}budget = \"aws\"\nbudget_group = \"192.0.2.1\""), None);
    assert!(address.contains("forward.budget_group: found \"192.0.2.1\"; allowed: a name of"), "{address}");
    // One address, one budget; one group, one budget.
    let twice = error(format!("{corp}budget = \"aws\"\n{}", corp.replace("corp", "lab")), None);
    assert!(
        twice.contains(
            "found \"none\"; allowed: \"aws\" in the group \"aws\", as 192.0.2.9 has it in the zone corp."
        ),
        "{twice}"
    );
    let other = corp.replace("corp", "lab").replace("2.9", "2.8");
    let group = error(format!("{both}{other}budget = \"300/s\"\nbudget_group = \"office\"\n"), None);
    assert!(
        group.contains("found \"office\"; allowed: \"200/s\", which its group has in the zone corp."),
        "{group}"
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let said = error("[server]\nworkers = 0\n[cache]\nsize = \"x\"");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn without_servers_the_hosts_own_are_used() {
    let path = std::env::temp_dir().join(format!("nodens-resolv-{}", std::process::id()));
    std::fs::write(
        &path,
        "search a.example\nnameserver 192.0.2.7\nnameserver 2001:db8::7\noptions ndots:5\n",
    )
    .unwrap();
    let config = check(Raw::default(), &path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let servers = config.forward[0].upstreams[0].endpoints().members;
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["udp://192.0.2.7:53", "udp://[2001:db8::7]:53"]);
    let missing = check(Raw::default(), &path).unwrap_err().to_string();
    assert!(missing.starts_with("default: forward.upstreams: found"), "{missing}");
}

#[test]
fn a_file_that_several_zones_need_is_wrong_once() {
    let zone = |name: &str| format!("[[forward]]\nzone = {name:?}\nupstreams = [\"tls://192.0.2.1#a\"]\n");
    let said = error(&format!("[tls]\nca_file = \"/dev/null\"\n{}{}", zone("x"), zone("y")));
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_is_shown_means_the_same() {
    let text = "[server]\nlisten = [\"127.0.0.1:53\", \"[::1]:53\"]\nworkers = 3\n[cache]\nsize = \"96MiB\"\nmax_ttl = \"2h\"\nmax_stale = \"0\"\n\
        [admin]\nlisten = \"off\"\n[[forward]]\nzone = \"cluster.local\"\nupstreams = [\"tcp://[::1]:54\"]\n\
        budget = \"700/s\"\nbudget_group = \"dns\"\n[[forward]]\nzone = \"corp\"\nupstreams = [\"tls://192.0.2.1#a\", \"https://192.0.2.1/x#b\", \"headless://c:5?bootstrap=192.0.2.2\"]\n";
    let config = config(&format!("{text}{ROOT}")).unwrap();
    let shown = crate::config::show::toml(&config);
    assert_eq!(check(Raw::from_toml("shown", &shown).unwrap(), Path::new("/nonexistent")).unwrap(), config);
}

#[test]
fn a_later_layer_replaces_value_by_value_and_zone_by_zone() {
    let earlier =
        Raw::from_toml("f", &format!("[server]\nworkers = 3\n[cache]\nsize = \"96MiB\"\n{ROOT}")).unwrap();
    let later = Raw::from_toml(
        "f",
        "[cache]\nsize = \"32MiB\"\n[[forward]]\nzone = \"Corp.\"\nupstreams = [\"udp://192.0.2.5\"]",
    )
    .unwrap();
    let config = check(later.over(earlier), Path::new("/nonexistent")).unwrap();
    assert_eq!((config.workers, config.cache_bytes, config.forward.len()), (3, 32 << 20, 2));
}
