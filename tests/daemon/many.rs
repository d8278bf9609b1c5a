//! Many clients at once, and what is left of what was acknowledged to them.

use crate::host::*;
use crate::lab::{Tap, in_fresh_netns};
use nwfilter::report::status::{Interface, Status};
use nwfilter::service::rpc::client::Failure;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CLIENTS: u32 = 32;

/// What a client knows to be true, since no other client touches what is its own.
#[derive(Default)]
struct Own {
    filters: BTreeMap<String, u32>,
    bindings: BTreeMap<String, String>,
    calls: u64,
}

/// A sequence that looks random and is the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Does things of its own until it has to stop, in turn with what all share, and notes what was acknowledged.
fn client(mut conn: Conn, number: u32, stop: &AtomicBool) -> Own {
    let (mut own, mut dice) = (Own::default(), Dice(u64::from(number) + 1));
    while !stop.load(Ordering::Relaxed) {
        let name = format!("c{number}-{}", dice.throw(3));
        let port = format!("p{number}-{}", dice.throw(3));
        let version = dice.throw(1000) as u32;
        match dice.throw(8) {
            0 | 1 => {
                conn.define(&guard(&name, version)).unwrap();
                own.filters.insert(name, version);
            }
            2 => match conn.undefine(&name) {
                Ok(()) => drop(own.filters.remove(&name)),
                Err(Failure::Refused(error)) => {
                    assert!(error.message.contains("in use") || !own.filters.contains_key(&name), "{error}");
                }
                Err(other) => panic!("{other}"),
            },
            3 | 4 => match conn.create(&port, &name) {
                Ok(()) => drop(own.bindings.insert(port, name)),
                Err(Failure::Refused(error)) => {
                    let known = own.bindings.contains_key(&port) || !own.filters.contains_key(&name);
                    assert!(known, "{error}");
                }
                Err(other) => panic!("{other}"),
            },
            5 => match conn.delete(&port) {
                Ok(()) => assert!(own.bindings.remove(&port).is_some(), "{port} was not bound"),
                Err(Failure::Refused(_)) => assert!(!own.bindings.contains_key(&port)),
                Err(other) => panic!("{other}"),
            },
            6 => {
                // The last definition of the shared filter wins; no client is refused.
                conn.define(&guard("shared", version)).unwrap();
            }
            _ => {
                let listed = conn.bindings().unwrap();
                let mine = format!("p{number}-");
                let listed = listed.into_iter().filter(|(port, _)| port.starts_with(&mine));
                assert_eq!(listed.collect::<BTreeMap<_, _>>(), own.bindings, "a lost update");
                assert!(conn.filters().unwrap().iter().any(|name| name == "shared"));
            }
        }
        own.calls += 1;
    }
    own
}

/// Links that bindings are for come and go.
fn links(stop: &AtomicBool) -> u64 {
    let mut dice = Dice(99);
    let mut taps: BTreeMap<String, Tap> = BTreeMap::new();
    let mut changes = 0;
    while !stop.load(Ordering::Relaxed) {
        let name = format!("p{}-{}", dice.throw(CLIENTS.into()), dice.throw(3));
        match taps.remove(&name) {
            Some(tap) => tap.link.delete(),
            None => {
                let tap = Tap::new(&name);
                tap.link.up();
                taps.insert(name, tap);
            }
        }
        changes += 1;
    }
    changes
}

fn check(with_links: bool) {
    let seconds = rounds("NWFILTER_CLIENTS_SECONDS", 10);
    in_fresh_netns(|| {
        let host = Host::new();
        let daemon = host.start();
        daemon.connect().define(&guard("shared", 0)).unwrap();
        let stop = AtomicBool::new(false);
        let (owned, changes) = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| (daemon.connect(), number))
                .map(|(conn, number)| {
                    let stop = &stop;
                    scope.spawn(move || client(conn, number, stop))
                })
                .collect();
            let links = scope.spawn(|| if with_links { links(&stop) } else { 0 });
            let until = Instant::now() + Duration::from_secs(seconds);
            while Instant::now() < until && clients.iter().all(|client| !client.is_finished()) {
                thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Ordering::Relaxed);
            let owned: Vec<Own> = clients.into_iter().map(|client| client.join().unwrap()).collect();
            (owned, links.join().unwrap())
        });
        let calls: u64 = owned.iter().map(|own| own.calls).sum();
        println!("{CLIENTS} clients, {seconds} s: {calls} calls, {changes} links came or went");
        assert!(owned.iter().all(|own| own.calls > 10), "a client was starved");
        compare(&host, &daemon, &owned);
        // The rules are those of a daemon that starts now with the same documents and links.
        settle(&daemon);
        let before = daemon.rules();
        daemon.kill();
        let daemon = host.start();
        assert!(before == daemon.rules(), "a fresh start enforces something else");
        compare(&host, &daemon, &owned);
    });
}

/// Waits until the daemon has followed the links to the last, and no deleted binding is in its period of grace.
fn settle(daemon: &Daemon) {
    let status = || -> Status { serde_json::from_str(&daemon.connect().0.status().unwrap()).unwrap() };
    daemon.connect().create("last", "shared").unwrap();
    let last = Tap::new("last");
    last.link.up();
    let is_last = |interface: &Interface| interface.index == Some(last.link.index());
    eventually("the last link", || status().interfaces.iter().any(is_last));
    daemon.connect().delete("last").unwrap();
    eventually("the end of all grace", || {
        status().interfaces.iter().all(|interface| interface.guest.is_some())
    });
}

/// Everything that was acknowledged is there, and nothing else.
fn compare(host: &Host, daemon: &Daemon, owned: &[Own]) {
    let mut conn = daemon.connect();
    let bindings: BTreeMap<String, String> = owned.iter().flat_map(|own| own.bindings.clone()).collect();
    assert_eq!(conn.bindings().unwrap().into_iter().collect::<BTreeMap<_, _>>(), bindings);
    let filters: BTreeMap<String, u32> = owned.iter().flat_map(|own| own.filters.clone()).collect();
    let mut names: Vec<String> = filters.keys().cloned().chain(["shared".into()]).collect();
    names.sort();
    assert_eq!(conn.filters().unwrap(), names);
    let files = host.files("filters");
    assert_eq!(files.len(), names.len());
    for (name, version) in &filters {
        let xml = conn.filter_xml(name).unwrap();
        assert_eq!(xml, guard(name, *version));
        assert!(files[&format!("{name}.xml")].ends_with(&xml));
    }
    let ports: Vec<String> = bindings.keys().map(|port| format!("{port}.xml")).collect();
    // What lies aside belongs to bindings that were deleted a moment ago.
    let written = host.files("run/nwfilter-binding").into_keys().filter(|name| !name.starts_with('.'));
    assert_eq!(written.collect::<Vec<_>>(), ports);
}

#[test]
fn many_clients_at_once_lose_nothing() {
    check(false);
}

#[test]
fn many_clients_at_once_lose_nothing_while_links_come_and_go() {
    check(true);
}
