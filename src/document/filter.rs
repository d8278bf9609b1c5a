//! The typed model of a network filter: what `<filter>` says, as it was entered.
//!
//! Reading and writing are in [`read`] and [`write`](mod@write); both follow the attribute table in [`schema`].
//! The model keeps what dumpxml must print again (number bases, negation, order), and a span for
//! everything that can be wrong. It does not know what a rule compiles to.

pub mod read;
pub mod reference;
pub mod schema;
pub mod strict;
pub mod validate;
pub mod value;
pub mod write;

use crate::document::diag::Diagnostic;
use crate::document::mac::Mac;
use crate::document::span::{Source, Span};
use crate::document::vars::Access;
use schema::{Attribute, Protocol};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use uuid::Uuid;

/// A network filter document.
#[derive(Clone, Debug)]
pub struct Filter {
    /// `@name`.
    pub name: String,
    /// `@chain`, `root` by default.
    pub chain: String,
    /// `@priority` of the chain, or the default of its kind.
    pub priority: i32,
    /// `<uuid>`; none where the document has none (the store gives it one).
    pub uuid: Option<Uuid>,
    /// Rules and references in document order.
    pub entries: Vec<Entry>,
    /// What the document says and no rule would enforce. A filter that has any is kept, and bound to nothing.
    pub unenforced: Vec<Diagnostic>,
    /// The document it was read from.
    pub source: Arc<Source>,
}

/// A child of `<filter>`.
#[derive(Clone, Debug)]
pub enum Entry {
    /// `<rule>`.
    Rule(Arc<FilterRule>),
    /// `<filterref>`.
    Include(Include),
}

/// `<filterref filter=NAME>` with its parameters.
#[derive(Clone, Debug)]
pub struct Include {
    /// The filter referred to.
    pub filter: String,
    /// Its parameters; those of the referring side win over them.
    pub params: read::Params,
    /// Of the `filter` attribute's value.
    pub span: Span,
}

/// `<rule>`.
#[derive(Clone, Debug)]
pub struct FilterRule {
    /// What happens to a frame that matches.
    pub action: RuleAction,
    /// Which frames it looks at.
    pub direction: RuleDirection,
    /// `@priority`, 500 by default, within [-1000, 1000].
    pub priority: i32,
    /// False where `statematch` turns connection tracking off.
    pub statematch: bool,
    /// The protocol element, if there is one; without it the rule matches every frame.
    pub protocol: Option<&'static Protocol>,
    /// The attributes of the protocol element in table order.
    pub matches: Vec<AttributeTest>,
    /// Of the `<rule>` element.
    pub span: Span,
}

/// One attribute of a protocol element.
#[derive(Clone, Debug)]
pub struct AttributeTest {
    /// Its row in the table.
    pub attribute: &'static Attribute,
    /// Whether its element says `match='no'`, as entered.
    pub negated: bool,
    /// Its value.
    pub value: Value,
    /// Of the attribute's value.
    pub span: Span,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Any attribute can be a variable.
    Variable(Access),
    /// A number, and whether it was entered in hexadecimal.
    Number {
        /// The number.
        value: u32,
        /// Entered, and printed, in hexadecimal.
        hex: bool,
    },
    /// A MAC address or a MAC mask.
    Mac(Mac),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address; a zone is kept for printing, no frame carries it.
    Ipv6(Ipv6Addr, Option<String>),
    /// A mask, entered as a prefix length or dotted.
    Prefix(u8),
    /// `gratuitous`.
    Bool(bool),
    /// A comment or the name of an ipset.
    Text(String),
    /// Connection states: bits of [`state`].
    States(u8),
    /// TCP flags: which ones are looked at, and which of these are set.
    TcpFlags {
        /// The flags looked at.
        mask: u8,
        /// The flags that are set.
        flags: u8,
    },
    /// `ipsetflags`: for each dimension of the set the side it is taken from.
    Sides(Vec<AddressEnd>),
}

/// Bits of [`Value::States`].
pub mod state {
    /// `NEW`.
    pub const NEW: u8 = 1;
    /// `ESTABLISHED`.
    pub const ESTABLISHED: u8 = 2;
    /// `RELATED`.
    pub const RELATED: u8 = 4;
    /// `INVALID`.
    pub const INVALID: u8 = 8;
    /// `NONE`: no connection tracking for this rule; overrides the others.
    pub const NONE: u8 = 16;
}

/// One side of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressEnd {
    /// `src`.
    Source,
    /// `dst`.
    Destination,
}

/// `@action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleAction {
    /// Refused in silence.
    Drop,
    /// Let through this layer.
    Accept,
    /// Refused with an answer where the hook can give one.
    Reject,
    /// Back to the chain that jumped here.
    Return,
    /// On with the next rule.
    Continue,
}

/// `@direction`, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleDirection {
    /// To the guest.
    In,
    /// From the guest.
    Out,
    /// Both.
    InOut,
}

/// Filters are the same that were read from the same document and are known by the same UUID.
impl PartialEq for Filter {
    fn eq(&self, other: &Filter) -> bool {
        self.uuid == other.uuid && self.source == other.source
    }
}

impl Eq for Filter {}

impl Filter {
    /// The same, to be bound without what no rule would enforce, as libvirt binds it.
    pub fn tolerated(mut self) -> Filter {
        self.unenforced.clear();
        for entry in &mut self.entries {
            if let Entry::Include(include) = entry {
                include.params.dropped.clear();
            }
        }
        self
    }

    /// The same, of a document that is called so.
    pub fn of_document(mut self, name: impl Into<String>) -> Filter {
        let source = Source::new(name, self.source.text.as_str());
        let dropped = self.entries.iter_mut().flat_map(|entry| match entry {
            Entry::Include(include) => &mut include.params.dropped[..],
            Entry::Rule(_) => &mut [],
        });
        let faults = self.unenforced.iter_mut().chain(dropped.map(|(_, fault)| fault));
        let places = faults.filter_map(|fault| fault.place.as_mut());
        places.for_each(|place| place.source = Arc::clone(&source));
        Filter { source, ..self }
    }

    /// The parameters of references that could not be read.
    pub fn dropped(&self) -> impl Iterator<Item = &Diagnostic> {
        self.entries
            .iter()
            .flat_map(|entry| match entry {
                Entry::Include(include) => &include.params.dropped[..],
                Entry::Rule(_) => &[],
            })
            .map(|(_, fault)| fault)
    }

    /// All that libvirt leaves out of the document.
    pub fn left_out(&self) -> impl Iterator<Item = &Diagnostic> {
        self.unenforced.iter().chain(self.dropped())
    }

    /// The names of the filters it refers to, in order, with repetitions.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Include(include) => Some(include.filter.as_str()),
            Entry::Rule(_) => None,
        })
    }
}

/// Every action with its name.
pub const ACTIONS: &[(&str, RuleAction)] = &[
    ("drop", RuleAction::Drop),
    ("accept", RuleAction::Accept),
    ("reject", RuleAction::Reject),
    ("return", RuleAction::Return),
    ("continue", RuleAction::Continue),
];

/// Every direction with its name.
pub const DIRECTIONS: &[(&str, RuleDirection)] =
    &[("in", RuleDirection::In), ("out", RuleDirection::Out), ("inout", RuleDirection::InOut)];

impl RuleAction {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        named(ACTIONS, self)
    }
}

impl RuleDirection {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        named(DIRECTIONS, self)
    }
}

fn named<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    let row = table.iter().find(|(_, other)| *other == value);
    row.expect("the table has a row for every value").0
}
