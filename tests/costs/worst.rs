//! Inputs that are as bad as we could think of, by their size.

use nwfilter::document::binding;
use nwfilter::document::diag::render;
use nwfilter::document::filter::{read, validate};
use nwfilter::document::mac::Mac;
use nwfilter::document::span::Source;
use nwfilter::document::standard::STANDARD;
use nwfilter::engine::api::Request;
use nwfilter::engine::documents::{self, Validation};
use nwfilter::engine::{Context, State};
use nwfilter::guest::link::{Link, LinkKind};
use nwfilter::program::compile::Capabilities;
use nwfilter::ruleset::firewall::{Firewall, Policy};
use std::fmt::Write;
use std::time::Duration;
use uuid::Uuid;

/// A kind of document, and how one of about so many bytes is made.
pub type Worst = (&'static str, fn(usize) -> String);

/// Documents whose reading could cost more than their size.
pub const DOCUMENTS: &[Worst] = &[
    ("namespaces, one below the other", |bytes| nest(bytes / 30, |n| format!("<a xmlns:b{n}='u{n}'>"))),
    ("namespaces, beside each other", |bytes| {
        filter((0..bytes / 25).map(|n| format!("<a xmlns:b{n}='u{n}'/>")))
    }),
    ("namespaces, many around many", |bytes| {
        let outer: String = (0..12)
            .map(|level| format!("<a{}>", numbered(60, |n| format!(" xmlns:b{level}x{n}='u'"))))
            .collect();
        let inner = "<a xmlns:c='u'/>".repeat(bytes / 16);
        filter([format!("{outer}{inner}{}", "</a>".repeat(12))])
    }),
    ("one long namespace of many elements", |bytes| {
        format!("<filter name='f' xmlns='{}'>{}</filter>", "u".repeat(bytes / 2), "<a/>".repeat(bytes / 8))
    }),
    ("a quote that is none before many attributes", |bytes| {
        format!("<?x \"?><filter name='f' {}/>", numbered(bytes / 12, |n| format!(" a{n}=''")))
    }),
    ("attributes of one element", |bytes| {
        format!("<filter name='f' {}/>", numbered(bytes / 12, |n| format!(" a{n}=''")))
    }),
    ("elements, one below the other", |bytes| nest(bytes / 7, |_| "<a>".into())),
    ("unknown elements", |bytes| filter([("<q/>").repeat((bytes / 4).min(190_000))])),
    ("unknown attributes", |bytes| {
        let rule = format!("<rule action='drop' direction='in'{}/>", numbered(60, |n| format!(" a{n}=''")));
        filter([rule.repeat(bytes / rule.len())])
    }),
    ("unknown attributes of a long name", |bytes| {
        filter([format!("<{}{}/>", "q".repeat(bytes - 600), numbered(60, |n| format!(" a{n}=''")))])
    }),
    ("wrong values", |bytes| {
        let rule = "<rule action='drop' direction='in'><mac srcmacaddr='x'/></rule>";
        filter([rule.repeat((bytes / rule.len()).min(read::ENTRIES))])
    }),
    ("texts", |bytes| filter(["x<!---->".repeat((bytes / 8).min(90_000))])),
    ("pieces of a text", |bytes| filter([format!("<uuid>{}</uuid>", "<![CDATA[x]]>".repeat(bytes / 13))])),
    ("UUIDs", |bytes| filter(["<uuid>x</uuid>".repeat((bytes / 14).min(90_000))])),
    ("wrong parameters of a binding", |bytes| {
        bound("guest0", "f", &"<parameter name='a b' value='c d'/>".repeat(bytes / 35))
    }),
    ("variables of a binding", |bytes| {
        bound("guest0", "f", &numbered(bytes / 35, |n| format!("<parameter name='V{n}' value='1'/>")))
    }),
    ("rules", |bytes| {
        let rule = "<rule action='drop' direction='in'><tcp srcipaddr='$IP'/></rule>";
        filter([rule.repeat((bytes / rule.len()).min(read::ENTRIES))])
    }),
];

fn numbered(count: usize, piece: impl Fn(usize) -> String) -> String {
    (0..count).map(piece).collect()
}

fn nest(count: usize, open: impl Fn(usize) -> String) -> String {
    filter([format!("{}{}", numbered(count, open), "</a>".repeat(count))])
}

fn filter(inner: impl IntoIterator<Item = String>) -> String {
    named("f", &inner.into_iter().collect::<String>())
}

/// A filter with its UUID made of its name.
pub fn named(name: &str, inner: &str) -> String {
    format!("<filter name='{name}'>{inner}</filter>")
}

/// A binding with these parameters. The number of the guest, where its port's name ends with one, is in its MAC address.
pub fn bound(port: &str, filter: &str, params: &str) -> String {
    let mac = mac_of(port.trim_start_matches("guest").parse().unwrap_or(1));
    format!(
        "<filterbinding><owner><name>g</name><uuid>{}</uuid></owner><portdev name='{port}'/>\
         <mac address='{mac}'/><filterref filter='{filter}'>{params}</filterref></filterbinding>",
        Uuid::nil()
    )
}

/// Reads a document in every way that there is, and reports its faults to people and clients. How many bytes they get.
pub fn read_all(text: &str) -> usize {
    let source = Source::new("worst.xml", text);
    let reported = [
        read::read(&source).map(drop),
        validate::validate(&source),
        binding::read(&source).map(drop),
        binding::validate::validate(&source),
    ];
    let faults = reported.into_iter().filter_map(Result::err);
    let length = |faults: Vec<_>| render(&faults).len() + documents::error(&faults).message.len();
    let strict = [
        documents::read_filter(text, Validation::Schema).err(),
        documents::read_binding(text, Validation::Schema).err(),
    ];
    faults.map(length).sum::<usize>()
        + strict.into_iter().flatten().map(|error| error.message.len()).sum::<usize>()
}

/// A host with so many guests' taps, of a bridge, and libvirt's standard filters.
pub fn host(guests: u32) -> State {
    let policy = Policy::new(Capabilities::ALL);
    let filters = STANDARD.iter().map(|(name, text)| {
        let mut filter = read::read(&Source::new(*name, *text)).expect("they are sound").0;
        filter.uuid = Some(Uuid::new_v4());
        std::sync::Arc::new(filter)
    });
    let firewall = Firewall::new(policy).define(filters).expect("they are sound");
    let bridge =
        Link { index: 1, name: "br0".into(), kind: LinkKind::Bridge, master: None, mac: None, up: true };
    let tap = |n| Link {
        index: 10 + n,
        name: format!("guest{n}"),
        kind: LinkKind::Tap,
        master: Some(1),
        ..bridge.clone()
    };
    State::restore(firewall, [], (0..guests).map(tap).chain([bridge.clone()]), Duration::ZERO)
}

/// The state after a filter is defined.
pub fn define(state: &State, text: &str) -> Result<State, String> {
    ask(state, Request::DefineFilter { xml: text.into(), flags: 0 })
}

/// The state after a binding is applied.
pub fn apply(state: &State, text: &str) -> Result<State, String> {
    ask(state, Request::Apply { xml: text.into() })
}

/// The state after a client of libvirt's has bound an interface: variables that no rule reads are none of its business.
pub fn create(state: &State, text: &str) -> Result<State, String> {
    ask(state, Request::CreateBinding { xml: text.into(), flags: 0 })
}

fn ask(state: &State, request: Request) -> Result<State, String> {
    let context = Context { now: Duration::ZERO, fresh: Uuid::new_v4() };
    state.request(&request, context).map(|change| change.next).map_err(|error| error.message)
}

/// So many addresses as parameters.
pub fn addresses(count: usize) -> String {
    numbered(count, |n| {
        format!("<parameter name='IP' value='10.{}.{}.{}'/>", n >> 16 & 255, n >> 8 & 255, n & 255)
    })
}

/// So many variables that no rule reads.
pub fn variables(count: usize) -> String {
    numbered(count, |n| format!("<parameter name='V{n}' value='1'/>"))
}

/// So many references that each bring a parameter.
pub fn references(count: usize) -> String {
    let reference = "<filterref filter='no-mac-spoofing'><parameter name='V' value='1'/></filterref>";
    named("references", &reference.repeat(count))
}

/// So many rules, distinguished by a number.
pub fn rules(name: &str, count: usize, number: usize) -> String {
    let mut inner = format!("<uuid>{}</uuid>", Uuid::from_u128(0x1234));
    for n in 0..count {
        let (high, low) = (n >> 8, n & 255);
        write!(
            inner,
            "<rule action='drop' direction='out'><tcp srcipaddr='$IP' dstipaddr='10.{high}.{low}.{number}' dstportstart='{n}'/></rule>"
        )
        .expect("a string takes everything");
    }
    named(name, &inner)
}

/// The address of a guest as a parameter.
pub fn address_of(guest: u32) -> String {
    format!(
        "<parameter name='IP' value='10.9.{}.{}'/><parameter name='MAC' value='{}'/>",
        guest >> 8,
        guest & 255,
        mac_of(guest)
    )
}

fn mac_of(guest: u32) -> Mac {
    let [.., high, low] = guest.to_be_bytes();
    Mac([0x52, 0x54, 0, 0, high, low])
}
