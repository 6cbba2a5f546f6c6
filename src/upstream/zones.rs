//! Which servers are asked for which names: the longest configured zone that holds the QNAME.
//!
//! Zones are fixed, their servers are not: whoever learns of others sets them, and every exchange reads the set when it
//! chooses a server. A set is replaced as a whole and read without a lock. A server that is in no set any more is
//! forgotten; questions that wait for it keep it until they end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;
use foldhash::quality::RandomState;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::budget::Plan;
use super::group::Group;
use super::health::{Endpoint, Server};
use super::loops;
use super::sources::Source;
use crate::wire::name::{Name, ancestors};

/// The servers of a zone at one time.
#[derive(Clone, Default)]
pub struct Servers {
    /// Those that share its questions.
    pub members: Vec<Arc<Server>>,
    /// Those that are asked when two members have not answered, or all of them are known to fail.
    pub last_resort: Vec<Arc<Server>>,
}

impl Servers {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.members.iter().chain(&self.last_resort)
    }
}

/// A zone and its servers.
pub struct Zone {
    /// The zone's name.
    pub name: Name,
    plan: Plan,
    servers: ArcSwap<Servers>,
}

impl Zone {
    /// A zone with these servers.
    pub fn new(name: Name, servers: Servers) -> Zone {
        Zone { name, plan: Plan::default(), servers: ArcSwap::from_pointee(servers) }
    }

    /// Its servers now.
    pub fn servers(&self) -> Arc<Servers> {
        self.servers.load_full()
    }

    /// True where the server is one of them now.
    pub fn has(&self, server: &Server) -> bool {
        self.servers.load().iter().any(|one| one.number == server.number)
    }
}

/// Endpoints that become the servers of a zone, see [`Servers`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Those of the members.
    pub members: Vec<Endpoint>,
    /// Those of the servers of last resort.
    pub last_resort: Vec<Endpoint>,
}

impl Endpoints {
    /// Several together, each endpoint once.
    pub fn of(parts: &[Endpoints]) -> Endpoints {
        let mut all = Endpoints::default();
        for endpoint in parts.iter().flat_map(|part| &part.members) {
            if !all.members.contains(endpoint) {
                all.members.push(endpoint.clone());
            }
        }
        for endpoint in parts.iter().flat_map(|part| &part.last_resort) {
            if !all.members.contains(endpoint) && !all.last_resort.contains(endpoint) {
                all.last_resort.push(endpoint.clone());
            }
        }
        all
    }
}

/// All zones, the root's among them, and all servers.
pub struct Zones {
    by_name: HashMap<Box<[u8]>, Zone, RandomState>,
    known: Mutex<Known>,
    listening: Vec<SocketAddr>,
    changes: watch::Sender<()>,
    failure_begins: Arc<Notify>,
    sources: Mutex<Vec<Arc<Source>>>,
}

/// Every server that a zone has; each endpoint is one server, whatever the number of its zones.
#[derive(Default)]
struct Known {
    servers: Vec<Arc<Server>>,
    /// Budgets by name, as long as a server has them.
    groups: HashMap<String, Weak<Group>>,
    next_number: usize,
}

impl Zones {
    /// Zones without servers yet, in a process that listens on these addresses.
    pub fn new(names: impl IntoIterator<Item = Name>, listening: Vec<SocketAddr>) -> Zones {
        let zone = |name: Name| (key(&name), Zone::new(name, Servers::default()));
        Zones {
            by_name: names.into_iter().map(zone).collect(),
            known: Mutex::default(),
            listening,
            changes: watch::channel(()).0,
            failure_begins: Arc::default(),
            sources: Mutex::default(),
        }
    }

    /// Says what the servers of a zone may be sent, those that it gets from now on. Of a server of two zones the first says it.
    pub fn plan(&mut self, name: &Name, plan: Plan) {
        if let Some(zone) = self.by_name.get_mut(&key(name)) {
            zone.plan = plan;
        }
    }

    /// The zone with the longest name that is QNAME or above it; QNAME in lower case.
    pub fn find(&self, qname: &[u8]) -> Option<&Zone> {
        ancestors(qname).find_map(|suffix| self.by_name.get(suffix))
    }

    /// All zones.
    pub fn iter(&self) -> impl Iterator<Item = &Zone> {
        self.by_name.values()
    }

    /// Every server that a zone has now, in the order of their numbers.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.known().servers.clone()
    }

    /// The budgets of all these servers, by name.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.known().groups.values().filter_map(Weak::upgrade).collect();
        groups.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        groups
    }

    /// Says when servers came or went.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Gives a zone these servers in place of those it has. What is known of a server is kept where it stays.
    pub fn set(&self, name: &Name, endpoints: &Endpoints) {
        let Some(zone) = self.by_name.get(&key(name)) else { return };
        {
            let mut known = self.known();
            let mut servers = |of: &[Endpoint]| {
                of.iter().map(|endpoint| known.server(endpoint, &zone.plan, self)).collect::<Vec<_>>()
            };
            let set = Servers {
                members: servers(&endpoints.members),
                last_resort: servers(&endpoints.last_resort),
            };
            zone.servers.store(Arc::new(set));
            known.servers.retain(|server| self.iter().any(|zone| zone.has(server)));
            known.groups.retain(|_, group| group.strong_count() > 0);
        }
        self.changes.send_replace(());
    }

    /// The servers of a zone that are at these endpoints.
    pub fn named(&self, name: &Name, endpoints: &[Endpoint]) -> Vec<Arc<Server>> {
        let Some(zone) = self.by_name.get(&key(name)) else { return vec![] };
        zone.servers().iter().filter(|server| endpoints.contains(&server.endpoint)).cloned().collect()
    }

    /// How often members of a zone have begun to fail.
    pub fn failures_begun(&self, name: &Name) -> u64 {
        let Some(zone) = self.by_name.get(&key(name)) else { return 0 };
        zone.servers().members.iter().map(|server| server.failures_begun()).sum()
    }

    /// Ends when a server of any zone begins to fail, from now on.
    pub fn failure_begins(&self) -> Notified<'_> {
        self.failure_begins.notified()
    }

    /// Notes a source whose looks are counted; there are as many as the configuration has.
    pub fn add_source(&self, text: String) -> Arc<Source> {
        let source = Arc::new(Source::new(text));
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&source));
        source
    }

    /// All sources.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The addresses that this process listens on.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(name: &Name) -> Box<[u8]> {
    name.to_lower().as_wire().into()
}

impl Known {
    fn server(&mut self, endpoint: &Endpoint, plan: &Plan, zones: &Zones) -> Arc<Server> {
        if let Some(known) = self.servers.iter().find(|server| server.endpoint == *endpoint) {
            return Arc::clone(known);
        }
        let new = Server::new(self.next_number, endpoint.clone());
        let new = Arc::new(new.that_tells(&zones.failure_begins).in_group(self.group(endpoint, plan)));
        self.next_number += 1;
        if loops::is_own(endpoint.addr, &zones.listening) {
            new.health().is_ourselves();
            crate::error!(
                "upstream {} is this process itself; it is never asked. Name another server",
                endpoint.addr
            );
        }
        self.servers.push(Arc::clone(&new));
        new
    }

    fn group(&mut self, endpoint: &Endpoint, plan: &Plan) -> Arc<Group> {
        let name = plan.group.clone().unwrap_or_else(|| endpoint.addr.ip().to_string());
        if let Some(known) = self.groups.get(&name).and_then(Weak::upgrade) {
            return known;
        }
        let group = Arc::new(Group::new(name.clone(), plan.budget));
        self.groups.insert(name, Arc::downgrade(&group));
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::budget::Budget;
    use crate::upstream::health::Transport;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn endpoints(last: &[u8]) -> Endpoints {
        let endpoint = |last: &u8| Endpoint::plain(Transport::Udp, ([192, 0, 2, *last], 53).into());
        Endpoints { members: last.iter().map(endpoint).collect(), last_resort: vec![] }
    }

    fn numbers(zones: &Zones) -> Vec<usize> {
        zones.servers().iter().map(|server| server.number).collect()
    }

    #[test]
    fn the_longest_zone_wins() {
        let zones = Zones::new([".", "cluster.local", "Svc.Cluster.Local"].map(name), vec![]);
        let find = |text: &str| zones.find(name(text).as_wire()).unwrap().name.to_string();
        assert_eq!(find("a.default.svc.cluster.local"), "Svc.Cluster.Local.");
        assert_eq!(find("svc.cluster.local"), "Svc.Cluster.Local.");
        assert_eq!(find("pod.cluster.local"), "cluster.local.");
        assert_eq!(find("notcluster.local"), ".");
    }

    #[test]
    fn a_server_that_stays_is_the_same_and_one_that_comes_back_is_new() {
        let (zones, root) = (Zones::new([name(".")], vec![]), name("."));
        zones.set(&root, &endpoints(&[1, 2]));
        let before = zones.servers();
        zones.set(&root, &endpoints(&[2, 3]));
        assert_eq!(numbers(&zones), [1, 2]);
        assert!(Arc::ptr_eq(&zones.servers()[0], &before[1]));
        let zone = zones.find(root.as_wire()).unwrap();
        assert!(zone.has(&before[1]) && !zone.has(&before[0]));
        zones.set(&root, &endpoints(&[1]));
        assert_eq!(numbers(&zones), [3], "numbers are not given twice");
    }

    #[test]
    fn a_server_of_two_zones_is_one_and_stays_until_both_leave_it() {
        let zones = Zones::new([".", "corp"].map(name), vec![]);
        zones.set(&name("."), &endpoints(&[1]));
        zones.set(&name("corp"), &endpoints(&[1, 2]));
        assert_eq!(numbers(&zones), [0, 1]);
        zones.set(&name("corp"), &endpoints(&[2]));
        assert_eq!(numbers(&zones), [0, 1]);
        zones.set(&name("."), &endpoints(&[2]));
        assert_eq!(numbers(&zones), [1]);
    }

    #[test]
    fn servers_share_budgets_as_planned() {
        let mut zones = Zones::new([".", "corp", "lab"].map(name), vec![]);
        let plan = |text: &str, group: Option<&str>| Plan {
            budget: Budget::from_text(text).unwrap(),
            group: group.map(Into::into),
        };
        zones.plan(&name("."), plan("aws", Some("aws")));
        zones.plan(&name("corp"), plan("100/s", None));
        zones.plan(&name("lab"), plan("aws", Some("aws")));
        zones.set(&name("."), &endpoints(&[1, 2]));
        zones.set(&name("corp"), &endpoints(&[3, 4]));
        zones.set(&name("lab"), &endpoints(&[5]));
        let groups: Vec<_> = zones.servers().iter().map(|server| Arc::clone(&server.group)).collect();
        let names: Vec<_> = groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["aws", "aws", "192.0.2.3", "192.0.2.4", "aws"]);
        assert!(Arc::ptr_eq(&groups[0], &groups[4]) && !Arc::ptr_eq(&groups[2], &groups[3]));
        zones.set(&name("."), &endpoints(&[6]));
        assert!(
            Arc::ptr_eq(&zones.servers().last().unwrap().group, &groups[0]),
            "it outlives its servers' change"
        );
    }

    #[test]
    fn changes_are_told() {
        let zones = Zones::new([name(".")], vec![]);
        let told = zones.changes();
        assert!(!told.has_changed().unwrap());
        zones.set(&name("."), &endpoints(&[1]));
        assert!(told.has_changed().unwrap());
    }
}
