//! What others do to the host's firewall by nft.

use crate::guest::{forbidden, healed, honest, nft, with_guest};
use crate::lab::{Verdict, Way};
use std::time::Duration;

#[test]
fn a_flush_by_others_is_undone_or_never_happens_to_us() {
    with_guest(|network, _, owned| {
        let mut times: Vec<Duration> =
            (0..20).map(|_| healed(network, || nft(&["flush", "ruleset"]))).collect();
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        match owned {
            true => {
                let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
                    (0..20).for_each(|_| nft(&["flush", "ruleset"]));
                });
                assert_eq!((flood.forbidden_arrived, flood.lost()), (0, 0), "{flood:?}");
                println!(
                    "measured: tables are owned; 20 flushes under traffic, {} spoofed frames sent, none passed",
                    flood.forbidden_sent
                );
            }
            false => println!(
                "measured: tables have no owner; filtered again {median:?} after a flush, {worst:?} at worst of 20"
            ),
        }
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_restart_of_the_nftables_service_leaves_guests_filtered() {
    with_guest(|network, daemon, owned| {
        // What Debian's unit does on start, reload and stop.
        let rules = daemon.directory.path().join("nftables.conf");
        let text = "flush ruleset\ntable inet filter {\n chain input { type filter hook input priority filter; }\n}\n";
        std::fs::write(&rules, text).unwrap();
        let rules = rules.to_str().unwrap();
        for command in [&["-f", rules][..], &["-f", rules], &["flush", "ruleset"], &["-f", rules]] {
            let took = healed(network, || nft(command));
            assert!(!owned || took < Duration::from_millis(500), "an owned table was touched: {took:?}");
        }
        nft(&["list", "table", "inet", "filter"]);
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_table_deleted_by_name_or_emptied_is_restored() {
    with_guest(|network, _, owned| {
        if owned {
            return; // No other process may.
        }
        let took = healed(network, || nft(&["delete", "table", "bridge", "nwfilter"]));
        println!("measured: filtered again {took:?} after the table was deleted");
        healed(network, || nft(&["flush", "table", "bridge", "nwfilter"]));
        healed(network, || nft(&["flush", "chain", "bridge", "nwfilter", "prerouting"]));
        healed(network, || nft(&["flush", "set", "bridge", "nwfilter", "bound"]));
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}
