//! From what was written to what it means: each value once, each error with what would be right.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors, Source};
use super::raw::{Raw, RawForward, Written};
use super::{Config, Forward, Upstream};
use super::{plans, resolv_conf, units, urls};
use crate::limits::{
    self, DEFAULT_CACHE_BYTES, MAX_CACHE_BYTES, MAX_LISTEN, MAX_SERVERS_PER_ZONE, MAX_WORKERS, MAX_ZONES,
    MIN_CACHE_BYTES, bytes_text,
};
use crate::search::Mode;
use crate::search::list::{MAX_HOST_DOMAINS, Suffixes};
use crate::upstream::identity::Roots;
use crate::upstream::loops;
use crate::wire::name::{Name, labels};

/// Where queries are taken when nothing is said: a port that needs no privilege, on this host only.
const DEFAULT_LISTEN: &str = "127.0.0.1:1053";
/// Where the admin pages are when nothing is said.
const DEFAULT_ADMIN: &str = "127.0.0.1:9253";
/// RFC 8767 section 4 recommends a cap of days; a day is what changes are planned for.
const DEFAULT_MAX_TTL: Duration = Duration::from_secs(86_400);
/// RFC 2308 section 5: one to three hours have worked well.
const DEFAULT_MAX_NEGATIVE_TTL: Duration = Duration::from_secs(3600);
/// RFC 8767 section 4: more than a week is never right.
const LONGEST_TTL: Duration = Duration::from_secs(7 * 86_400);
/// RFC 8767 section 5 suggests one to three days. The least of it: an outage of a day has been seen to, and in a cluster
/// addresses pass on.
const DEFAULT_MAX_STALE: Duration = Duration::from_secs(86_400);
/// The most that RFC 8767 section 5 suggests.
const LONGEST_STALE: Duration = Duration::from_secs(3 * 86_400);
const DEFAULT_CLUSTER_DOMAIN: &str = "cluster.local";
const DEFAULT_SEARCH: &str = "learn";
/// kubelet allows 32 domains in a pod's search list.
const MAX_SEARCH_LIST: usize = MAX_HOST_DOMAINS + 3;
/// The upstream that means the servers of that file.
pub(super) const RESOLV_CONF: &str = "resolv.conf";
/// A distribution's whole bundle of authorities is a quarter of it.
const MAX_CA_FILE: u64 = limits::MIB;

const LISTEN: &str = "addresses with ports, such as \"127.0.0.1:1053\" or \"[::1]:1053\", up to 16";
const NAME: &str = "a domain name, such as \"cluster.local\"";
const CA_FILE: &str = "a file of certificates in PEM form, up to 1MiB";
const ADMIN: &str = "an address with a port, such as \"127.0.0.1:9253\", or \"off\"";

/// Checks everything.
///
/// # Errors
/// All that is wrong, not just the first.
pub fn check(raw: Raw, resolv_conf: &Path) -> Result<Config, ConfigErrors> {
    let mut errors = Vec::new();
    let mut note = |result: Result<(), ConfigError>| errors.extend(result.err());
    let mut config = Config {
        listen: vec![],
        workers: std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS),
        cache_bytes: DEFAULT_CACHE_BYTES,
        max_ttl: DEFAULT_MAX_TTL,
        max_negative_ttl: DEFAULT_MAX_NEGATIVE_TTL,
        max_stale: DEFAULT_MAX_STALE,
        search: Mode::Off,
        suffixes: Suffixes::default(),
        follows_host: false,
        denial_cut: raw.denial_cut.is_some_and(|written| written.value),
        admin: None,
        ca_file: raw.ca_file.as_ref().map(|written| written.value.clone()),
        forward: vec![],
    };
    let default = |value: &str| Written { value: value.to_string(), at: Source::Default };

    let listen = raw.listen.unwrap_or(Written { value: vec![DEFAULT_LISTEN.into()], at: Source::Default });
    note(listen_addresses(&listen).map(|listen| config.listen = listen));
    if let Some(workers) = &raw.workers {
        note(worker_count(workers).map(|workers| config.workers = workers));
    }
    if let Some(size) = &raw.cache_size {
        note(cache_size(size).map(|bytes| config.cache_bytes = bytes));
    }
    if let Some(ttl) = &raw.max_ttl {
        note(ttl_cap(ttl, "cache.max_ttl").map(|cap| config.max_ttl = cap));
    }
    if let Some(ttl) = &raw.max_negative_ttl {
        note(ttl_cap(ttl, "cache.max_negative_ttl").map(|cap| config.max_negative_ttl = cap));
    }
    if let Some(time) = &raw.max_stale {
        note(stale_cap(time).map(|cap| config.max_stale = cap));
    }
    let domain = raw.cluster_domain.unwrap_or_else(|| default(DEFAULT_CLUSTER_DOMAIN));
    let mode = raw.search.unwrap_or_else(|| default(DEFAULT_SEARCH));
    note(search(&mode, raw.search_list.as_ref(), &domain, resolv_conf).map(|(mode, suffixes)| {
        config.follows_host = mode == Mode::Learn && raw.search_list.is_none();
        (config.search, config.suffixes) = (mode, suffixes);
    }));
    let admin = raw.admin.unwrap_or_else(|| default(DEFAULT_ADMIN));
    note(admin_address(&admin).map(|admin| config.admin = admin));
    let zones = ZoneChecks {
        resolv_conf,
        listen: &config.listen,
        ca_file: raw.ca_file.as_ref(),
        common: OnceCell::new(),
    };
    match zones.all(&with_budget(raw.forward, raw.upstream_budget.as_ref()), raw.upstream_budget.as_ref()) {
        Ok(forward) => config.forward = forward,
        Err(more) => errors.extend(more),
    }
    if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
}

pub(super) fn wrong<T>(
    written: &Written<T>,
    key: &str,
    found: &str,
    allowed: impl Into<String>,
) -> ConfigError {
    ConfigError {
        at: written.at.clone(),
        key: key.into(),
        found: format!("{found:?}"),
        allowed: allowed.into(),
    }
}

fn listen_addresses(written: &Written<Vec<String>>) -> Result<Vec<SocketAddr>, ConfigError> {
    let key = "server.listen";
    if written.value.is_empty() || written.value.len() > MAX_LISTEN {
        return Err(wrong(written, key, &format!("{} addresses", written.value.len()), LISTEN));
    }
    let parse = |text: &String| text.parse().map_err(|_| wrong(written, key, text, LISTEN));
    let mut all: Vec<SocketAddr> = written.value.iter().map(parse).collect::<Result<_, _>>()?;
    let mut seen = std::collections::HashSet::new();
    all.retain(|addr| addr.port() == 0 || seen.insert(*addr));
    Ok(all)
}

fn worker_count(written: &Written<i64>) -> Result<usize, ConfigError> {
    let count = usize::try_from(written.value).ok().filter(|count| (1..=MAX_WORKERS).contains(count));
    count.ok_or_else(|| ConfigError {
        at: written.at.clone(),
        key: "server.workers".into(),
        found: written.value.to_string(),
        allowed: format!("a whole number from 1 to {MAX_WORKERS}"),
    })
}

fn cache_size(written: &Written<String>) -> Result<u64, ConfigError> {
    let size = units::size(&written.value).filter(|size| (MIN_CACHE_BYTES..=MAX_CACHE_BYTES).contains(size));
    let (least, most) = (bytes_text(MIN_CACHE_BYTES), bytes_text(MAX_CACHE_BYTES));
    let allowed =
        format!("a size with its unit (B, KiB, MiB, GiB) from {least} to {most}, such as \"64MiB\"");
    size.ok_or_else(|| wrong(written, "cache.size", &written.value, allowed))
}

fn ttl_cap(written: &Written<String>, key: &str) -> Result<Duration, ConfigError> {
    let ttl = units::duration(&written.value).filter(|ttl| *ttl <= LONGEST_TTL);
    let allowed = "a time with its unit (ms, s, m, h, d) up to 7d, such as \"1h\"";
    ttl.ok_or_else(|| wrong(written, key, &written.value, allowed))
}

fn stale_cap(written: &Written<String>) -> Result<Duration, ConfigError> {
    let cap = match written.value.as_str() {
        "0" => Some(Duration::ZERO),
        text => units::duration(text).filter(|cap| *cap <= LONGEST_STALE),
    };
    let allowed = "a time with its unit (ms, s, m, h, d) up to 3d, such as \"1d\", or \"0\" for never";
    cap.ok_or_else(|| wrong(written, "cache.max_stale", &written.value, allowed))
}

/// The mode of the search short circuit, and the suffixes it goes by.
fn search(
    mode: &Written<String>,
    list: Option<&Written<Vec<String>>>,
    domain: &Written<String>,
    resolv_conf: &Path,
) -> Result<(Mode, Suffixes), ConfigError> {
    let key = "search.cluster_domain";
    let zone = name(domain, key)?;
    let suffixes = |hosts: &[Name]| {
        let too_long =
            || wrong(domain, key, &domain.value, format!("{NAME}, with room for names under svc below it"));
        Suffixes::new(zone, hosts).ok_or_else(too_long)
    };
    match (mode.value.as_str(), list) {
        ("off", None) => Ok((Mode::Off, suffixes(&[])?)),
        ("off", Some(list)) => {
            Err(wrong(list, "search.list", &list.value.join(","), "nothing while search.mode is \"off\""))
        }
        ("static", Some(list)) => {
            let (namespace, hosts) = static_list(list, &zone)?;
            Ok((Mode::Static(namespace), suffixes(&hosts)?))
        }
        ("static", None) => {
            Err(wrong(mode, "search.mode", "static", "with search.list, the list that every client has"))
        }
        ("learn", Some(list)) => {
            let hosts = parsed_list(list)?;
            if hosts.len() > MAX_HOST_DOMAINS || hosts.contains(&Name::ROOT) {
                let allowed = format!("the host's own domains, up to {MAX_HOST_DOMAINS}");
                return Err(wrong(list, "search.list", &list.value.join(","), allowed));
            }
            Ok((Mode::Learn, suffixes(&hosts)?))
        }
        ("learn", None) => Ok((Mode::Learn, suffixes(&host_domains(resolv_conf))?)),
        (other, _) => Err(wrong(mode, "search.mode", other, "\"off\", \"static\" or \"learn\"")),
    }
}

fn parsed_list(list: &Written<Vec<String>>) -> Result<Vec<Name>, ConfigError> {
    let parse = |text: &String| {
        Name::from_text(text).map_err(|why| wrong(list, "search.list", text, format!("{NAME} ({why})")))
    };
    list.value.iter().map(parse).collect()
}

/// The domains of this host's own search list; none where the file is not there or not readable.
fn host_domains(path: &Path) -> Vec<Name> {
    resolv_conf::read(path).map(|file| file.domains).unwrap_or_default()
}

/// The namespace that a list begins with, and the domains behind the cluster's.
fn static_list(list: &Written<Vec<String>>, zone: &Name) -> Result<(Box<[u8]>, Vec<Name>), ConfigError> {
    let key = "search.list";
    let names = parsed_list(list)?;
    let allowed = format!(
        "NAMESPACE.svc.{zone0}, svc.{zone0}, {zone0}, then the host's own domains, up to {MAX_SEARCH_LIST} in all",
        zone0 = zone.to_string().trim_end_matches('.')
    );
    let bad = || wrong(list, key, &list.value.join(","), allowed.clone());
    let [first, second, third, hosts @ ..] = names.as_slice() else { return Err(bad()) };
    let namespace = labels(first.as_wire()).next().ok_or_else(bad)?;
    let suffixes = Suffixes::new(*zone, &[]).ok_or_else(bad)?;
    let fits = suffixes.list(namespace) == [*first, *second, *third];
    let is_root = |name: &Name| *name == Name::ROOT;
    if !fits || names.len() > MAX_SEARCH_LIST || hosts.iter().any(is_root) {
        return Err(bad());
    }
    Ok((namespace.to_ascii_lowercase().into(), hosts.to_vec()))
}

fn name(written: &Written<String>, key: &str) -> Result<Name, ConfigError> {
    Name::from_text(&written.value)
        .map_err(|why| wrong(written, key, &written.value, format!("{NAME} ({why})")))
}

fn admin_address(written: &Written<String>) -> Result<Option<SocketAddr>, ConfigError> {
    match written.value.as_str() {
        "off" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong(written, "admin.listen", text, ADMIN)),
    }
}

/// What zones are checked with.
struct ZoneChecks<'c> {
    resolv_conf: &'c Path,
    listen: &'c [SocketAddr],
    ca_file: Option<&'c Written<String>>,
    /// The authorities of zones that name none themselves, once they are needed.
    common: OnceCell<Arc<Roots>>,
}

/// The root zone gets the budget that is said apart from it.
fn with_budget(mut forward: Vec<RawForward>, budget: Option<&Written<String>>) -> Vec<RawForward> {
    let is_root = |raw: &&mut RawForward| Name::from_text(&raw.zone.value) == Ok(Name::ROOT);
    if let (Some(root), Some(budget)) = (forward.iter_mut().find(is_root), budget) {
        root.budget = Some(budget.clone());
    }
    forward
}

impl ZoneChecks<'_> {
    fn all(
        &self,
        written: &[RawForward],
        root_budget: Option<&Written<String>>,
    ) -> Result<Vec<Forward>, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut all: Vec<Forward> = Vec::new();
        if let Some(ca_file) = self.ca_file {
            errors.extend(self.common(ca_file).err());
        }
        for raw in written {
            match self.zone(raw).and_then(|forward| plans::fits(&forward, raw, &all).map(|()| forward)) {
                Ok(forward) if all.iter().any(|other| other.zone == forward.zone) => {
                    errors.push(wrong(&raw.zone, "forward.zone", &raw.zone.value, "each zone once"));
                }
                Ok(forward) => all.push(forward),
                // A file that two zones need is wrong once.
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        if let Some(last) = written.get(MAX_ZONES) {
            let found = format!("{} zones", written.len());
            errors.push(wrong(&last.zone, "forward", &found, format!("up to {MAX_ZONES}")));
        }
        if errors.is_empty() && !all.iter().any(|forward| forward.zone == Name::ROOT) {
            let default = Written { value: vec![RESOLV_CONF.to_string()], at: Source::Default };
            let zone = Written { value: ".".into(), at: Source::Default };
            let raw = RawForward { budget: root_budget.cloned(), ..RawForward::new(zone, default) };
            let root = self.zone(&raw).and_then(|root| plans::fits(&root, &raw, &all).map(|()| root));
            match root {
                Ok(root) => all.push(root),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(all) } else { Err(errors) }
    }

    fn zone(&self, raw: &RawForward) -> Result<Forward, ConfigError> {
        let zone = name(&raw.zone, "forward.zone")?;
        let is_encrypted = raw.upstreams.value.iter().any(|url| urls::is_encrypted(url));
        let roots = match &raw.ca_file {
            Some(file) if is_encrypted => Some(Arc::new(roots(file, "forward.ca_file")?)),
            Some(file) => {
                let allowed = "nothing where no upstream is tls:// or https://";
                return Err(wrong(file, "forward.ca_file", &file.value, allowed));
            }
            None if is_encrypted => Some(self.common(&raw.upstreams)?),
            None => None,
        };
        let ca_file = raw.ca_file.as_ref().map(|file| file.value.clone());
        let upstreams = self.upstreams(&raw.upstreams, roots.as_ref())?;
        let plan = plans::plan(raw, &upstreams)?;
        Ok(Forward { zone, upstreams, ca_file, plan })
    }

    /// The authorities of `tls.ca_file`, or the built-in ones.
    fn common<T>(&self, needed_by: &Written<T>) -> Result<Arc<Roots>, ConfigError> {
        if let Some(roots) = self.common.get() {
            return Ok(Arc::clone(roots));
        }
        let roots = match self.ca_file {
            Some(file) => roots(file, "tls.ca_file")?,
            None => Roots::built_in().map_err(|why| wrong(needed_by, "tls", &why, "TLS"))?,
        };
        Ok(Arc::clone(self.common.get_or_init(|| Arc::new(roots))))
    }

    fn upstreams(
        &self,
        written: &Written<Vec<String>>,
        roots: Option<&Arc<Roots>>,
    ) -> Result<Vec<Upstream>, ConfigError> {
        let key = "forward.upstreams";
        let mut all = Vec::new();
        for url in &written.value {
            let upstream = match url.as_str() {
                RESOLV_CONF => self.nameservers(written, key)?,
                url => urls::parse(url, roots).map_err(|allowed| wrong(written, key, url, allowed))?,
            };
            if let Upstream::Headless(service) = &upstream
                && service.bootstrap.iter().any(|addr| loops::is_own(*addr, self.listen))
            {
                let allowed = "a bootstrap server that is not this process itself (server.listen)";
                return Err(wrong(written, key, url, allowed));
            }
            if !all.contains(&upstream) {
                all.push(upstream);
            }
        }
        if all.is_empty() || all.len() > MAX_SERVERS_PER_ZONE {
            return Err(wrong(written, key, &format!("{} servers", all.len()), urls::ANY));
        }
        Ok(all)
    }

    fn nameservers(&self, written: &Written<Vec<String>>, key: &str) -> Result<Upstream, ConfigError> {
        let allowed = "a file with `nameserver` lines, or servers given with --upstream";
        let found =
            |what: String| wrong(written, key, &format!("{}: {what}", self.resolv_conf.display()), allowed);
        Ok(Upstream::ResolvConf(resolv_conf::read(self.resolv_conf).map_err(found)?.servers))
    }
}

fn roots(file: &Written<String>, key: &str) -> Result<Roots, ConfigError> {
    let found = |why: String| wrong(file, key, &format!("{}: {why}", file.value), CA_FILE);
    let pem = super::read(Path::new(&file.value), MAX_CA_FILE).map_err(found)?;
    Roots::from_pem(&file.value, pem).map_err(found)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
