//! The engine's API: requests about filters and bindings, and their replies, typed.
//!
//! No bytes, no sockets, no procedure numbers: those are the RPC's.

use crate::ruleset::ipset::IpsetVerb;
use uuid::Uuid;

/// What a client wants of the engine.
#[allow(missing_docs, reason = "fields are the arguments the variants name")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// How many filters there are: [`Reply::Count`].
    CountFilters,
    /// The names of at most `max` filters: [`Reply::Names`].
    ListFilterNames { max: usize },
    /// All filters: [`Reply::Filters`], or [`Reply::Count`] where only their number is asked for.
    ListAllFilters { need_results: bool, flags: u32 },
    /// [`Reply::Filter`].
    LookupFilterByName { name: String },
    /// [`Reply::Filter`].
    LookupFilterByUuid { uuid: Uuid },
    /// [`Reply::Xml`].
    FilterXml { uuid: Uuid, flags: u32 },
    /// Define or redefine (flag 1: validate against the schema first): [`Reply::Filter`].
    DefineFilter { xml: String, flags: u32 },
    /// [`Reply::Done`].
    UndefineFilter { uuid: Uuid },
    /// All bindings: [`Reply::Bindings`], or [`Reply::Count`] where only their number is asked for.
    ListAllBindings { need_results: bool, flags: u32 },
    /// [`Reply::Binding`].
    LookupBinding { portdev: String },
    /// [`Reply::Xml`].
    BindingXml { portdev: String, flags: u32 },
    /// Bind an interface (flag 1: validate against the schema first): [`Reply::Binding`].
    CreateBinding { xml: String, flags: u32 },
    /// [`Reply::Done`].
    DeleteBinding { portdev: String },
    /// The daemon's state: [`Reply::Json`].
    Status,
    /// What a bound interface is filtered by: [`Reply::Json`].
    Bound { portdev: String },
    /// Bind an interface for the command: [`Reply::Done`].
    Apply { xml: String },
    /// What `Apply` would change in the kernel, which stays as it is: [`Reply::Text`].
    Plan { xml: String },
    /// Release an interface for the command: [`Reply::Done`].
    Remove { portdev: String },
    /// Define or redefine filters by name, all of these documents (each with what it is called) or none: [`Reply::Json`].
    Define { documents: Vec<(String, String)> },
    /// Undefine the filter of a name: [`Reply::Done`].
    Undefine { name: String },
    /// Look at or change a named set of addresses: [`Reply::Names`].
    Ipset { name: String, verb: IpsetVerb, addresses: Vec<String> },
}

impl Request {
    /// Whether it only looks: it changes nothing, and is answered when there is nothing to change.
    pub fn is_look(&self) -> bool {
        match self {
            Request::CountFilters
            | Request::ListFilterNames { .. }
            | Request::ListAllFilters { .. }
            | Request::LookupFilterByName { .. }
            | Request::LookupFilterByUuid { .. }
            | Request::FilterXml { .. }
            | Request::ListAllBindings { .. }
            | Request::LookupBinding { .. }
            | Request::BindingXml { .. }
            | Request::Status
            | Request::Bound { .. }
            | Request::Plan { .. } => true,
            Request::DefineFilter { .. }
            | Request::UndefineFilter { .. }
            | Request::CreateBinding { .. }
            | Request::DeleteBinding { .. }
            | Request::Apply { .. }
            | Request::Remove { .. }
            | Request::Define { .. }
            | Request::Undefine { .. } => false,
            Request::Ipset { verb, .. } => *verb == IpsetVerb::List,
        }
    }

    /// What it asks for, in a word, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Request::CountFilters => "count-filters",
            Request::ListFilterNames { .. } => "list-filter-names",
            Request::ListAllFilters { .. } => "list-filters",
            Request::LookupFilterByName { .. } | Request::LookupFilterByUuid { .. } => "lookup-filter",
            Request::FilterXml { .. } => "filter-xml",
            Request::DefineFilter { .. } => "define-filter",
            Request::UndefineFilter { .. } => "undefine-filter",
            Request::ListAllBindings { .. } => "list-bindings",
            Request::LookupBinding { .. } => "lookup-binding",
            Request::BindingXml { .. } => "binding-xml",
            Request::CreateBinding { .. } => "create-binding",
            Request::DeleteBinding { .. } => "delete-binding",
            Request::Status => "status",
            Request::Bound { .. } => "bound",
            Request::Apply { .. } => "apply",
            Request::Plan { .. } => "plan",
            Request::Remove { .. } => "remove",
            Request::Define { .. } => "define",
            Request::Undefine { .. } => "undefine",
            Request::Ipset { .. } => "ipset",
        }
    }
}

/// What the engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// One filter.
    Filter(FilterId),
    /// All filters.
    Filters(Vec<FilterId>),
    /// One binding.
    Binding(BindingId),
    /// All bindings.
    Bindings(Vec<BindingId>),
    /// Names of filters, or addresses of a set.
    Names(Vec<String>),
    /// A number of filters or bindings.
    Count(usize),
    /// A document.
    Xml(String),
    /// The daemon's state.
    Json(String),
    /// Lines for people.
    Text(String),
    /// Done, and nothing to report.
    Done,
}

/// A filter as libvirt's clients hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterId {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
}

/// A binding as libvirt's clients hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingId {
    /// The interface that is bound.
    pub portdev: String,
    /// The name of the filter it is bound to.
    pub filter: String,
}
