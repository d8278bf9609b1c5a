//! Whatever happened, the lines that were written tell what is known.

use crate::learners::{DHCP, ack_of, arp, bound, honest, with_params};
use crate::world::*;
use nwfilter::engine::State;
use nwfilter::engine::api::Request;
use nwfilter::guest::learning::MOST;
use nwfilter::guest::lease::file::{self, Book};
use nwfilter::guest::link::LinkEvent::{Appeared, Gone};
use nwfilter::ruleset::firewall::Firewall;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;

const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 254), Ipv4Addr::new(10, 0, 0, 253)];
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];

#[derive(Clone, Debug)]
enum Act {
    /// In mode `dhcp` with these servers.
    Lease(Vec<usize>),
    /// In mode `any`.
    Any,
    /// With an address.
    Given,
    Delete,
    Acknowledge(usize, usize, u32),
    Arp(usize),
    Appear(u32),
    Go(u32),
    Time(u64),
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let (one, index) = (0..2usize, 7..9u32);
    prop_oneof![
        3 => prop::collection::btree_set(one.clone(), 0..3).prop_map(|set| Act::Lease(set.into_iter().collect())),
        1 => Just(Act::Any),
        1 => Just(Act::Given),
        1 => Just(Act::Delete),
        4 => (one.clone(), one.clone(), 5..60u32).prop_map(|(s, a, t)| Act::Acknowledge(s, a, t)),
        2 => one.prop_map(Act::Arp),
        3 => index.clone().prop_map(Act::Appear),
        2 => index.prop_map(Act::Go),
        1 => (1..20u64).prop_map(Act::Time),
        1 => Just(Act::Restart),
    ]
}

/// A daemon, its journal, and the one interface of its guest.
struct Host {
    world: World,
    epoch: Duration,
    link: Option<u32>,
    params: Option<Vec<(String, String)>>,
    journal: String,
}

impl Host {
    fn new() -> Host {
        let world = World::new(&[honest("")]);
        Host { world, epoch: Duration::ZERO, link: None, params: None, journal: String::new() }
    }

    fn bind(&mut self, params: &[(&str, String)]) {
        let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let xml = with_params("vnet0", &params);
        self.world.ask(Request::Apply { xml }).unwrap();
        self.params = Some(params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
    }

    fn perform(&mut self, act: &Act) {
        let before = self.world.state.clone();
        match act {
            Act::Lease(servers) => {
                let servers = servers.iter().map(|server| ("DHCPSERVER", SERVERS[*server].to_string()));
                let mode = DHCP.iter().map(|(name, value)| (*name, (*value).to_owned()));
                self.bind(&mode.chain(servers).collect::<Vec<_>>());
            }
            Act::Any => self.bind(&[]),
            Act::Given => self.bind(&[("IP", ADDRESSES[0].to_string())]),
            Act::Delete => {
                let _ = self.world.delete("vnet0");
                self.params = None;
            }
            Act::Acknowledge(server, address, time) => {
                let link = self.link.unwrap_or(7);
                drop(ack_of(&mut self.world, link, SERVERS[*server], ADDRESSES[*address], *time));
            }
            Act::Arp(address) => drop(arp(&mut self.world, self.link.unwrap_or(7), ADDRESSES[*address])),
            Act::Appear(index) if self.link.is_none() => {
                self.world.link(Appeared(tap(*index, "vnet0")));
                self.link = Some(*index);
            }
            Act::Go(index) if self.link == Some(*index) => {
                self.world.link(Gone(tap(*index, "vnet0")));
                self.link = None;
            }
            Act::Appear(_) | Act::Go(_) => {}
            Act::Time(seconds) => self.world.time(Duration::from_secs(*seconds)),
            Act::Restart => return self.restart(),
        }
        self.journal.push_str(&self.world.state.journal_lines(&before));
    }

    fn restart(&mut self) {
        self.epoch += self.world.now;
        let firewall = Firewall::new(policy(64)).define([filter(&honest("")).into()]).unwrap();
        let params = self.params.iter().map(|params| {
            bound(&params.iter().map(|(name, value)| (&name[..], &value[..])).collect::<Vec<_>>())
        });
        let links = self.link.map(|index| tap(index, "vnet0"));
        let book = self.parsed(&self.journal);
        self.world.state = State::restore_learned(firewall, params, links, GRACE, book, self.epoch);
        self.world.now = Duration::ZERO;
        self.journal = file::write(&self.world.state.book());
    }

    fn parsed(&self, text: &str) -> Book {
        let (book, skipped) = file::read(text, self.epoch + self.world.now, MOST);
        assert_eq!(skipped, []);
        book
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    // P-25, P-28
    #[test]
    fn the_journal_tells_what_is_known(acts in prop::collection::vec(act(), 1..24)) {
        let mut host = Host::new();
        for act in &acts {
            host.perform(act);
            let known = host.parsed(&file::write(&host.world.state.book()));
            prop_assert_eq!(host.parsed(&host.journal), known, "after {:?}", act);
        }
    }
}
