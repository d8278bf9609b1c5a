//! What libvirt checks before its driver sees a call: may this connection change anything, are the flags known.
//!
//! One table has it all; the texts are libvirt's, down to the names of its functions.

use super::procedure;
use super::proto::{self, COMMAND, Header};
use crate::engine::api::Request;
use crate::engine::error::Error;

/// What libvirt checks before its driver sees a call.
struct Check {
    procedure: i32,
    /// The API function that changes something, where it does.
    write: Option<&'static str>,
    /// The driver function that looks at flags, and those it knows.
    flags: Option<(&'static str, u32)>,
}

/// Refuses a call that changes something.
pub fn read_only(head: &Header) -> Result<(), Error> {
    let function = match (head.program, head.procedure) {
        (COMMAND, proto::command::STATUS | proto::command::BOUND) => None,
        (COMMAND, proto::command::APPLY) => Some("nwfilter apply"),
        // It works as hard as what it is about.
        (COMMAND, proto::command::PLAN) => Some("nwfilter plan"),
        (COMMAND, proto::command::REMOVE) => Some("nwfilter remove"),
        (COMMAND, proto::command::DEFINE) => Some("nwfilter define"),
        (COMMAND, proto::command::UNDEFINE) => Some("nwfilter undefine"),
        (COMMAND, _) => Some("nwfilter ipset"),
        (_, procedure) => CHECKS.iter().find(|it| it.procedure == procedure).and_then(|it| it.write),
    };
    function.map_or(Ok(()), |function| Err(Error::read_only(function)))
}

/// Refuses flags and numbers that libvirt's driver would refuse.
pub fn known_flags(head: &Header, request: &Request) -> Result<(), Error> {
    let flags = match request {
        Request::ListFilterNames { max: usize::MAX } => {
            return Err(Error::rpc("maxnames must be non-negative"));
        }
        Request::ListFilterNames { max } if *max > proto::LIST_MAX => {
            return Err(Error::rpc("maxnames > REMOTE_NWFILTER_LIST_MAX"));
        }
        Request::ListAllFilters { flags, .. }
        | Request::FilterXml { flags, .. }
        | Request::DefineFilter { flags, .. }
        | Request::ListAllBindings { flags, .. }
        | Request::BindingXml { flags, .. }
        | Request::CreateBinding { flags, .. } => *flags,
        _ => return Ok(()),
    };
    let check = CHECKS.iter().find(|check| check.procedure == head.procedure);
    match check.and_then(|check| check.flags) {
        Some((function, known)) if flags & !known != 0 => {
            Err(Error::unsupported_flags(function, flags & !known))
        }
        _ => Ok(()),
    }
}

const CHECKS: [Check; 9] = [
    Check { procedure: procedure::GET_XML_DESC, write: None, flags: Some(("nwfilterGetXMLDesc", 0)) },
    Check { procedure: procedure::DEFINE_XML, write: Some("virNWFilterDefineXML"), flags: None },
    Check { procedure: procedure::UNDEFINE, write: Some("virNWFilterUndefine"), flags: None },
    Check {
        procedure: procedure::LIST_ALL_FILTERS,
        write: None,
        flags: Some(("nwfilterConnectListAllNWFilters", 0)),
    },
    Check {
        procedure: procedure::BINDING_GET_XML_DESC,
        write: None,
        flags: Some(("nwfilterBindingGetXMLDesc", 0)),
    },
    Check {
        procedure: procedure::BINDING_CREATE_XML,
        write: Some("virNWFilterBindingCreateXML"),
        flags: Some(("nwfilterBindingCreateXML", 1)),
    },
    Check { procedure: procedure::BINDING_DELETE, write: Some("virNWFilterBindingDelete"), flags: None },
    Check {
        procedure: procedure::LIST_ALL_BINDINGS,
        write: None,
        flags: Some(("nwfilterConnectListAllNWFilterBindings", 0)),
    },
    Check {
        procedure: procedure::DEFINE_XML_FLAGS,
        write: Some("virNWFilterDefineXMLFlags"),
        flags: Some(("nwfilterDefineXMLFlags", 1)),
    },
];
