//! What may be sent to a zone's servers, as it is written and as it is meant.

use std::net::IpAddr;

use super::check::{RESOLV_CONF, wrong};
use super::error::ConfigError;
use super::raw::RawForward;
use super::{Forward, Upstream};
use crate::upstream::budget::{Budget, Plan};

/// Letters of a group's name, which is a label in metrics.
const MAX_NAME: usize = 64;
const NAME: &str =
    "a name of up to 64 letters, digits, dots, hyphens and underscores, for zones that share one budget";

/// What is meant. Where nothing is said, the servers of the host's `resolv.conf` have a rate that is found out, all others have no limit.
///
/// # Errors
/// What is allowed.
pub(super) fn plan(raw: &RawForward, upstreams: &[Upstream]) -> Result<Plan, ConfigError> {
    let from_host = upstreams.iter().any(|upstream| matches!(upstream, Upstream::ResolvConf(_)));
    let budget = match &raw.budget {
        Some(written) => Budget::from_text(&written.value)
            .ok_or_else(|| wrong(written, "forward.budget", &written.value, Budget::ALLOWED))?,
        None if from_host => Budget::Adaptive,
        None => Budget::Unlimited,
    };
    let group = match &raw.budget_group {
        Some(written) if budget == Budget::Unlimited => {
            let allowed = "nothing where forward.budget is \"none\"";
            return Err(wrong(written, "forward.budget_group", &written.value, allowed));
        }
        Some(written) if !is_name(&written.value) => {
            return Err(wrong(written, "forward.budget_group", &written.value, NAME));
        }
        Some(written) => Some(written.value.clone()),
        None => default_group(budget, from_host),
    };
    Ok(Plan { budget, group })
}

/// The nameservers of a host lead to one resolver, and a limit that counts the node counts whatever server is asked.
fn default_group(budget: Budget, from_host: bool) -> Option<String> {
    match budget {
        Budget::Unlimited => None,
        budget if budget.is_of_the_node() => Some(budget.to_string()),
        _ => from_host.then(|| RESOLV_CONF.to_string()),
    }
}

fn is_name(text: &str) -> bool {
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet);
    // An address is the name of its own group.
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(fits) && text.parse::<IpAddr>().is_err()
}

/// A group and a server have one budget, whatever the zones that lead to them.
///
/// # Errors
/// What is allowed.
pub(super) fn fits(forward: &Forward, raw: &RawForward, others: &[Forward]) -> Result<(), ConfigError> {
    let said = |allowed: String| {
        let found = forward.plan.budget.to_string();
        match (&raw.budget, &raw.budget_group) {
            (_, Some(group)) => wrong(group, "forward.budget_group", &group.value, allowed),
            (Some(budget), None) => wrong(budget, "forward.budget", &budget.value, allowed),
            (None, None) => wrong(&raw.upstreams, "forward.budget", &found, allowed),
        }
    };
    for other in others {
        let (budget, zone) = (other.plan.budget, &other.zone);
        if forward.plan.group.is_some()
            && forward.plan.group == other.plan.group
            && forward.plan != other.plan
        {
            return Err(said(format!("{:?}, which its group has in the zone {zone}", budget.to_string())));
        }
        let shared = addresses(forward).into_iter().find(|addr| addresses(other).contains(addr));
        if let Some(addr) = shared.filter(|_| forward.plan != other.plan) {
            let group =
                other.plan.group.as_ref().map_or(String::new(), |group| format!(" in the group {group:?}"));
            return Err(said(format!(
                "{:?}{group}, as {addr} has it in the zone {zone}",
                budget.to_string()
            )));
        }
    }
    Ok(())
}

/// Addresses that are known beforehand.
fn addresses(forward: &Forward) -> Vec<IpAddr> {
    let endpoints = forward.upstreams.iter().map(Upstream::endpoints);
    let all = endpoints.flat_map(|endpoints| [endpoints.members, endpoints.last_resort]);
    all.flatten().map(|endpoint| endpoint.addr.ip()).collect()
}
