//! Plans put in force or refused, and the kernel read back.

use crate::build::*;
use crate::cases::*;
use crate::lab::*;
use nwfilter::document::field::Field;
use nwfilter::kernel::apply::{Kernel, Retire, Stage};
use nwfilter::program::ir::SetType;
use nwfilter::program::ir::*;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::{Plan, TableOperation};
use std::collections::BTreeMap;

#[test]
fn two_fields_are_compared_where_the_kernel_can() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        if !kernel.features().xor_registers.is_yes() {
            return println!("skipped: this kernel cannot compare two fields");
        }
        let same = |left, right, negated| Match::Same { left: f(left), right: f(right), negated };
        let rules = vec![
            Rule::new(
                vec![eq(Field::EtherType, &ARP), same(Field::ArpSaddrIp, Field::ArpDaddrIp, false)],
                Action::Drop,
            ),
            Rule::new(vec![same(Field::EtherSaddr, Field::ArpSaddrEther, true)], Action::Drop),
            Rule::new(vec![same(Field::Ip6Saddr, Field::Ip6Daddr, true)], Action::Drop),
        ];
        let digests: Vec<_> = rules.iter().map(|rule| Some(digest::rule(rule))).collect();
        let chain = Chain { hook: Some(hook(HookPoint::Prerouting, None)), rules };
        let mut table = Table::default();
        table.chains.insert(name("base"), chain.into());
        // nft 1.0.6 aborts when it is to list such a rule, so it is read back by us alone.
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let seen = &kernel.observe().unwrap().families[&Family::Bridge].chains[&name("base")];
        assert_eq!(seen.rules.iter().map(|rule| rule.digest).collect::<Vec<_>>(), digests);
    });
}

#[test]
fn twenty_thousand_elements_arrive_and_leave() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let key = |number: u32| element(&[&index(number), &MAC, &number.to_be_bytes()]);
        let elements = (0..20_000).map(|number| (key(number), ElementValue::None));
        let kind = set(&[KeyType::IfIndex, KeyType::Ether, KeyType::Ipv4], ValueType::None, &[]);
        let mut table = Table::default();
        table.sets.insert(name("many"), Set { elements: elements.collect(), ..kind.clone() });
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let seen =
            || kernel.observe().unwrap().families[&Family::Bridge].sets[&name("many")].elements.clone();
        assert_eq!(seen().len(), 20_000);
        assert!(seen().contains_key(&key(19_999)));
        let leave = (1..20_000).map(key).collect();
        let delete = TableOperation::DeleteElements(name("many"), set_type(&kind), leave);
        kernel.apply(prepare(vec![step(Family::Bridge, delete)])).unwrap();
        assert_eq!(seen().into_keys().collect::<Vec<_>>(), [key(0)]);
    });
}

/// A rule that jumps to a chain that is not there.
fn lost_rule(number: u32) -> TableOperation {
    let rule = Rule { origin: origin("broken", number), ..Rule::new(vec![], Action::Jump(name("nowhere"))) };
    TableOperation::AddRule(name("base"), rule)
}

#[test]
fn a_batch_with_three_faults_names_all_and_changes_nothing() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let table = table_of(rules(matches()), hook(HookPoint::Prerouting, None));
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let before = listing();
        let bridge = |change| step(Family::Bridge, change);
        let plan = prepare(vec![
            bridge(lost_rule(1)),
            bridge(TableOperation::AddRule(name("base"), Rule::new(vec![], Action::Accept))),
            bridge(lost_rule(2)),
            bridge(TableOperation::DeleteSet(name("no.such.set"))),
        ]);
        let refused = kernel.apply(plan).unwrap_err();
        assert_eq!(refused.stage, Stage::Prepare);
        let refusals: Vec<_> =
            refused.refusals.iter().map(|refusal| (refusal.step, refusal.errno())).collect();
        let missing = Some(libc::ENOENT);
        assert_eq!(refusals, [(Some(0), missing), (Some(2), missing), (Some(3), missing)], "{refused}");
        let text = refused.to_string();
        for said in [
            "clean.xml:2:3: rule broken:1: a rule of chain base",
            "rule broken:2",
            "set no.such.set in table bridge nwfilter: refused by the kernel: No such file",
        ] {
            assert!(text.contains(said), "{said:?} in {text}");
        }
        assert_eq!(listing(), before);
    });
}

#[test]
fn a_refused_switch_takes_back_what_prepare_made() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let table = table_of(rules(matches()), hook(HookPoint::Prerouting, None));
        kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
        let before = listing();
        let bridge = |change| step(Family::Bridge, change);
        let kind =
            SetType { key: vec![KeyType::IfIndex], data: ValueType::Verdict, dynamic: false, counted: false };
        let jump = |to: &str| Rule::new(vec![], Action::Jump(name(to)));
        let plan = Plan {
            prepare: vec![
                bridge(TableOperation::AddChain(name("new/a"), None)),
                bridge(TableOperation::AddChain(name("new/b"), None)),
                bridge(TableOperation::AddSet(name("new.map"), kind.clone())),
                bridge(TableOperation::AddRule(
                    name("new/b"),
                    Rule::new(vec![], Action::Vmap(vec![Key::new(KeySource::Iif)], name("new.map"))),
                )),
                bridge(TableOperation::AddRule(name("new/a"), jump("new/b"))),
                bridge(TableOperation::AddElements(
                    name("new.map"),
                    kind,
                    vec![(index(9).as_slice().into(), ElementValue::Jump(name("x/out")))],
                )),
            ],
            switch: vec![bridge(TableOperation::AddRule(name("base"), jump("new/a"))), bridge(lost_rule(7))],
            retire: vec![bridge(TableOperation::DeleteChain(name("x/out")))],
            ..Plan::default()
        };
        let refused = kernel.apply(plan).unwrap_err();
        assert_eq!(
            (refused.stage, refused.refusals.len(), refused.retire_failures.len()),
            (Stage::Switch, 1, 0),
            "{refused:?}"
        );
        assert_eq!(listing(), before);
    });
}

#[test]
fn what_no_message_can_hold_is_refused_before_sending() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let check = |matches: Vec<Match>, said: &str| {
            let rule = Rule { origin: origin("long", 3), ..Rule::new(matches, Action::Accept) };
            let change = TableOperation::AddRule(name("base"), rule);
            let plan = Plan {
                switch: vec![step(Family::Bridge, change)],
                ..prepare(vec![step(Family::Bridge, TableOperation::AddTable)])
            };
            let refused = kernel.apply(plan).unwrap_err();
            assert!(refused.to_string().contains(said), "{said:?} in {refused}");
            assert!(refused.to_string().contains("rule long:3"), "{refused}");
            assert_eq!(nft("list ruleset", ""), "");
        };
        check(vec![eq(Field::EtherSaddr, &[1; 80])], "80 bytes");
        check(vec![eq(Field::EtherSaddr, &[])], "0 bytes");
        check(vec![masked(Field::IpSaddr, &[255, 0], false, &[1, 2, 3, 4])], "mask of 2 bytes");
        check(vec![ne(Field::ThDport, &[0, 80]); 70], "expressions");
        check(vec![one_of(vec![f(Field::EtherSaddr)], &[KeyType::Ether], false, &[])], "empty");
        check(vec![within(vec![f(Field::Ip6Saddr); 5], false, "bound")], "key of 80 bytes");
    });
}

#[test]
fn a_failing_retire_is_reported_and_is_no_failure() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let plan = Plan {
            switch: vec![step(Family::Bridge, TableOperation::AddTable)],
            retire: vec![step(Family::Bridge, TableOperation::DeleteChain(name("nowhere")))],
            ..Plan::default()
        };
        assert_eq!(kernel.apply(plan.clone()).unwrap().retire_failures.len(), 1);
        let later = kernel.submit(plan, Retire::AfterAnswer).blocking_recv().unwrap().unwrap();
        assert_eq!(later.retire_failures, []);
        assert_eq!(
            kernel.apply(Plan::default()).unwrap().retire_failures.len(),
            1,
            "reported with the next answer"
        );
    });
}

/// Lets the base chain lead to another chain, which is made for that, and takes the one before away.
fn leads_to(there: &str, before: &str) -> Plan {
    let bridge = |change| step(Family::Bridge, change);
    let to = Rule::new(vec![], Action::Jump(name(there)));
    Plan {
        prepare: vec![
            bridge(TableOperation::AddChain(name(there), None)),
            bridge(TableOperation::AddRule(name(there), Rule::new(vec![], Action::Accept))),
        ],
        switch: vec![
            bridge(TableOperation::FlushChain(name("base"))),
            bridge(TableOperation::AddRule(name("base"), to)),
        ],
        retire: vec![
            bridge(TableOperation::FlushChain(name(before))),
            bridge(TableOperation::DeleteChain(name(before))),
        ],
        ..Plan::default()
    }
}

/// Changes one upon the other through these names; nothing may be left over.
fn one_upon_the_other(names: &[String], retire: Retire) {
    let kernel = Kernel::open(Ownership::Shared).unwrap();
    let table = table_of(vec![], hook(HookPoint::Prerouting, None));
    kernel.apply(prepare(steps(&Ruleset { tables: BTreeMap::from([(Family::Bridge, table)]) }))).unwrap();
    let first = Plan { retire: vec![], ..leads_to(&names[0], "nothing") };
    kernel.apply(first).unwrap();
    for pair in names.windows(2) {
        let outcome = kernel.submit(leads_to(&pair[1], &pair[0]), retire).blocking_recv().unwrap();
        assert_eq!(outcome.unwrap().retire_failures, []);
    }
    let seen = &kernel.observe().unwrap().families[&Family::Bridge].chains;
    let lengths = seen.iter().map(|(name, chain)| (&**name, chain.rules.len()));
    let lengths: Vec<(&str, usize)> = lengths.filter(|(name, _)| !name.contains('/')).collect();
    let last = names.last().unwrap();
    assert_eq!(lengths, [("base", 1), (last, 1)]);
    assert_eq!(kernel.apply(Plan::default()).unwrap().retire_failures, []);
}

#[test]
fn nothing_is_left_of_changes_one_upon_the_other() {
    let names: Vec<String> = (0..41).map(|number| format!("x{number:02}")).collect();
    for retire in [Retire::AfterAnswer, Retire::BeforeAnswer] {
        in_namespace(|| one_upon_the_other(&names, retire));
    }
}

#[test]
fn a_chain_wanted_again_during_its_removal_exists_once() {
    for count in 2..4 {
        let names: Vec<String> = (0..41).map(|number| format!("x{}", number % count)).collect();
        in_namespace(|| one_upon_the_other(&names, Retire::AfterAnswer));
    }
}

#[test]
fn what_is_read_back_is_what_was_sent() {
    in_namespace(|| {
        let kernel = Kernel::open(Ownership::Shared).unwrap();
        let mut ruleset = small();
        let device = table_of(vec![], hook(HookPoint::Egress, Some("lo")));
        ruleset.tables.insert(Family::Netdev, device);
        kernel.apply(prepare(steps(&ruleset))).unwrap();
        let observed = kernel.observe().unwrap();
        assert_eq!(observed.families.keys().collect::<Vec<_>>(), ruleset.tables.keys().collect::<Vec<_>>());
        for (family, table) in &ruleset.tables {
            let seen = &observed.families[family];
            assert!(!seen.owner && seen.port.is_none());
            assert_eq!(seen.chains.keys().collect::<Vec<_>>(), table.chains.keys().collect::<Vec<_>>());
            for (name, chain) in &table.chains {
                let digests: Vec<_> = chain.rules.iter().map(|rule| Some(digest::rule(rule))).collect();
                assert_eq!(
                    seen.chains[name].rules.iter().map(|rule| rule.digest).collect::<Vec<_>>(),
                    digests
                );
                assert_eq!(seen.chains[name].hook, chain.hook);
            }
            for (name, set) in &table.sets {
                assert_eq!(seen.sets[name].ty, set_type(set), "{name}");
                let elements: BTreeMap<_, _> = set.elements.clone().into_iter().collect();
                assert_eq!(seen.sets[name].elements, elements, "{name}");
            }
            assert_eq!(seen.sets.len(), table.sets.len());
        }
        let rule = &observed.families[&Family::Bridge].chains[&name("c000")].rules[0];
        assert_eq!((rule.comment.as_deref(), rule.counter), (Some("clean-traffic:1"), Some((0, 0))));
    });
}
