//! What changes around the program while it runs: the host's `resolv.conf`, and the members of headless Services.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::config::resolv_conf::{self, ResolvConf};
use crate::config::{Config, Upstream};
use crate::resolve::Shared;
use crate::search::list::Suffixes;
use crate::upstream::headless::{self, Service};
use crate::upstream::health::Endpoint;
use crate::upstream::sources::{Heard, Source};
use crate::upstream::zones::Endpoints;
use crate::upstream::{Outbound, loops};
use crate::wire::name::Name;

/// How often the host's `resolv.conf` is read: kubelet and DHCP clients replace it without a word, and with a time of any
/// kind on it. It is a few lines.
const LOOK_AT_HOST: Duration = Duration::from_secs(2);
/// Servers of a set that are named in the log.
const NAMED: usize = 8;

/// Follows all that may change, with local tasks.
pub fn start(config: &Config, shared: &Arc<Shared>) {
    let roster = Rc::new(Roster::new(config, Arc::clone(shared)));
    let mut from_the_host = Vec::new();
    for (zone, forward) in config.forward.iter().enumerate() {
        for (part, upstream) in forward.upstreams.iter().enumerate() {
            let place = Place { zone, part };
            match upstream {
                Upstream::Server(_) => {}
                Upstream::ResolvConf(servers) => from_the_host.push((place, servers.clone())),
                Upstream::Headless(service) => {
                    tokio::task::spawn_local(follow_service(Rc::clone(&roster), place, *service.clone()));
                }
            }
        }
    }
    if config.follows_host || !from_the_host.is_empty() {
        let host = Host {
            servers: from_the_host.first().map(|(_, servers)| servers.clone()).unwrap_or_default(),
            places: from_the_host.into_iter().map(|(place, _)| place).collect(),
            suffixes: config.follows_host.then(|| config.suffixes.clone()),
            is_in_trouble: false,
        };
        tokio::task::spawn_local(follow_host(roster, host));
    }
}

/// One of the places of a zone where servers come from.
#[derive(Clone, Copy)]
struct Place {
    zone: usize,
    part: usize,
}

/// What each zone has from each of its places.
struct Roster {
    shared: Arc<Shared>,
    zones: Vec<(Name, RefCell<Vec<Endpoints>>)>,
}

impl Roster {
    fn new(config: &Config, shared: Arc<Shared>) -> Roster {
        let parts = |upstreams: &[Upstream]| upstreams.iter().map(Upstream::endpoints).collect::<Vec<_>>();
        let zone = |forward: &crate::config::Forward| (forward.zone, RefCell::new(parts(&forward.upstreams)));
        Roster { shared, zones: config.forward.iter().map(zone).collect() }
    }

    /// Gives a zone other servers from one of its places.
    fn set(&self, place: Place, members: Vec<Endpoint>, source: &Source) {
        let Some((name, parts)) = self.zones.get(place.zone) else { return };
        let mut parts = parts.borrow_mut();
        if let Some(part) = parts.get_mut(place.part) {
            let texts = members.iter().take(NAMED).map(|member| member.addr.to_string());
            let more = if members.len() > NAMED { ", …" } else { "" };
            let texts = texts.collect::<Vec<_>>().join(", ");
            crate::info!("{} for {name} is now {} servers: {texts}{more}", source.text, members.len());
            part.members = members;
        }
        self.shared.upstreams.zones.set(name, &Endpoints::of(&parts));
    }
}

async fn follow_service(roster: Rc<Roster>, place: Place, service: Service) {
    let Some((zone, _)) = roster.zones.get(place.zone) else { return };
    let zones = &roster.shared.upstreams.zones;
    let source = zones.add_source(service.to_string());
    let publish = |members| roster.set(place, members, &source);
    let carrier = Outbound::default();
    headless::follow(service, zones, zone, &carrier, publish, |heard| source.count(heard)).await;
}

/// What is used of the host's `resolv.conf`.
struct Host {
    places: Vec<Place>,
    servers: Vec<Endpoint>,
    suffixes: Option<Suffixes>,
    is_in_trouble: bool,
}

async fn follow_host(roster: Rc<Roster>, mut host: Host) {
    let source = roster.shared.upstreams.zones.add_source(resolv_conf::PATH.into());
    loop {
        tokio::time::sleep(LOOK_AT_HOST).await;
        let heard = match usable(&roster, resolv_conf::read(Path::new(resolv_conf::PATH))) {
            Ok(file) => host.becomes(file, &roster, &source),
            Err(why) => {
                if !std::mem::replace(&mut host.is_in_trouble, true) {
                    crate::warning!("{} cannot be used, what it said before stays: {why}", source.text);
                }
                Heard::Kept
            }
        };
        source.count(heard);
    }
}

/// A file that names nobody but ourselves is none to go by: somebody made us the host's resolver.
fn usable(roster: &Roster, file: Result<ResolvConf, String>) -> Result<ResolvConf, String> {
    let mut file = file?;
    let zones = &roster.shared.upstreams.zones;
    file.servers.retain(|server| !loops::is_own(server.addr, zones.listening()));
    if file.servers.is_empty() { Err("it names this process itself alone".into()) } else { Ok(file) }
}

impl Host {
    fn becomes(&mut self, file: ResolvConf, roster: &Roster, source: &Source) -> Heard {
        if std::mem::take(&mut self.is_in_trouble) {
            crate::info!("{} can be used again", source.text);
        }
        let mut heard = Heard::Same;
        if !self.places.is_empty() && file.servers != self.servers {
            self.servers = file.servers;
            for place in &self.places {
                roster.set(*place, self.servers.clone(), source);
            }
            heard = Heard::Changed;
        }
        if let Some(suffixes) = &mut self.suffixes
            && let Some(changed) =
                Suffixes::new(*suffixes.zone(), &file.domains).filter(|new| new != suffixes)
        {
            let names: Vec<String> = changed.hosts().iter().map(ToString::to_string).collect();
            crate::info!("the host's own domains are now: {}", names.join(" "));
            *suffixes = changed.clone();
            roster.shared.search.set_suffixes(changed);
            heard = Heard::Changed;
        }
        heard
    }
}
