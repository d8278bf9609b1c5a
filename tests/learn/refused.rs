//! A kernel that refuses the rules of a guest whose address was learned: the guest is closed, and another try may do.

use crate::daemon::host::{Conn, Daemon, Host, eventually};
use crate::daemon::refuser::Refuser;
use crate::daemon::{bind_with, filter, interface, known};
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};

struct World {
    network: Network,
    _host: Host,
    refuser: Refuser,
    daemon: Daemon,
    conn: Conn,
}

impl World {
    fn new() -> World {
        let (network, host) = (Network::new(), Host::new());
        host.configure("grace = 0\n");
        let (refuser, daemon) = Refuser::start(&host);
        let mut conn = daemon.connect();
        conn.define(&filter()).unwrap();
        bind_with(&mut conn, "vnet0", "vm", GUEST_MAC, &[]);
        World { network, _host: host, refuser, daemon, conn }
    }

    fn closed(&mut self) -> Option<String> {
        interface(&mut self.conn, self.network.guest.link.index()).and_then(|found| found.closed)
    }

    fn passes(&self, frame: Frame) -> bool {
        self.network.passes(Way::FromGuest, frame)
    }

    fn learns(&mut self) {
        let index = self.network.guest.link.index();
        eventually("an address in force", || {
            assert!(self.passes(claim()), "it waits, or has its address");
            known(&mut self.conn, index) == [GUEST_IP]
        });
        assert!(self.passes(udp(ip(GUEST_IP, PEER_IP), 1, 2)));
    }
}

fn claim() -> Frame {
    arp_request(GUEST_IP, PEER_IP).frame()
}

#[test]
fn a_guest_closed_for_refused_rules_learns_on_a_retry() {
    in_fresh_netns(|| {
        let mut world = World::new();
        // The change of all that was heard, and the guest's own.
        world.refuser.refuse(2);
        assert!(world.passes(claim()), "it waits");
        eventually("that it is closed", || world.closed().is_some());
        let why = world.closed().unwrap();
        assert!(why.contains("Cannot allocate memory"), "{why}");
        let index = world.network.guest.link.index();
        assert_eq!(known(&mut world.conn, index), [""; 0]);
        for frame in [claim(), dhcp(1).broadcast(), udp(ip(GUEST_IP, PEER_IP), 1, 2)] {
            assert!(!world.passes(frame.clone()), "{frame:?}");
        }
        world.daemon.reload();
        assert_eq!(world.closed(), None);
        world.learns();
    });
}

#[test]
fn a_guest_that_cannot_be_closed_is_set_down_and_waits() {
    in_fresh_netns(|| {
        let mut world = World::new();
        world.refuser.refuse(u32::MAX);
        world.network.guest.send(&Vec::from(claim())).unwrap();
        let nothing = Vec::from(dhcp(1).broadcast().from(FOREIGN_MAC));
        eventually("that it is down", || world.network.guest.send(&nothing).is_err());
        world.daemon.logs("set down");
        world.refuser.refuse(0);
        world.network.guest.link.up();
        assert!(!world.passes(dhcp(1).broadcast().from(FOREIGN_MAC)));
        world.learns();
    });
}
