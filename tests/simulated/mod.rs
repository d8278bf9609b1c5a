//! A guest bound to a filter, without a kernel: its program, the elements its variables give, and frames to try.
#![allow(dead_code, reason = "each test file needs another part of it")]

use nwfilter::document::diag::Diagnostic;
use nwfilter::document::filter::{Filter, read::read};
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::program::Program;
use nwfilter::program::compile::{Capabilities, HostToGuest, Options, Part, compile_part};
use nwfilter::program::eval::{Connection, End, Evaluator, Frame, Port};
use nwfilter::program::ir::{Bytes, Name, concat};
use nwfilter::program::resolve::{Mode, Resolved, resolve, slot_values};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The index of the guest's interface; the other side has index 1.
const INDEX: u32 = 7;

pub const ABLE: Options =
    Options { features: Capabilities::ALL, counters: false, host_to_guest: HostToGuest::Filter };

pub struct Guest {
    pub program: Program,
    sets: BTreeMap<Name, BTreeSet<Bytes>>,
}

/// Filters by name, as they are read from texts.
pub struct Shelf(BTreeMap<String, Arc<Filter>>);

impl Shelf {
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Shelf {
        let filters = texts.iter().map(|text| {
            let source = Source::new("test.xml", text.as_ref());
            let (filter, _) = read(&source).unwrap_or_else(|faults| panic!("{}: {faults:?}", text.as_ref()));
            (filter.name.clone(), Arc::new(filter))
        });
        Shelf(filters.collect())
    }

    pub fn filter(&self, name: &str) -> Option<Arc<Filter>> {
        self.0.get(name).cloned()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn resolve(&self, root: &str, vars: &Vars, mode: Mode) -> Result<Resolved, Vec<Diagnostic>> {
        resolve(&|name| self.filter(name), root, vars, mode)
    }
}

pub fn vars(pairs: &[(&str, &str)]) -> Vars {
    let mut vars = Vars::default();
    pairs.iter().for_each(|(name, value)| vars.push(*name, *value));
    vars
}

/// A filter `f` with this body.
pub fn filter(body: &str) -> String {
    format!("<filter name='f'>{body}</filter>")
}

impl Guest {
    pub fn new(shelf: &Shelf, root: &str, vars: &Vars, mode: Mode, options: &Options) -> Guest {
        let resolved = shelf.resolve(root, vars, mode).unwrap_or_else(|faults| panic!("{faults:?}"));
        Guest::resolved(&resolved, vars, options)
    }

    pub fn resolved(resolved: &Resolved, vars: &Vars, options: &Options) -> Guest {
        Guest::part(resolved, vars, options, Part::Whole).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    /// With a part of the program.
    pub fn part(
        resolved: &Resolved,
        vars: &Vars,
        options: &Options,
        part: Part,
    ) -> Result<Guest, Vec<Diagnostic>> {
        let program = compile_part(resolved, options, part)?;
        let index = INDEX.to_ne_bytes();
        let elements = |slot| {
            let values = slot_values(slot, vars).expect("values were read before");
            let key = |tuple: Vec<Bytes>| {
                let parts: Vec<&[u8]> =
                    std::iter::once(&index[..]).chain(tuple.iter().map(|part| &**part)).collect();
                concat(&parts)
            };
            values.into_iter().map(key).collect()
        };
        let sets = program.slots.iter().map(|slot| (slot.set_name(), elements(slot))).collect();
        Ok(Guest { program, sets })
    }

    /// Bound to one filter.
    pub fn of(body: &str, values: &[(&str, &str)]) -> Guest {
        Guest::new(&Shelf::new(&[filter(body)]), "f", &vars(values), Mode::Slots, &ABLE)
    }

    /// For one frame; who has many makes a [`Judge`] once.
    pub fn end(&self, way: &str, bytes: &[u8], connection: Option<Connection>) -> Option<End> {
        self.judge().end(way, bytes, connection)
    }

    pub fn judge(&self) -> Judge<'_> {
        Judge(Evaluator::of_program(&self.program, &self.sets))
    }

    pub fn passes(&self, way: &str, bytes: &[u8]) -> bool {
        self.end(way, bytes, None).expect("every walk ends") == End::Accept
    }
}

/// The evaluator, ready for a guest's frames.
pub struct Judge<'a>(pub Evaluator<'a>);

impl Judge<'_> {
    pub fn end(&self, way: &str, bytes: &[u8], connection: Option<Connection>) -> Option<End> {
        let (iif, oif) = if way == "out" { (INDEX, 1) } else { (1, INDEX) };
        let port = |index| Port { index, name: "" };
        let tracking = connection.into();
        self.0.judge(way, Frame { bytes, iif: port(iif), oif: port(oif), tracking, ..Frame::default() })
    }
}

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x22, 0x33];
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub fn ether(destination: [u8; 6], source: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &ether_type.to_be_bytes(), payload].concat()
}

/// The same frame with a tag.
pub fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &vlan.to_be_bytes(), &frame[12..]].concat()
}

pub fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    fragment(source, destination, protocol, 0, payload)
}

/// An IPv4 packet whose payload begins at this multiple of eight bytes of the whole.
pub fn fragment(source: [u8; 4], destination: [u8; 4], protocol: u8, offset: u16, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len() as u16).to_be_bytes();
    let offset = offset.to_be_bytes();
    let head = [0x45, 0, length[0], length[1], 0, 1, offset[0], offset[1], 64, protocol, 0, 0];
    [&head[..], &source, &destination, payload].concat()
}

pub fn ipv6(source: [u8; 16], destination: [u8; 16], next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &source, &destination, payload].concat()
}

pub fn udp(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 1, 0, 0, 0, 0, 0]].concat()
}

pub fn arp(operation: u8, sender: ([u8; 6], [u8; 4]), target: ([u8; 6], [u8; 4])) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &sender.0, &sender.1, &target.0, &target.1].concat()
}
