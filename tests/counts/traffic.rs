//! Frames and bytes of each guest, each way, where that is asked for.

use crate::host::{Host, STYLES};
use crate::lab::frames::*;
use crate::lab::in_fresh_netns;
use nwfilter::program::ir::Ruleset;
use nwfilter::ruleset::counters::{Count, traffic};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::layout::TrafficCounting;
use nwfilter::ruleset::plan::plan;

const VARS: &[(&str, &str)] = &[("MAC", "52:54:00:00:00:01"), ("IP", GUEST_IP)];
const HEADER: u64 = 14;

fn own() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1, 2)
}

#[test]
fn each_direction_is_counted_from_bind_to_unbind() {
    for style in STYLES {
        in_fresh_netns(|| {
            let mut host = Host::new(style);
            let index = host.network.guest.link.index();
            let send = |host: &Host, sent: usize, received: usize| {
                let (sending, receiving) = (Vec::from(own()), Vec::from(own().inbound()));
                (0..sent).for_each(|_| host.network.guest.send(&sending).unwrap());
                (0..received).for_each(|_| host.network.peer.send(&receiving).unwrap());
            };
            let counts = |host: &Host| {
                let seen = host.observe();
                let all = traffic(&recall(&seen, &Ruleset::default()), &seen);
                all.get(&index).map(|traffic| (traffic.from_guest, traffic.to_guest))
            };
            let of = |frames: u64| Count { frames, bytes: frames * (Vec::from(own()).len() as u64 - HEADER) };
            host.bind_guest("clean-traffic", VARS).unwrap();
            send(&host, 2, 2);
            assert_eq!(counts(&host), None, "{style:?}: no guest is counted");
            host.enforce(host.firewall.counting_traffic(TrafficCounting::On)).unwrap();
            send(&host, 3, 5);
            let forged = Vec::from(own().from(FOREIGN_MAC));
            host.network.guest.send(&forged).unwrap();
            let found = counts(&host).unwrap();
            // At a device's own hooks a frame that goes out has its Ethernet header.
            let received = |frames: u64| match style.is_at_device() {
                true => Count { frames, bytes: frames * Vec::from(own()).len() as u64 },
                false => of(frames),
            };
            assert_eq!(found, (of(4), received(5)), "{style:?}");
            host.define(&["<filter name='no-mac-spoofing' chain='mac'/>"]).unwrap();
            send(&host, 1, 1);
            assert_eq!(counts(&host), Some((of(5), received(6))), "{style:?}: redefined");
            let (seen, wanted) = (host.observe(), host.firewall.ruleset());
            assert!(
                plan(&recall(&seen, &wanted), &wanted).is_empty(),
                "{style:?}: a restart changes nothing"
            );
            host.enforce(host.firewall.unbind(index)).unwrap();
            host.bind_guest("clean-traffic", VARS).unwrap();
            assert_eq!(counts(&host), Some((of(0), received(0))), "{style:?}: bound again");
            host.enforce(host.firewall.counting_traffic(TrafficCounting::Off)).unwrap();
            assert_eq!(counts(&host), None, "{style:?}");
        });
    }
}
