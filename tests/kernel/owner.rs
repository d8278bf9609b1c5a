//! Who owns our tables, what the kernel can, and what others do.

use crate::build::*;
use crate::cases::*;
use crate::lab::*;
use nwfilter::kernel::apply::Kernel;
use nwfilter::kernel::watch::Watch;
use nwfilter::program::ir::*;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::nft::announcement::Event;
use nwfilter::ruleset::nft::probe::Support;
use nwfilter::ruleset::plan::TableOperation;

#[test]
fn an_owned_table_outlives_its_owner_and_is_adopted() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        if !kernel.features().owner_persist.is_yes() {
            return println!("skipped: this kernel has no owned tables that stay");
        }
        kernel.apply(prepare(steps(&small()))).unwrap();
        let seen = kernel.observe().unwrap();
        let table = &seen.families[&Family::Bridge];
        assert_eq!((table.owner, table.port), (true, Some(kernel.port())));
        let before = listing();
        nft("flush ruleset", "");
        assert_eq!(listing(), before, "a flush by others");

        // Another of us may not touch it as long as we live, and learns so.
        let other = Kernel::open(Ownership::OwnedAndKept).unwrap();
        let chain = TableOperation::AddChain(name("intruder"), None);
        let refused = other
            .apply(prepare(vec![
                step(Family::Bridge, TableOperation::AddTable),
                step(Family::Bridge, chain.clone()),
            ]))
            .unwrap_err();
        assert_eq!(refused.refusals[0].errno(), Some(libc::EPERM), "{refused}");
        assert!(refused.to_string().contains("another process may own the table"), "{refused}");

        drop(kernel);
        while other.observe().unwrap().families[&Family::Bridge].port.is_some() {
            std::thread::yield_now();
        }
        // nft shows which process owns a table, and that one does.
        let unowned = |text: &str| {
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("flags"));
            lines.map(|line| line.split(" # ").next().unwrap()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(unowned(&listing()), unowned(&before), "our end");
        other
            .apply(prepare(vec![step(Family::Bridge, TableOperation::AddTable), step(Family::Bridge, chain)]))
            .unwrap();
        let adopted = other.observe().unwrap();
        assert_eq!(adopted.families[&Family::Bridge].port, Some(other.port()));
        assert_eq!(adopted.families[&Family::Bridge].chains.len(), table.chains.len() + 1);
        nft("flush ruleset", "");
        assert_eq!(other.observe().unwrap(), adopted);
    });
}

#[test]
fn a_shared_table_that_is_there_is_used_as_it_is() {
    in_namespace(|| {
        nft("-f -", "add table bridge nwfilter\nadd chain bridge nwfilter old\n");
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        kernel
            .apply(prepare(vec![
                step(Family::Bridge, TableOperation::AddTable),
                step(Family::Bridge, TableOperation::AddChain(name("new"), None)),
            ]))
            .unwrap();
        let table = &kernel.observe().unwrap().families[&Family::Bridge];
        assert!(!table.owner);
        assert_eq!(table.chains.keys().map(|name| &**name).collect::<Vec<_>>(), ["new", "old"]);
    });
}

#[test]
fn probes_leave_nothing_behind_and_agree_with_nft() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let features = kernel.features();
        assert_eq!(nft("list tables", ""), "");
        let check = |what: &str, support: Support, text: &str| {
            let accepted = run("nft", &["-f", "-"], text).status.success();
            nft("flush ruleset", "");
            assert_eq!(support.is_yes(), accepted, "{what}: {support}");
        };
        let bridge = |rule: &str| {
            format!("table bridge t {{ chain c {{ type filter hook prerouting priority 0; {rule}\n}}\n}}\n")
        };
        let inet = |rule: &str| bridge(rule).replace("bridge", "inet");
        check("bridge ct", features.bridge_ct, &bridge("ct state new accept"));
        check("bridge reject", features.bridge_reject, &bridge("reject with icmpx port-unreachable"));
        check("bridge meta", features.bridge_meta, &bridge("meta ibrname br0 accept"));
        check("connlimit", features.connlimit, &bridge("ct count over 5 accept"));
        check("tcp option", features.tcp_option, &bridge("tcp option 5 exists accept"));
        check("inet ct", features.inet_ct, &inet("ct state new accept"));
        check("inet reject", features.inet_reject, &inet("reject with icmpx port-unreachable"));
        check("inet connlimit", features.inet_connlimit, &inet("ct count over 5 accept"));
        let egress = "table netdev t { chain c { type filter hook egress device lo priority 0;\n}\n}\n";
        check("egress", features.netdev_egress, egress);
    });
}

#[test]
fn a_commit_by_others_is_heard_and_our_own_is_not() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let mut watch = Watch::open(Some(kernel.port())).unwrap();
        kernel.apply(prepare(steps(&small()))).unwrap();
        nft("-f -", "add table inet other\n");
        assert_eq!(watch.next_event().unwrap(), None, "our commit, and another's of another table");
        nft("-f -", "add chain bridge nwfilter intruder\n");
        let event = watch.next_event().unwrap();
        assert!(
            matches!(&event, Some(Event::Foreign { name, portid, .. }) if name == "nft" && *portid != kernel.port()),
            "{event:?}"
        );
        nft("flush ruleset", "");
        assert!(matches!(watch.next_event().unwrap(), Some(Event::Foreign { .. })));
        assert_eq!(watch.next_event().unwrap(), None);
    });
}

/// As large as the announcements of a long filter's rules, which no buffer holds.
#[test]
fn a_large_commit_leaves_room_for_those_of_others() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let mut watch = Watch::open(Some(kernel.port())).unwrap();
        let chain = || name("long");
        let rule = || step(Family::Bridge, TableOperation::AddRule(chain(), Rule::new(vec![], Action::Drop)));
        let made = [TableOperation::AddTable, TableOperation::AddChain(chain(), None)]
            .map(|change| step(Family::Bridge, change));
        let rules = std::iter::repeat_with(rule).take(60_000);
        kernel.apply(prepare(made.into_iter().chain(rules).collect())).unwrap();
        nft("-f -", "add chain bridge nwfilter intruder\n");
        assert!(matches!(watch.next_event().unwrap(), Some(Event::Foreign { .. })));
        assert_eq!(watch.next_event().unwrap(), None);
    });
}

#[test]
fn without_cap_net_admin_the_refusal_says_so() {
    in_namespace(|| {
        caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
        let kernel = Kernel::open(Ownership::OwnedAndKept).unwrap();
        assert_eq!(kernel.features().tcp_option, Support::Inconclusive);
        let refused =
            kernel.apply(prepare(vec![step(Family::Bridge, TableOperation::AddTable)])).unwrap_err();
        assert!(refused.to_string().contains("the right to administer networks is missing"), "{refused}");
    });
}
