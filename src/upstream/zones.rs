//! Which servers are asked for which names: the longest configured zone that holds the QNAME.

use std::collections::HashMap;
use std::sync::Arc;

use super::health::Server;
use crate::wire::name::{Name, ancestors};

/// A zone's servers.
pub struct Zone {
    /// The zone's name.
    pub name: Name,
    /// Its servers, at least one.
    pub servers: Vec<Arc<Server>>,
}

/// All zones, the root's among them.
pub struct Zones {
    by_name: HashMap<Box<[u8]>, Arc<Zone>>,
    servers: Vec<Arc<Server>>,
}

impl Zones {
    /// Zones by their names; of two with one name the later counts.
    pub fn new(zones: Vec<Zone>, servers: Vec<Arc<Server>>) -> Zones {
        let key = |zone: &Zone| zone.name.to_lower().as_wire().into();
        Zones { by_name: zones.into_iter().map(|zone| (key(&zone), Arc::new(zone))).collect(), servers }
    }

    /// The zone with the longest name that is QNAME or above it; QNAME in lower case.
    pub fn find(&self, qname: &[u8]) -> Option<&Arc<Zone>> {
        ancestors(qname).find_map(|suffix| self.by_name.get(suffix))
    }

    /// Every server, in the order of their numbers.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_zone_wins() {
        let zone = |text: &str| Zone { name: Name::from_text(text).unwrap(), servers: vec![] };
        let zones = Zones::new(vec![zone("."), zone("cluster.local"), zone("Svc.Cluster.Local")], vec![]);
        let find =
            |text: &str| zones.find(Name::from_text(text).unwrap().as_wire()).unwrap().name.to_string();
        assert_eq!(find("a.default.svc.cluster.local"), "Svc.Cluster.Local.");
        assert_eq!(find("svc.cluster.local"), "Svc.Cluster.Local.");
        assert_eq!(find("pod.cluster.local"), "cluster.local.");
        assert_eq!(find("notcluster.local"), ".");
    }
}
