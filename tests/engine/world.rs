//! A state and what clients, links and the clock do to it, in the words of the tests.

use nwfilter::document::binding::{self, Binding};
use nwfilter::document::filter::{Filter, read};
use nwfilter::document::mac::Mac;
use nwfilter::document::span::Source;
use nwfilter::engine::api::{Reply, Request};
use nwfilter::engine::error::Error;
use nwfilter::engine::{Change, Context, State, Write};
use nwfilter::guest::link::{Link, LinkEvent, LinkKind, MacvtapMode};
use nwfilter::program::compile;
use nwfilter::program::ir::Family;
use nwfilter::ruleset::firewall::{Firewall, Policy};
use nwfilter::ruleset::layout::{self, DispatchTarget};
use nwfilter::ruleset::plan::{self, Plan};
use std::time::Duration;
use uuid::Uuid;

pub const GRACE: Duration = Duration::from_secs(1);

/// Drops what does not come from the guest's own address, and some more, so that versions differ.
pub fn guard(name: &str, version: u8) -> String {
    format!(
        "<filter name='{name}'><uuid>{}</uuid><rule action='drop' direction='out'>\
         <mac match='no' srcmacaddr='$MAC'/></rule><rule action='drop' direction='in'>\
         <mac protocolid='0x{:04x}'/></rule></filter>",
        uuid(name),
        0x9000 + u32::from(version),
    )
}

/// Refers to others.
pub fn tree(name: &str, to: &[&str]) -> String {
    let references: String = to.iter().map(|to| format!("<filterref filter='{to}'/>")).collect();
    format!("<filter name='{name}'><uuid>{}</uuid>{references}</filter>", uuid(name))
}

/// Reads a variable that no binding here has.
pub fn needy(name: &str) -> String {
    format!(
        "<filter name='{name}'><uuid>{}</uuid><rule action='drop' direction='out'>\
         <mac srcmacaddr='$OTHER'/></rule></filter>",
        uuid(name)
    )
}

/// Tracks connections.
pub fn stateful(name: &str) -> String {
    format!(
        "<filter name='{name}'><uuid>{}</uuid><rule action='accept' direction='out'><tcp state='NEW'/></rule>\
         <rule action='drop' direction='inout'><all/></rule></filter>",
        uuid(name)
    )
}

/// Every name has its own.
pub fn uuid(name: &str) -> Uuid {
    let mut bytes = [0x42; 16];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    Uuid::from_bytes(bytes)
}

pub fn bind(port: &str, filter: &str) -> String {
    format!(
        "<filterbinding><owner><name>vm</name><uuid>{}</uuid></owner><portdev name='{port}'/>\
         <mac address='52:54:00:00:00:01'/><filterref filter='{filter}'/></filterbinding>",
        uuid("vm")
    )
}

pub fn tap(index: u32, name: &str) -> Link {
    let mac = Some(Mac([0xfe, 0, 0, 0, 0, index as u8]));
    Link { index, name: name.into(), kind: LinkKind::Tap, master: None, mac, up: true }
}

pub const MACVTAP: LinkKind =
    LinkKind::Macvtap { mode: MacvtapMode::Bridge, lower: Some(1), lower_netns: None };

pub fn bridge(index: u32, name: &str) -> Link {
    Link { kind: LinkKind::Bridge, ..tap(index, name) }
}

pub fn policy(fold_up_to: usize) -> Policy {
    Policy { fold_up_to, ..Policy::new(compile::Capabilities::ALL) }
}

pub fn filter(xml: &str) -> Filter {
    read::read(&Source::new("file", xml)).unwrap().0
}

/// The state of the daemon, and its clock.
pub struct World {
    pub state: State,
    pub now: Duration,
}

impl World {
    pub fn new(filters: &[String]) -> World {
        World::with(policy(64), filters)
    }

    pub fn with(policy: Policy, filters: &[String]) -> World {
        let state = State::restore(Firewall::new(policy), [], [], GRACE);
        let mut world = World { state, now: Duration::ZERO };
        for xml in filters {
            world.define(xml).unwrap();
        }
        world
    }

    pub fn ask(&mut self, request: Request) -> Result<Change, Error> {
        let context = Context { now: self.now, fresh: Uuid::from_u128(0xf5e5) };
        let change = self.state.request(&request, context)?;
        self.state = change.next.clone();
        Ok(change)
    }

    pub fn define(&mut self, xml: &str) -> Result<Change, Error> {
        self.ask(Request::DefineFilter { xml: xml.into(), flags: 0 })
    }

    pub fn undefine(&mut self, name: &str) -> Result<Change, Error> {
        let uuid = self.state.firewall().filter(name).and_then(|filter| filter.uuid).unwrap_or(uuid(name));
        self.ask(Request::UndefineFilter { uuid })
    }

    pub fn create(&mut self, port: &str, filter: &str) -> Result<Change, Error> {
        self.ask(Request::CreateBinding { xml: bind(port, filter), flags: 0 })
    }

    pub fn delete(&mut self, port: &str) -> Result<Change, Error> {
        self.ask(Request::DeleteBinding { portdev: port.into() })
    }

    pub fn xml_of(&mut self, name: &str) -> String {
        let request = Request::FilterXml { uuid: uuid(name), flags: 0 };
        match self.ask(request).unwrap().reply {
            Reply::Xml(xml) => xml,
            other => panic!("{other:?}"),
        }
    }

    pub fn link(&mut self, event: LinkEvent) {
        self.state = self.state.link(&event).next;
    }

    pub fn appears(&mut self, link: &Link) {
        self.link(LinkEvent::Appeared(link.clone()));
    }

    pub fn changes(&mut self, old: &Link, new: &Link) {
        self.link(LinkEvent::Changed { old: old.clone(), new: new.clone() });
    }

    pub fn goes(&mut self, link: &Link) {
        self.link(LinkEvent::Gone(link.clone()));
    }

    pub fn time(&mut self, passed: Duration) {
        self.now += passed;
        self.state = self.state.expire(self.now).next;
    }

    /// The program an interface is led to, by its name and content.
    pub fn program(&self, index: u32) -> Option<String> {
        program(&self.state, index)
    }

    /// Whether a link of this name is blocked until it is bound.
    pub fn reserved(&self, name: &str) -> bool {
        let rules = self.state.firewall().ruleset();
        let mut key = [0; 16];
        key[..name.len()].copy_from_slice(name.as_bytes());
        rules.tables[&Family::Bridge].sets[layout::RESERVED].elements.contains_key(&key[..])
    }

    /// What must happen in the kernel to get here from there.
    pub fn plan_from(&self, before: &State) -> Plan {
        plan::plan(&before.firewall().ruleset(), &self.state.firewall().ruleset())
    }
}

pub fn program(state: &State, index: u32) -> Option<String> {
    let rules = state.firewall().ruleset();
    let find = |table| match layout::dispatch_target(table, index)? {
        DispatchTarget::Private(prefix) | DispatchTarget::Reversed(prefix) => Some(prefix.to_string()),
        DispatchTarget::Shared(name) => layout::target_of(table, &name).map(|prefix| prefix.to_string()),
    };
    rules.tables.values().find_map(find)
}

/// The binding in a document that was written.
pub fn written(write: &Write) -> Binding {
    match write {
        Write::SaveBinding(_, text) => binding::read_status(&Source::new("status", text.as_str())).unwrap(),
        other => panic!("{other:?}"),
    }
}
