//! Changes under traffic: while frames are sent at full rate, no forbidden one passes and no allowed one is lost,
//! whatever is changed, refused, interrupted or adopted.
//!
//! Every test has a network namespace of its own and needs root.

mod lab;
mod tool;

use lab::frames::*;
use lab::{Flood, Network, Tap, Way, in_fresh_netns};
use nwfilter::document::catalog::Library;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::kernel::apply::Stage;
use nwfilter::program::compile::{HostToGuest, Options};
use nwfilter::program::ir::observed::Observed;
use nwfilter::program::ir::{Action, Family, Match, Name, SetRef};
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::layout;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::{Plan, Step, TableOperation, plan};
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;
use tool::InTime;

/// Two ports of a bridge, and what is enforced on one of them.
struct Host {
    network: Network,
    kernel: Kernel,
    firewall: Firewall,
}

/// Only the lab's guest is there, but members are numbers and need no links.
const OTHERS: std::ops::Range<u32> = 1000..1200;

impl Host {
    fn new(fold_up_to: usize) -> Host {
        let (network, kernel) = (Network::new(), Kernel::open(Ownership::OwnedAndKept).unwrap());
        let compile =
            Options { features: kernel.features().into(), counters: false, host_to_guest: HostToGuest::Pass };
        let firewall = Firewall::new(Policy { fold_up_to, compile, placement: Default::default() });
        let firewall = firewall.define(Library::standard().filters.into_values()).unwrap();
        kernel.apply(plan(&Default::default(), &firewall.ruleset())).unwrap();
        Host { network, kernel, firewall }
    }

    /// The guest is bound to this filter, made of this text where there is any.
    fn bound(fold_up_to: usize, filter: &str, text: &str) -> Host {
        let mut host = Host::new(fold_up_to);
        let defined = host.defined(text);
        host.commit(defined.bind(host.guest(filter)).unwrap());
        host
    }

    fn guest(&self, filter: &str) -> BoundInterface {
        member(self.network.guest.link.index(), filter, &[GUEST_IP])
    }

    fn defined(&self, text: &str) -> Firewall {
        let mut library = Library::default();
        if !text.is_empty() {
            library.add(&Source::new("test.xml", text));
        }
        assert_eq!(library.faults, []);
        self.firewall.define(library.filters.into_values()).unwrap()
    }

    fn commit(&mut self, next: Firewall) {
        commit(&self.kernel, &self.firewall, &next);
        self.firewall = next;
    }

    /// Goes to and fro between two states under traffic. Allowed and forbidden are the same in both.
    fn alternates(&mut self, other: Firewall, times: usize, [honest, forbidden]: [Frame; 2]) {
        let states = [&self.firewall, &other];
        let work = || {
            for turn in 0..times {
                commit(&self.kernel, states[turn % 2], states[(turn + 1) % 2]);
            }
        };
        let (count, ()) = self.network.flood(Way::FromGuest, honest, forbidden, work);
        assert_exact(count);
        let last = states[times % 2];
        assert_in_force(&self.kernel, last);
    }
}

/// The guest's filter in both ways of placing it, at the same time in two namespaces.
fn shared_and_folded(check: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        let checks = [0, 64].map(|fold_up_to| {
            let check = &check;
            scope.spawn(move || in_fresh_netns(|| check(fold_up_to)))
        });
        for check in checks {
            check.join().unwrap_or_else(|panicked| resume_unwind(panicked));
        }
    });
}

fn commit(kernel: &Kernel, old: &Firewall, new: &Firewall) {
    let applied = kernel.apply(plan(&old.ruleset(), &new.ruleset())).unwrap();
    assert_eq!(applied.retire_failures, []);
}

fn member(index: u32, filter: &str, addresses: &[&str]) -> BoundInterface {
    let mut vars = Vars::default();
    vars.push("MAC", "52:54:00:00:00:01");
    addresses.iter().for_each(|address| vars.push("IP", *address));
    BoundInterface {
        index,
        name: format!("tap{index}"),
        place: Attachment::Bridge(None),
        rules: Rules::Filter(filter.into()),
        vars,
    }
}

fn assert_exact(count: Flood) {
    assert!(count.honest_sent > 0 && count.forbidden_sent > 0, "{count:?}");
    assert_eq!((count.forbidden_arrived, count.lost(), count.strange), (0, 0, 0), "{count:?}");
}

/// The kernel has what the firewall says and nothing besides.
fn assert_in_force(kernel: &Kernel, firewall: &Firewall) {
    let ruleset = firewall.ruleset();
    let left = plan(&recall(&kernel.observe().unwrap(), &ruleset), &ruleset);
    assert!(left.is_empty(), "{left}");
}

fn honest() -> Frame {
    udp(ip(GUEST_IP, PEER_IP), 1000, 2000)
}

fn spoofed() -> Frame {
    udp(ip(FOREIGN_IP, PEER_IP), 1000, 2000)
}

fn other_mac() -> Frame {
    honest().from(FOREIGN_MAC)
}

/// A filter in two wordings, the second with another rule in it. They differ in chains that both have.
fn wordings(more: &str) -> [String; 2] {
    ["", more].map(|more| {
        format!(
            "<filter name='two' chain='root'><filterref filter='clean-traffic'/>{more}\
             <rule action='drop' direction='out' priority='-900'><mac dstmacaddr='02:00:00:00:00:77'/></rule></filter>"
        )
    })
}

const BY_MAC: &str = "<filter name='two' chain='root'>\
    <rule action='drop' direction='out' priority='-5'><mac match='no' srcmacaddr='$MAC'/></rule>\
    <rule action='accept' direction='out' priority='-4'><ip srcipaddr='$IP'/></rule>\
    <rule action='drop' direction='out' priority='-3'/></filter>";
const BY_CHAINS: &str = "<filter name='two' chain='root'>\
    <filterref filter='no-mac-spoofing'/><filterref filter='no-ip-spoofing'/>\
    <rule action='accept' direction='out' priority='100'><mac/></rule></filter>";

const DROP_ELSEWHERE: &str =
    "<rule action='drop' direction='out' priority='-890'><mac dstmacaddr='02:00:00:00:00:78'/></rule>";

// P-9
#[test]
fn redefinitions_within_the_same_chains_are_not_seen() {
    shared_and_folded(|fold_up_to| {
        let [one, two] = wordings(DROP_ELSEWHERE);
        let mut host = Host::bound(fold_up_to, "two", &one);
        let other = host.defined(&two);
        assert_ne!(host.firewall.ruleset(), other.ruleset());
        host.alternates(other, 1000, [honest(), spoofed()]);
    });
}

#[test]
fn redefinitions_that_move_rules_to_other_chains_are_not_seen() {
    shared_and_folded(|fold_up_to| {
        let mut host = Host::bound(fold_up_to, "two", BY_MAC);
        let other = host.defined(BY_CHAINS);
        for forbidden in [spoofed(), other_mac()] {
            host.alternates(other.clone(), 250, [honest(), forbidden]);
        }
    });
}

// P-9
#[test]
fn a_move_to_another_filter_is_not_seen() {
    shared_and_folded(|fold_up_to| {
        let mut host = Host::bound(fold_up_to, "clean-traffic", &wordings("")[0]);
        let other = host.firewall.bind(host.guest("two")).unwrap();
        host.alternates(other, 200, [honest(), spoofed()]);
    });
}

#[test]
fn becoming_shared_and_folded_again_is_not_seen() {
    in_fresh_netns(|| {
        let mut host = Host::bound(1, "clean-traffic", "");
        let other = host.firewall.bind(member(OTHERS.start, "clean-traffic", &["10.0.0.7"])).unwrap();
        let shares = |firewall: &Firewall| firewall.groups()["clean-traffic"].placed.is_some();
        assert!(!shares(&host.firewall) && shares(&other));
        // Back in two steps: the limit has slack, and a policy folds at once.
        let folded = other.with_policy(Policy { fold_up_to: 64, ..policy(&host.kernel) }).unwrap();
        assert!(!shares(&folded));
        host.alternates(other.clone(), 1, [honest(), spoofed()]);
        host.firewall = other;
        host.alternates(folded, 200, [honest(), spoofed()]);
    });
}

fn policy(kernel: &Kernel) -> Policy {
    Policy::new(kernel.features())
}

// W-9
#[test]
fn an_address_that_goes_takes_nothing_from_the_others() {
    shared_and_folded(|fold_up_to| {
        let mut host = Host::bound(fold_up_to, "clean-traffic", "");
        let index = host.network.guest.link.index();
        let more = member(index, "clean-traffic", &[GUEST_IP, "10.0.0.8", "10.0.0.7"]);
        let other = host.firewall.bind(more).unwrap();
        host.alternates(other, 500, [honest(), spoofed()]);
    });
}

#[test]
fn members_who_come_and_go_are_not_noticed_by_others() {
    in_fresh_netns(|| {
        let mut host = Host::bound(8, "clean-traffic", "");
        let work = |host: &mut Host| {
            for index in OTHERS {
                let next = host.firewall.bind(member(index, "clean-traffic", &["10.0.0.9"])).unwrap();
                host.commit(next);
            }
            for index in OTHERS {
                let next = host.firewall.unbind(index);
                host.commit(next);
            }
        };
        let (guest, peer) = (Tap::new("unused0"), Tap::new("unused1"));
        let network = std::mem::replace(&mut host.network.guest, guest);
        let other = std::mem::replace(&mut host.network.peer, peer);
        let (count, ()) =
            lab::flood(&network, &other, &bytes(honest()), &bytes(spoofed()), || work(&mut host));
        assert_exact(count);
        assert_in_force(&host.kernel, &host.firewall);
        assert_eq!(host.firewall.members().len(), 1);
    });
}

fn bytes(frame: Frame) -> Vec<u8> {
    frame.into()
}

#[test]
fn a_guest_closed_for_a_while_sends_nothing_forbidden() {
    shared_and_folded(|fold_up_to| {
        let host = Host::bound(fold_up_to, "clean-traffic", "");
        let blocked = BoundInterface { rules: Rules::Blocked, ..host.guest("") };
        let closed = host.firewall.bind(blocked).unwrap();
        let work = || {
            for _ in 0..100 {
                commit(&host.kernel, &host.firewall, &closed);
                commit(&host.kernel, &closed, &host.firewall);
            }
        };
        let (count, ()) = host.network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_eq!((count.forbidden_arrived, count.strange), (0, 0), "{count:?}");
        assert!(count.lost() > 0, "it was never closed: {count:?}");
        assert!(host.network.passes(Way::FromGuest, honest()));
    });
}

/// As after a restart: all is rebuilt and compared with what is found.
#[test]
fn a_full_rebuild_from_what_is_found_is_not_seen() {
    shared_and_folded(|fold_up_to| {
        let mut host = Host::bound(fold_up_to, "clean-traffic", "");
        let others = OTHERS.map(|index| member(index, "clean-traffic", &["10.0.0.7"]));
        host.commit(host.firewall.bind_all(others).unwrap());
        let [one, two] = wordings(DROP_ELSEWHERE);
        let work = || {
            let mut last = None;
            for turn in 0..100 {
                let filters = host.defined([&one, &two][turn % 2]).filters().clone();
                let rebuilt = Firewall::new(policy(&host.kernel)).define(filters.into_iter().map(|(_, f)| f));
                let root = ["two", "two", "clean-traffic"][turn % 3];
                let rebuilt = rebuilt.unwrap().bind(host.guest(root)).unwrap();
                let found = recall(&host.kernel.observe().unwrap(), &rebuilt.ruleset());
                host.kernel.apply(plan(&found, &rebuilt.ruleset())).unwrap();
                last = Some(rebuilt);
            }
            last.unwrap()
        };
        let (count, last) = host.network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_exact(count);
        assert_in_force(&host.kernel, &last);
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_lets_nothing_through() {
    in_fresh_netns(|| {
        let host = Host::bound(0, "two", BY_MAC);
        let other = host.defined(BY_CHAINS);
        let good = plan(&host.firewall.ruleset(), &other.ruleset());
        let absent: Name = "absent".into();
        let bad = || Step { family: Family::Bridge, change: TableOperation::FlushChain(absent.clone()) };
        let (mut in_prepare, mut in_switch) = (good.clone(), good.clone());
        in_prepare.prepare.push(bad());
        in_switch.switch.push(bad());
        let before = host.kernel.observe().unwrap();
        let work = || {
            for _ in 0..100 {
                for (plan, stage) in [(&in_prepare, Stage::Prepare), (&in_switch, Stage::Switch)] {
                    let refused = host.kernel.apply(plan.clone()).unwrap_err();
                    assert_eq!((refused.stage, refused.retire_failures.len()), (stage, 0), "{refused}");
                }
            }
        };
        let (count, ()) = host.network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_exact(count);
        assert_eq!(without_handles(host.kernel.observe().unwrap()), without_handles(before));
    });
}

/// A chain that was made and swept leaves its number used up. What is dropped meanwhile is counted.
fn without_handles(mut observed: Observed) -> Observed {
    let chains = observed.families.values_mut().flat_map(|table| table.chains.values_mut());
    chains.flat_map(|chain| &mut chain.rules).for_each(|rule| rule.handle = 0);
    let sets = observed.families.values_mut().flat_map(|table| table.sets.values_mut());
    sets.for_each(|set| set.counts.clear());
    observed
}

#[test]
fn what_an_interrupted_change_left_is_swept_by_the_next() {
    in_fresh_netns(|| {
        let mut host = Host::bound(0, "two", BY_MAC);
        let other =
            host.defined(BY_CHAINS).bind(member(OTHERS.start, "clean-traffic", &["10.0.0.7"])).unwrap();
        let cut = plan(&host.firewall.ruleset(), &other.ruleset());
        let no_retire = Plan { retire: vec![], ..cut.clone() };
        let only_prepare = Plan { switch: vec![], ..no_retire.clone() };
        for (interrupted, aim) in [
            (&only_prepare, &host.firewall),
            (&only_prepare, &other),
            (&no_retire, &host.firewall),
            (&no_retire, &other),
        ] {
            host.kernel.apply(interrupted.clone()).unwrap();
            assert!(host.network.passes(Way::FromGuest, honest()));
            assert!(!host.network.passes(Way::FromGuest, spoofed()));
            let found = recall(&host.kernel.observe().unwrap(), &aim.ruleset());
            host.kernel.apply(plan(&found, &aim.ruleset())).unwrap();
            assert_in_force(&host.kernel, aim);
            assert!(host.network.passes(Way::FromGuest, honest()));
            assert!(!host.network.passes(Way::FromGuest, spoofed()));
            commit(&host.kernel, aim, &host.firewall);
        }
        host.commit(other);
    });
}

#[test]
fn a_shared_program_without_rules_passes_nothing() {
    in_fresh_netns(|| {
        let host = Host::bound(0, "clean-traffic", "");
        let prefix = host.firewall.groups()["clean-traffic"].placed.clone().unwrap().program;
        let empty = |chain: &str| TableOperation::FlushChain(format!("{prefix}/{chain}").into());
        let switch = ["out", "in"].map(|chain| Step { family: Family::Bridge, change: empty(chain) });
        assert!(host.network.passes(Way::FromGuest, honest()));
        host.kernel.apply(Plan { switch: switch.into(), ..Plan::default() }).unwrap();
        assert!(!host.network.passes(Way::FromGuest, honest()));
        assert!(!host.network.passes(Way::ToGuest, honest().inbound()));
    });
}

#[test]
fn a_dead_owner_leaves_no_gap_and_its_table_is_adopted() {
    in_fresh_netns(|| {
        let host = Host::bound(0, "clean-traffic", "");
        if !host.kernel.features().owner_persist.is_yes() {
            return println!("skipped: this kernel has no owned tables that stay");
        }
        let Host { network, kernel, firewall } = host;
        let others = OTHERS.map(|index| member(index, "clean-traffic", &["10.0.0.7"]));
        let more = firewall.bind_all(others).unwrap();
        let states = [&firewall, &more];
        let work = || {
            let mut kernel = kernel;
            for turn in 0..20 {
                let next = Kernel::open(Ownership::OwnedAndKept).unwrap();
                drop(kernel);
                let port = || next.observe().unwrap().families[&Family::Bridge].port;
                tool::eventually("the dead owner lets go", || port().is_none());
                let aim = states[turn % 2].ruleset();
                let found = recall(&next.observe().unwrap(), &aim);
                let mut plan = plan(&found, &aim);
                plan.prepare.insert(0, Step { family: Family::Bridge, change: TableOperation::AddTable });
                next.apply(plan).unwrap();
                assert_eq!(port(), Some(next.port()));
                flush();
                kernel = next;
            }
            kernel
        };
        let (count, kernel) = network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_exact(count);
        assert_in_force(&kernel, states[19 % 2]);
    });
}

/// Variables called `ipset` had the set `ipset.ipv4`, which is that of the addresses that filters call `ipv4`.
#[test]
fn a_table_of_an_earlier_version_is_adopted_without_a_gap() {
    const FILTER: &str = "<filter name='named' chain='root'>\
        <rule action='accept' direction='out' priority='1'><ip srcipaddr='$ipset'/></rule>\
        <rule action='drop' direction='out' priority='2'/></filter>";
    in_fresh_netns(|| {
        let mut host = Host::new(0);
        let mut guest = host.guest("named");
        guest.vars.push("ipset", GUEST_IP);
        host.commit(host.defined(FILTER).bind(guest).unwrap());
        let ruleset = host.firewall.ruleset();
        let earlier = |name: &Name| match &**name {
            "v-ipset.ipv4" => "ipset.ipv4".into(),
            _ => name.clone(),
        };
        let mut old = ruleset.clone();
        let table = old.tables.get_mut(&Family::Bridge).unwrap();
        table.sets = table.sets.iter().map(|(name, set)| (earlier(name), set.clone())).collect();
        // Chains are named by their content.
        let prefix = layout::program(&ruleset.tables[&Family::Bridge], host.network.guest.link.index());
        let digits = prefix.unwrap().rsplit('/').next().unwrap().to_owned();
        let chain = |name: &Name| -> Name { name.replacen(&digits, "0123456789ab", 1).into() };
        table.chains = table
            .chains
            .iter()
            .map(|(name, there)| {
                let mut there = nwfilter::program::ir::Chain::clone(there);
                for rule in &mut there.rules {
                    for part in &mut rule.matches {
                        if let Match::Lookup { set: SetRef::Named(set), .. } = part {
                            *set = earlier(set);
                        }
                    }
                    if let Action::Goto(target) | Action::Jump(target) = &mut rule.action {
                        *target = chain(target);
                    }
                }
                (chain(name), std::sync::Arc::new(there))
            })
            .collect();
        let found = || recall(&host.kernel.observe().unwrap(), &ruleset);
        host.kernel.apply(plan(&found(), &old)).unwrap();
        assert!(found().tables[&Family::Bridge].sets.contains_key("ipset.ipv4"));
        let work = || {
            for turn in 0..100 {
                let aim = [&ruleset, &old][turn % 2];
                host.kernel.apply(plan(&recall(&host.kernel.observe().unwrap(), aim), aim)).unwrap();
            }
        };
        let (count, ()) = host.network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_exact(count);
        host.kernel.apply(plan(&found(), &ruleset)).unwrap();
        assert!(!found().tables[&Family::Bridge].sets.contains_key("ipset.ipv4"));
        assert_in_force(&host.kernel, &host.firewall);
    });
}

fn flush() {
    assert!(Command::new("nft").args(["flush", "ruleset"]).status_in_time().unwrap().success());
}

#[test]
fn a_flush_by_others_does_nothing_to_an_owned_table() {
    in_fresh_netns(|| {
        let host = Host::bound(64, "clean-traffic", "");
        if !host.kernel.features().owner_persist.is_yes() {
            return println!("skipped: this kernel has no owned tables that stay");
        }
        let work = || (0..20).for_each(|_| flush());
        let (count, ()) = host.network.flood(Way::FromGuest, honest(), spoofed(), work);
        assert_exact(count);
        assert_in_force(&host.kernel, &host.firewall);
        assert_eq!(
            layout::bound(
                &recall(&host.kernel.observe().unwrap(), &host.firewall.ruleset()).tables[&Family::Bridge]
            )
            .len(),
            1
        );
    });
}

/// A packet that a change overtakes may meet a program's chains without their rules.
#[test]
fn who_falls_out_of_a_program_is_dropped() {
    for fold_up_to in [0, 64] {
        in_fresh_netns(|| {
            let host = Host::bound(fold_up_to, "clean-traffic", "");
            let frame = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
            assert!(host.network.passes(Way::FromGuest, frame()));
            let ruleset = host.firewall.ruleset();
            let chains = ruleset.tables[&Family::Bridge].chains.keys();
            let emptied = chains.filter(|name| layout::prefix_of(name).is_some());
            let flush = |name: &Name| Step {
                family: Family::Bridge,
                change: TableOperation::FlushChain(name.clone()),
            };
            host.kernel.apply(Plan { switch: emptied.map(flush).collect(), ..Plan::default() }).unwrap();
            assert!(!host.network.passes(Way::FromGuest, frame()), "folded up to {fold_up_to}");
            assert!(!host.network.passes(Way::ToGuest, frame()), "folded up to {fold_up_to}");
        });
    }
}
