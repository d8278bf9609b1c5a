//! Any filter and any binding of the model reads back as it was, once printed.

use nwfilter::document::binding::{self, Binding};
use nwfilter::document::filter::read::{CHAINS, Params, read};
use nwfilter::document::filter::schema::{Attribute, AttributeRole, PROTOCOLS, Protocol, ValueKind};
use nwfilter::document::filter::validate::{needed, validate};
use nwfilter::document::filter::value::{bounds, parse, print};
use nwfilter::document::filter::write::{file_text, write};
use nwfilter::document::filter::{
    ACTIONS, AddressEnd, AttributeTest, DIRECTIONS, Entry, Filter, FilterRule, Include, Value, state,
};
use nwfilter::document::mac::Mac;
use nwfilter::document::span::{Source, Span};
use nwfilter::document::vars::{Access, Index, Vars};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use uuid::Uuid;

fn access() -> impl Strategy<Value = Access> {
    let index = prop_oneof![any::<u32>().prop_map(Index::Element), (0..=1000u16).prop_map(Index::Iterator)];
    ("[A-Za-z0-9_]{1,8}", index).prop_map(|(name, index)| Access { name, index })
}

fn contiguous(bits: u32) -> Mac {
    let octets = (!0u64 << (48 - bits)).to_be_bytes();
    Mac(octets[2..].try_into().unwrap())
}

fn literal(kind: ValueKind) -> BoxedStrategy<Value> {
    match kind {
        ValueKind::Decimal16 => {
            any::<u16>().prop_map(|n| Value::Number { value: n.into(), hex: false }).boxed()
        }
        ValueKind::Mac => any::<[u8; 6]>().prop_map(|octets| Value::Mac(Mac(octets))).boxed(),
        ValueKind::MacMask => (0..=48u32).prop_map(|bits| Value::Mac(contiguous(bits))).boxed(),
        ValueKind::Ipv4 => any::<Ipv4Addr>().prop_map(Value::Ipv4).boxed(),
        ValueKind::Ipv6 => ipv6().boxed(),
        ValueKind::Ipv4Mask => (0..=32u8).prop_map(Value::Prefix).boxed(),
        ValueKind::Ipv6Mask => (0..=128u8).prop_map(Value::Prefix).boxed(),
        ValueKind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        ValueKind::Comment => "[^$\\p{C}][\t\n\r\u{85}[^\\p{C}]]{0,60}".prop_map(Value::Text).boxed(),
        ValueKind::States => prop_oneof![1..16u8, Just(state::NONE)].prop_map(Value::States).boxed(),
        ValueKind::TcpFlags => {
            (0..64u8, 0..64u8).prop_map(|(mask, flags)| Value::TcpFlags { mask, flags }).boxed()
        }
        ValueKind::IpsetName => "[A-Za-z0-9_.:+ -]{0,31}".prop_map(Value::Text).boxed(),
        ValueKind::IpsetFlags => vec(select(&[AddressEnd::Source, AddressEnd::Destination][..]), 1..=6)
            .prop_map(Value::Sides)
            .boxed(),
        _ => number(kind).boxed(),
    }
}

fn ipv6() -> impl Strategy<Value = Value> {
    let address = prop_oneof![
        any::<Ipv6Addr>(),
        any::<Ipv4Addr>().prop_map(|address| address.to_ipv6_mapped()),
        any::<u32>().prop_map(|low| Ipv6Addr::from_bits(low.into())),
        vec(prop_oneof![Just(0u16), any::<u16>()], 8)
            .prop_map(|groups| Ipv6Addr::from(<[u16; 8]>::try_from(groups).unwrap())),
    ];
    (address, proptest::option::of(1..100u32))
        .prop_map(|(address, zone)| Value::Ipv6(address, zone.map(|zone| zone.to_string())))
}

/// Where a number prints as a name, its base is forgotten.
fn number(kind: ValueKind) -> impl Strategy<Value = Value> {
    let (least, greatest) = bounds(kind).unwrap();
    (least..=greatest, any::<bool>()).prop_map(move |(value, hex)| {
        let printed = print(kind, &Value::Number { value, hex });
        let hex = hex && printed.starts_with("0x");
        Value::Number { value, hex }
    })
}

fn matched(attribute: &'static Attribute) -> impl Strategy<Value = Option<AttributeTest>> {
    let value = prop_oneof![9 => literal(attribute.kind), 1 => access().prop_map(Value::Variable)];
    proptest::option::of((value, any::<bool>())).prop_map(move |found| {
        found.map(|(value, negated)| AttributeTest { attribute, negated, value, span: Span::default() })
    })
}

/// Companions have the sign of what they belong to, and ports have their protocol.
fn settled(protocol: &'static Protocol, mut matches: Vec<AttributeTest>) -> Vec<AttributeTest> {
    for index in 0..matches.len() {
        if let AttributeRole::MaskOf(base) | AttributeRole::EndOf(base) = matches[index].attribute.role {
            let base = matches.iter().find(|found| found.attribute.name == base);
            matches[index].negated = base.is_some_and(|base| base.negated);
        }
    }
    if matches!(protocol.name, "ip" | "ipv6") {
        match matches.iter_mut().find(|found| found.attribute.role == AttributeRole::UpperProtocol) {
            Some(found) => found.value = Value::Number { value: 17, hex: false },
            None => matches.retain(|found| !found.attribute.name.contains("port")),
        }
    }
    matches
}

fn rule() -> impl Strategy<Value = FilterRule> {
    let matches = proptest::option::weighted(0.9, 0..PROTOCOLS.len()).prop_flat_map(|protocol| {
        let Some(protocol) = protocol else {
            return Just((None, Vec::new())).boxed();
        };
        let protocol = &PROTOCOLS[protocol];
        let slots: Vec<_> = protocol.attributes().map(|attribute| matched(attribute).boxed()).collect();
        slots
            .prop_map(move |found| (Some(protocol), settled(protocol, found.into_iter().flatten().collect())))
            .boxed()
    });
    (select(ACTIONS), select(DIRECTIONS), -1000..=1000i32, any::<bool>(), matches).prop_map(
        |((_, action), (_, direction), priority, statematch, (protocol, matches))| FilterRule {
            action,
            direction,
            priority,
            statematch,
            protocol,
            matches,
            span: Span::default(),
        },
    )
}

fn params() -> impl Strategy<Value = Vars> {
    btree_map("[A-Za-z0-9_]{1,6}", vec("[A-Za-z0-9_.:]{1,12}", 1..4), 0..4).prop_map(Vars)
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        4 => rule().prop_map(|rule| Entry::Rule(Arc::new(rule))),
        1 => ("[^\\p{C}./][\t\n\r[^\\p{C}/]]{0,20}", params())
            .prop_map(|(filter, vars)| Entry::Include(Include { filter, params: Params { vars: vars.into(), ..Params::default() }, span: Span::default() })),
    ]
}

fn filter() -> impl Strategy<Value = Filter> {
    let chain = prop_oneof![
        Just("root".to_owned()),
        (select(CHAINS), "[A-Za-z0-9_.:-]{0,8}").prop_map(|((prefix, _), rest)| format!("{prefix}{rest}")),
    ];
    let name = "[^\\p{C}./][^\\p{C}/]{0,30}";
    let priority = prop_oneof![4 => -1000..=1000i32, 1 => Just(0)];
    (name, chain, priority, any::<Option<u128>>(), vec(entry(), 0..6)).prop_map(
        |(name, chain, priority, uuid, entries)| Filter {
            name,
            chain,
            priority,
            uuid: uuid.map(Uuid::from_u128),
            entries,
            unenforced: Vec::new(),
            source: Source::new("", ""),
        },
    )
}

/// All of a filter but its places.
fn plain(filter: &Filter) -> String {
    let entries: Vec<String> = filter.entries.iter().map(plain_entry).collect();
    let Filter { name, chain, priority, uuid, .. } = filter;
    format!("{name:?} {chain} {priority} {uuid:?}\n{}", entries.join("\n"))
}

fn plain_entry(entry: &Entry) -> String {
    match entry {
        Entry::Include(Include { filter, params, .. }) => format!("{filter:?} {:?}", params.vars),
        Entry::Rule(rule) => {
            let FilterRule { action, direction, priority, statematch, .. } = **rule;
            let matches: Vec<String> = rule
                .matches
                .iter()
                .map(|found| format!("{} {} {:?}", found.attribute.name, found.negated, found.value))
                .collect();
            let protocol = rule.protocol.map(|protocol| protocol.name);
            format!("{action:?} {direction:?} {priority} {statematch} {protocol:?} {matches:?}")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_reads_as_it_was_written(filter in filter()) {
        let text = write(&filter);
        let (again, warnings) = read(&Source::new("f.xml", text.as_str())).map_err(|faults| {
            TestCaseError::fail(format!("{faults:?}\n{text}"))
        })?;
        prop_assert_eq!(plain(&again), plain(&filter));
        prop_assert!(again.unenforced.is_empty(), "{warnings:?}");
        prop_assert_eq!(write(&again), text);
        let (file, _) = read(&Source::new("f.xml", file_text(&filter))).unwrap();
        prop_assert_eq!(plain(&file), plain(&filter));
    }

    #[test]
    fn every_value_reads_as_it_prints(text in "\\PC{0,40}", row in 0..200usize) {
        let rows: Vec<_> = PROTOCOLS.iter().flat_map(|protocol| protocol.attributes()).collect();
        let kind = rows[row % rows.len()].kind;
        if let Some(value) = parse(kind, &text) {
            let printed = print(kind, &value);
            let again = parse(kind, &printed).expect("what prints can be read");
            prop_assert_eq!(print(kind, &again), printed);
        }
    }

    #[test]
    fn what_the_schema_allows_is_printed_as_the_schema_allows(filter in filter()) {
        // Attributes on their own, which the schema does not allow, and forms that are read all the same.
        let mut filter = filter;
        for entry in &mut filter.entries {
            if let Entry::Include(include) = entry {
                include.filter.retain(|c| !c.is_control());
            }
            if let Entry::Rule(rule) = entry {
                let rule = Arc::make_mut(rule);
                rule.matches.retain(|found| !found.negated && is_plain(&found.value));
                let names: Vec<_> = rule.matches.iter().map(|found| found.attribute.name).collect();
                let protocol = rule.protocol;
                rule.matches.retain(|found| {
                    needed(protocol.unwrap(), found.attribute).is_none_or(|base| names.contains(&base))
                });
            }
        }
        let text = write(&filter);
        let faults = validate(&Source::new("f.xml", text.as_str()));
        prop_assert!(faults.is_ok(), "{faults:?}\n{text}");
    }

    #[test]
    fn a_binding_reads_as_it_was_written(
        owner in "[\t\n\r[^\\p{C}]]{1,30}",
        uuid in any::<u128>(),
        portdev in "[äöa-z][!-.0-9;-~]{0,13}",
        linkdev in proptest::option::of("[a-z][!-.0-9;-~]{0,14}"),
        mac in any::<[u8; 6]>(),
        name in "[\t\n\r[^\\p{C}]]{1,30}",
        params in params(),
    ) {
        let binding = Binding {
            owner_name: owner,
            owner_uuid: Uuid::from_u128(uuid),
            portdev,
            linkdev,
            mac: Mac(mac),
            filter: name,
            params,
            spans: Default::default(),
            dropped: Vec::new(),
            source: Source::new("", ""),
            filter_span: Span::default(),
        };
        let text = binding::write(&binding);
        let (again, warnings) = binding::read(&Source::new("b.xml", text.as_str())).unwrap();
        let status = binding::read_status(&Source::new("s.xml", binding::write_status(&binding))).unwrap();
        prop_assert!(warnings.is_empty());
        for again in [again, status] {
            prop_assert_eq!(binding::write(&again), text.as_str());
            prop_assert_eq!(&again.owner_name, &binding.owner_name);
            prop_assert_eq!(&again.portdev, &binding.portdev);
            prop_assert_eq!(&again.filter, &binding.filter);
            prop_assert_eq!(&again.params, &binding.params);
        }
    }
}

/// Whether a value has a form that the schema allows, and not only one that libvirt prints.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::States(bits) => *bits != 0,
        Value::Text(text) => !text.is_empty() && !text.contains(char::is_control),
        Value::Ipv6(_, zone) => zone.is_none(),
        _ => true,
    }
}
