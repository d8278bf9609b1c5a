//! The daemon's end and return.

use crate::guest::{Daemon, forbidden, honest, nft, with_guest};
use crate::lab::{Verdict, Way};
use crate::tool::InTime;

#[test]
fn a_daemon_restarted_under_traffic_leaks_nothing() {
    with_guest(|network, daemon, _| {
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
            (0..3).for_each(|_| daemon.die_and_return());
        });
        assert_eq!((flood.forbidden_arrived, flood.lost(), flood.strange), (0, 0, 0), "{flood:?}");
        println!(
            "measured: 3 kills under traffic, {} spoofed frames sent, none passed, none of {} honest lost",
            flood.forbidden_sent, flood.honest_sent
        );
    });
}

#[test]
fn rules_flushed_while_the_daemon_is_dead_are_back_with_it() {
    with_guest(|network, daemon, _| {
        daemon.process.kill().unwrap();
        daemon.process.status_in_time().unwrap();
        nft(&["flush", "ruleset"]);
        daemon.process = Daemon::spawn(daemon.directory.path());
        assert_eq!(network.verdict(Way::FromGuest, forbidden()), Verdict::Drop);
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}
