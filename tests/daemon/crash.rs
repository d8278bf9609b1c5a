//! The daemon is killed at any moment, under traffic: what it had acknowledged holds, what it had not is whole or absent.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use crate::tool::InTime;
use nwfilter::document::binding;
use nwfilter::document::filter::read;
use nwfilter::document::span::Source;
use nwfilter::service::rpc::client::Failure;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What is known of the daemon's documents: what it said yes to, and what it was asked for when it died.
#[derive(Default)]
struct Known {
    /// The version of filter g: the last one acknowledged, and the one under way.
    version: u32,
    asked: Option<u32>,
    /// Bindings of ports without a link that are there for certain, and the one under way.
    ports: BTreeMap<String, bool>,
    uncertain: Option<String>,
    changes: u64,
}

/// Redefines the guest's filter and makes and deletes other bindings until the daemon is gone.
fn change(conn: &mut Conn, known: &mut Known) -> Result<(), Failure> {
    loop {
        let version = known.version + 1;
        known.asked = Some(version);
        conn.define(&guard("g", version))?;
        (known.version, known.asked) = (version, None);
        let port = format!("other{}", version % 5);
        let there = known.ports.get(&port).copied().unwrap_or(false);
        known.uncertain = Some(port.clone());
        if there {
            conn.delete(&port)?
        } else {
            conn.create(&port, "g")?
        }
        known.ports.insert(port, !there);
        known.uncertain = None;
        known.changes += 2;
    }
}

/// Every document can be read.
fn check_files(host: &Host) {
    for (name, text) in host.files("filters").iter().filter(|(name, _)| !name.starts_with('.')) {
        let filter = read::read(&Source::new(name.clone(), text.clone()));
        assert!(filter.is_ok(), "{name} is not whole: {text}");
    }
    for (name, text) in host.files("run/nwfilter-binding").iter().filter(|(name, _)| !name.starts_with('.')) {
        let status = binding::read_status(&Source::new(name.clone(), text.clone()));
        assert!(status.is_ok(), "{name} is not whole: {text}");
    }
}

/// The daemon, started again, has what was acknowledged, and of what was not all or nothing.
fn check_state(conn: &mut Conn, known: &mut Known) {
    let xml = conn.filter_xml("g").unwrap();
    let candidates = [Some(known.version), known.asked];
    let found = candidates.into_iter().flatten().find(|version| xml == guard("g", *version));
    known.version = found.unwrap_or_else(|| panic!("neither {candidates:?}: {xml}"));
    known.asked = None;
    let bound: Vec<String> = conn.bindings().unwrap().into_iter().map(|(port, _)| port).collect();
    assert!(bound.contains(&"vnet0".to_owned()), "the guest's own binding");
    if let Some(port) = known.uncertain.take() {
        known.ports.insert(port.clone(), bound.contains(&port));
    }
    for (port, there) in &known.ports {
        assert_eq!(bound.contains(port), *there, "{port}: an acknowledged change is lost");
    }
    assert_eq!(bound.len(), 1 + known.ports.values().filter(|there| **there).count());
}

// P-7
#[test]
fn a_crash_at_any_moment_leaks_and_loses_nothing() {
    let rounds = rounds("NWFILTER_CRASHES", 30);
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut known = Known::default();
        let mut daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let honest: Vec<u8> = udp(ip(GUEST_IP, PEER_IP), 1, 2).into();
        let forged: Vec<u8> = udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into();
        let killed = AtomicU64::new(0);
        let (flood, ()) = network.flood(Way::FromGuest, honest, forged, || {
            for round in 0..rounds {
                let mut conn = daemon.connect();
                // Spread over everything between a call's arrival and its answer.
                let delay = Duration::from_micros(500 + round * 7919 % 60_000);
                known = thread::scope(|scope| {
                    let mut known = std::mem::take(&mut known);
                    let client = scope.spawn(move || {
                        let end = change(&mut conn, &mut known).unwrap_err();
                        assert!(matches!(end, Failure::Io(_)), "{end}");
                        known
                    });
                    thread::sleep(delay);
                    daemon.signal(libc::SIGKILL);
                    client.join().unwrap()
                });
                killed.fetch_add(1, Ordering::Relaxed);
                daemon.wait();
                check_files(&host);
                daemon = host.start();
                check_state(&mut daemon.connect(), &mut known);
                assert_eq!(bound().len(), 1, "only the guest has a link");
            }
        });
        println!(
            "{rounds} crashes, {} changes, {} forged frames sent, none passed; {} of {} honest ones lost",
            known.changes,
            flood.forbidden_sent,
            flood.lost(),
            flood.honest_sent
        );
        assert_eq!((flood.forbidden_arrived, flood.strange, flood.lost()), (0, 0, 0), "{flood:?}");
        // What a crash left in the kernel is gone: a fresh daemon on a fresh table has the same rules.
        let before = daemon.rules();
        drop(daemon);
        std::process::Command::new("nft")
            .args(["delete", "table", "bridge", "nwfilter"])
            .status_in_time()
            .unwrap();
        let daemon = host.start();
        assert_eq!(daemon.rules(), before);
    });
}
