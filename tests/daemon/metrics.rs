//! Figures of a running, confined daemon: exact after known actions, for Prometheus's own reader, on this host alone.

use crate::host::*;
use crate::lab::{Link, Network, Tap, in_fresh_netns, sysctl};
use crate::prometheus::read;
use crate::tool::{InTime, LIMIT, connect};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub const REQUEST: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

pub fn exchange(mut stream: impl Read + Write, request: &[u8]) -> io::Result<String> {
    let mut answer = String::new();
    stream.write_all(request)?;
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn figures(stream: impl Read + Write) -> BTreeMap<String, f64> {
    let answer = exchange(stream, REQUEST).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text;"), "{head}");
    read(text)
}

fn check(figures: &BTreeMap<String, f64>, expected: &[(&str, f64)]) {
    for (name, value) in expected {
        assert_eq!(figures.get(&format!("nwfilter_{name}")), Some(value), "{name}: {figures:#?}");
    }
}

/// A filter that leaves an address to be learned.
const LEARNS: &str = "<filter name='learns' chain='root'>\n  <rule action='accept' direction='out'>\n    \
    <ip srcipaddr='$IP'/>\n  </rule>\n</filter>\n";

#[test]
fn figures_are_exact_after_known_actions() {
    in_fresh_netns(|| {
        let (_network, host) = (Network::new(), Host::new());
        let socket = host.runtime().join("metrics");
        host.configure(&format!("metrics = \"unix:{}\"\nsocket_ro_mode = \"0640\"\n", socket.display()));
        // A table without an owner, which others can change.
        assert!(Command::new("nft").arg("add table bridge nwfilter").status_in_time().unwrap().success());
        host.write_filter("learns", LEARNS);
        let daemon = host.start();
        let figures = || figures(connect(&socket));
        assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        let at_first = figures();
        check(&at_first, &[("filters", 1.0), ("links", 4.0), ("heals_total", 0.0)]);
        let commits = at_first["nwfilter_commits_total"];
        let mut conn = daemon.connect();
        conn.define(&guard("g", 0)).unwrap();
        refused(conn.define("<filter name='bad'><rule/></filter>"));
        conn.create("vnet0", "g").unwrap();
        conn.create("peer0", "learns").unwrap();
        conn.create("not-there", "g").unwrap();
        refused(conn.create("vnet1", "no-such-filter"));
        check(
            &figures(),
            &[
                ("calls_total/procedure=define-filter", 2.0),
                ("call_errors_total/procedure=define-filter", 1.0),
                ("calls_total/procedure=create-binding", 4.0),
                ("call_errors_total/procedure=create-binding", 1.0),
                ("filters", 2.0),
                ("bindings/state=enforced", 1.0),
                ("bindings/state=learning", 1.0),
                ("bindings/state=waiting", 1.0),
                ("bindings/state=closed", 0.0),
                ("interfaces/seen=bridge", 2.0),
                ("interfaces/seen=macvtap", 0.0),
                ("learned_addresses/from=arp", 0.0),
                ("frames_heard_total", 0.0),
                // One each for two that are bound and a name that is reserved.
                ("commits_total", commits + 3.0),
                ("commit_duration_seconds_count", commits + 3.0),
                ("commits_refused_total", 0.0),
                ("heals_total", 0.0),
            ],
        );
        assert!(Command::new("nft").arg("flush ruleset").status_in_time().unwrap().success());
        daemon.logs("are restored");
        check(
            &figures(),
            &[("heals_total", 1.0), ("heals_failed_total", 0.0), ("commits_total", commits + 4.0)],
        );
        assert!(daemon.stop().success());
        assert!(!socket.exists());
    });
}

#[test]
fn a_guest_that_was_heard_is_enforced_with_its_address() {
    use crate::lab::frames::*;
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let socket = host.runtime().join("metrics");
        host.configure(&format!("metrics = \"unix:{}\"\n", socket.display()));
        host.write_filter("learns", LEARNS);
        let daemon = host.start();
        daemon.connect().create("vnet0", "learns").unwrap();
        network.guest.send(&Vec::<u8>::from(udp(ip(GUEST_IP, PEER_IP), 1, 2))).unwrap();
        daemon.logs("learned");
        check(
            &figures(connect(&socket)),
            &[
                ("frames_heard_total", 1.0),
                ("learned_addresses/from=ipv4", 1.0),
                ("learned_addresses/from=lease", 0.0),
                ("bindings/state=learning", 0.0),
                ("bindings/state=enforced", 1.0),
            ],
        );
    });
}

#[test]
fn dropped_frames_are_reported_by_guest_and_rule() {
    use crate::lab::frames::*;
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let other = network.add_port("vnet1");
        let socket = host.runtime().join("metrics");
        host.configure(&format!("metrics = \"unix:{}\"\n", socket.display()));
        host.write_filter("g", &guard("g", 0));
        let daemon = host.start();
        let mut conn = daemon.connect();
        ["vnet0", "vnet1"].into_iter().for_each(|port| conn.create(port, "g").unwrap());
        let own = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
        let send = |tap: &Tap, times: usize, frame: &[u8]| (0..times).for_each(|_| tap.send(frame).unwrap());
        let (honest, forged) = (Vec::from(own()), Vec::from(own().from(FOREIGN_MAC)));
        // The second rule's, which goes to both guests.
        let stopped = [&[0xff; 6][..], &FOREIGN_MAC, &[0x90, 0], &[0; 46]].concat();
        send(&network.guest, 5, &honest);
        send(&network.guest, 7, &forged);
        send(&other, 2, &forged);
        send(&network.peer, 3, &stopped);
        let sample = |what: &str, port: &str, rule: u32| {
            format!("dropped_{what}_total/filter=g/interface={port}/rule={rule}")
        };
        let of = |frames: usize, frame: &[u8]| (frames as f64, (frames * (frame.len() - 14)) as f64);
        let reported = figures(connect(&socket));
        for (port, rule, (frames, bytes)) in [
            ("vnet0", 1, of(7, &forged)),
            ("vnet0", 2, of(3, &stopped)),
            ("vnet1", 1, of(2, &forged)),
            ("vnet1", 2, of(3, &stopped)),
        ] {
            check(
                &reported,
                &[(&sample("frames", port, rule), frames), (&sample("bytes", port, rule), bytes)],
            );
        }
        let all = reported.keys().filter(|name| name.starts_with("nwfilter_dropped_frames_total")).count();
        assert_eq!(all, 4, "nothing else was dropped: {reported:#?}");
    });
}

#[test]
fn metrics_on_any_address_but_loopback_stop_the_start() {
    in_fresh_netns(|| {
        let host = Host::new();
        let _ = sysctl("ipv6/conf/lo/disable_ipv6", "0");
        Link::named("lo").up();
        for address in ["127.0.0.1:9477", "[::1]:9477"] {
            host.configure(&format!("metrics = \"{address}\"\n"));
            let daemon = host.start();
            let connect = || {
                let stream = TcpStream::connect(address.parse::<SocketAddr>().unwrap()).unwrap();
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                stream
            };
            check(&figures(connect()), &[("filters", 0.0), ("links", 1.0)]);
            for (request, status) in [
                (&b"GET / HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
                (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 "),
                (b"\x16\x03\x01\x02\x00", "HTTP/1.1 400 "),
            ] {
                let answer = exchange(connect(), request).unwrap();
                assert!(answer.starts_with(status), "{answer}");
            }
            drop(connect());
            check(&figures(connect()), &[("filters", 0.0)]);
            assert!(!daemon.log().contains("not fully confined"), "{}", daemon.log());
        }
        host.configure("\n metrics = \"0.0.0.0:9477\"\n");
        let mut daemon = host.spawn(host.command());
        assert!(!daemon.wait().success());
        let text = daemon.log();
        assert!(text.contains("conf:3:12"), "{text}");
        assert!(text.contains("\"0.0.0.0:9477\", expected \"unix:/PATH\" or a loopback address"), "{text}");
    });
}
