//! The lab on the command line: by itself, or in one process with the server that forwards to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::{Sender, channel};

use clap::ArgMatches;
use hickory_resolver::proto::rr::Name;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use nodens::config::error::{ConfigError, Source};
use nodens::config::raw::{Raw, RawForward, Written};
use nodens::config::units;
use nodens::lab::faults::Faults;
use nodens::lab::{Lab, LabError, Options};

use crate::cli::{Lab as LabArgs, Settings};
use crate::{Failed, checked, print, runtime, written};

/// Zones of the cluster DNS beside the cluster's own: what its addresses lead back from.
const REVERSE: [&str; 2] = ["10.in-addr.arpa", "d.f.ip6.arpa"];

/// Runs the lab until told to stop and prints what was asked.
pub(crate) fn run(args: &LabArgs) -> Result<(), Failed> {
    let options = options(args)?;
    runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failed::because)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failed::because)?;
        let lab = Lab::start(options).await.map_err(Failed::because)?;
        nodens::info!(
            "the lab's cluster DNS is on {}, its internet on {}, its counts {}",
            lab.cluster_addr(),
            lab.internet_addr(),
            lab.admin_addr().map_or("are off".into(), |addr| format!("on http://{addr}/counts")),
        );
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let counts = lab.counts();
        lab.stop().await;
        match args.json {
            true => print(&format!("{}\n", serde_json::to_string_pretty(&counts).map_err(Failed::because)?)),
            false => print(&counts.to_string()),
        }
    })
}

/// Serves in front of a lab of its own.
pub(crate) fn serve(settings: &Settings, matches: &ArgMatches) -> Result<(), Failed> {
    // Checked once without the lab, so that a mistake is told before anything starts.
    let raw = written(settings, matches)?;
    let before = checked(forwards(unused(), unused(), "lab.invalid").over(raw.clone()))?;
    let domain = *before.suffixes.zone();
    let (stop, stopped) = oneshot::channel();
    let (started, lab_addrs) = channel();
    let name = Name::from_ascii(domain.to_string()).map_err(Failed::because)?;
    let thread =
        std::thread::Builder::new().name("lab".into()).spawn(move || in_background(name, &started, stopped));
    let thread = thread.map_err(Failed::because)?;
    let result = lab_addrs.recv().map_err(Failed::because)?.and_then(|(cluster, internet)| {
        nodens::info!("the lab's cluster DNS is on {cluster}, its internet on {internet}");
        // A mode of the user's own comes with a list of his own, or none.
        let raw =
            if raw.search.is_some() || raw.search_list.is_some() { raw } else { raw.over(search(&domain)) };
        let lab = forwards(cluster, internet, &domain.to_string()).over(raw);
        crate::serve(&checked(lab)?)
    });
    drop(stop);
    // Its work is done either way.
    let _ = thread.join();
    result
}

type Addresses = Result<(SocketAddr, SocketAddr), Failed>;

fn in_background(cluster_domain: Name, started: &Sender<Addresses>, stopped: oneshot::Receiver<()>) {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options =
        Options { cluster: any, internet: any, admin: None, cluster_domain, faults: Faults::default() };
    let tell = |result: Addresses| drop(started.send(result));
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return tell(Err(error)),
    };
    runtime.block_on(async {
        match Lab::start(options).await {
            Ok(lab) => {
                tell(Ok((lab.cluster_addr(), lab.internet_addr())));
                let _ = stopped.await;
                lab.stop().await;
            }
            Err(error) => tell(Err(lab_failed(&error))),
        }
    });
}

fn lab_failed(error: &LabError) -> Failed {
    Failed::because(error)
}

fn unused() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
}

/// The layer that sends the cluster's names to the lab's cluster DNS and all others to its internet.
fn forwards(cluster: SocketAddr, internet: SocketAddr, domain: &str) -> Raw {
    fn written<T>(value: T) -> Written<T> {
        Written { value, at: Source::Flag("--lab".into()) }
    }
    let forward = |zone: &str, addr: SocketAddr| {
        RawForward::new(written(zone.to_string()), written(vec![format!("udp://{addr}")]))
    };
    let cluster_zones = std::iter::once(domain).chain(REVERSE).map(|zone| forward(zone, cluster));
    Raw { forward: cluster_zones.chain([forward(".", internet)]).collect(), ..Raw::default() }
}

/// The layer below all others: every client has the list of a pod in the namespace `default`.
fn search(domain: &nodens::wire::name::Name) -> Raw {
    let list =
        [format!("default.svc.{domain}"), format!("svc.{domain}"), domain.to_string(), "ec2.internal".into()];
    let at = Source::Flag("--lab".into());
    Raw {
        search: Some(Written { value: "static".into(), at: at.clone() }),
        search_list: Some(Written { value: list.into(), at }),
        ..Raw::default()
    }
}

fn options(args: &LabArgs) -> Result<Options, Failed> {
    let admin = match args.admin.as_str() {
        "off" => None,
        text => Some(text.parse().map_err(|_| wrong("--admin", text, "an address with a port, or \"off\""))?),
    };
    let cluster_domain = Name::from_ascii(&args.cluster_domain).map_err(|_| {
        wrong("--cluster-domain", &args.cluster_domain, "a domain name, such as \"cluster.local\"")
    })?;
    let faults = Faults {
        latency: time("--latency", &args.latency)?,
        jitter: time("--jitter", &args.jitter)?,
        loss: part("--loss", args.loss)?,
        servfail: part("--servfail", args.servfail)?,
        rate_limit: args.rate_limit,
        truncate: args.truncate,
    };
    Ok(Options { cluster: args.cluster, internet: args.internet, admin, cluster_domain, faults })
}

fn time(flag: &str, text: &str) -> Result<std::time::Duration, ConfigError> {
    let limit = std::time::Duration::from_secs(60);
    let parsed = units::duration(text).filter(|time| *time <= limit);
    parsed.ok_or_else(|| wrong(flag, text, "a time with its unit (ms, s, m) up to 1m, such as \"20ms\""))
}

fn part(flag: &str, value: f64) -> Result<f64, ConfigError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(value),
        false => Err(wrong(flag, &value.to_string(), "a number from 0 to 1")),
    }
}

fn wrong(flag: &str, found: &str, allowed: &str) -> ConfigError {
    ConfigError {
        at: Source::Flag(flag.into()),
        key: flag.trim_start_matches('-').into(),
        found: format!("{found:?}"),
        allowed: allowed.into(),
    }
}
