//! libvirt's protocol as far as a network filter daemon speaks it: frames and their headers, the filter
//! calls (bytes to [`Request`]) and their results ([`Reply`] to bytes), and a program of our own.
//!
//! Procedure numbers, argument layouts and maxima are libvirt's (as of 12.8). Trailing bytes after the
//! arguments are ignored, as libvirt does. Nothing here knows a connection; [`super::session`] does.
//!
//! Our own program, [`COMMAND`], is what the command `nwfilter` asks a running daemon. Its number lies in
//! the range that RFC 5531 leaves to users and is none of libvirt's; version 1; strings and lists as above:
//!
//! | procedure | arguments | result |
//! | --- | --- | --- |
//! | 1 STATUS | | string json |
//! | 2 APPLY | string binding xml | |
//! | 3 REMOVE | string port device | |
//! | 4 IPSET | string set, u32 verb (0 list, 1 add, 2 delete, 3 flush), string addresses<65536> | string<> |
//! | 5 BOUND | string port device | string json |
//! | 6 PLAN | string binding xml | string text |
//! | 7 DEFINE | (string called, string filter xml)<1024> | string json |
//! | 8 UNDEFINE | string filter | |
//!
//! An error of this program has the diagnostics behind libvirt's fields ([`faults`]).

use super::faults;
use super::procedure;
use super::xdr::{Malformed, Reader, Writer};
use crate::document::xml::decode;
use crate::engine::api::{BindingId, FilterId, Reply, Request};
use crate::engine::error::Error;
use crate::ruleset::ipset::IpsetVerb;
use uuid::Uuid;

/// libvirt's main program.
pub const REMOTE: u32 = 0x2000_8086;
/// Pings and pongs.
pub const KEEPALIVE: u32 = 0x6b65_6570;
/// The program of the command `nwfilter`.
pub const COMMAND: u32 = 0x206e_7766;
/// The only version of all three programs.
pub const VERSION: u32 = 1;

/// Bytes before the body of a frame, the length word included.
pub const HEADER: usize = 28;
/// The longest frame libvirt accepts, the length word included.
pub const FRAME_MAX: usize = 33_554_436;
/// The longest string of a call or a result.
pub const STRING_MAX: usize = 4_194_304;
/// The longest list of filters or bindings.
pub const LIST_MAX: usize = 16_384;
/// The longest list of addresses in one IPSET call.
pub const ADDRESSES_MAX: usize = 65_536;

/// The longest list of documents in one DEFINE call.
pub const DOCUMENTS_MAX: usize = 1024;

/// What a frame is. Only the kinds a server must tell apart have a name.
pub mod kind {
    /// A call.
    pub const CALL: i32 = 0;
    /// The answer to a call.
    pub const REPLY: i32 = 1;
    /// Unsolicited: a ping, a pong.
    pub const MESSAGE: i32 = 2;
    /// A call whose arguments follow a count of file descriptors.
    pub const CALL_WITH_FDS: i32 = 4;
}

/// How a call went.
pub mod status {
    /// Well.
    pub const OK: i32 = 0;
    /// An error is the body.
    pub const ERROR: i32 = 1;
}

/// Procedures of [`REMOTE`] that are about the connection itself; the rest has its place in [`request`].
#[allow(missing_docs, reason = "the names are libvirt's own")]
pub mod remote {
    pub const OPEN: i32 = 1;
    pub const CLOSE: i32 = 2;
    pub const GET_TYPE: i32 = 3;
    pub const SUPPORTS_FEATURE: i32 = 60;
    pub const AUTH_LIST: i32 = 66;
    pub const AUTH_SASL_INIT: i32 = 67;
    pub const AUTH_POLKIT: i32 = 70;
    pub const GET_URI: i32 = 110;
    pub const IS_SECURE: i32 = 149;
    pub const GET_LIB_VERSION: i32 = 157;
    pub const REGISTER_CLOSE_CALLBACK: i32 = 360;
    pub const UNREGISTER_CLOSE_CALLBACK: i32 = 361;
    pub const SET_IDENTITY: i32 = 419;
}

/// Procedures of [`KEEPALIVE`].
pub mod keepalive {
    /// Are you there?
    pub const PING: i32 = 1;
    /// I am.
    pub const PONG: i32 = 2;
}

/// Procedures of [`COMMAND`].
pub mod command {
    /// What is bound and how it does, as JSON.
    pub const STATUS: i32 = 1;
    /// Bind an interface.
    pub const APPLY: i32 = 2;
    /// Release an interface.
    pub const REMOVE: i32 = 3;
    /// Look at or change a named set of addresses.
    pub const IPSET: i32 = 4;
    /// What a bound interface is filtered by, as JSON.
    pub const BOUND: i32 = 5;
    /// What binding an interface would change, for people.
    pub const PLAN: i32 = 6;
    /// Define filters by name.
    pub const DEFINE: i32 = 7;
    /// Undefine a filter by name.
    pub const UNDEFINE: i32 = 8;
}

/// The head of a frame, without its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Which program the procedure belongs to.
    pub program: u32,
    /// The version of that program.
    pub version: u32,
    /// What is called.
    pub procedure: i32,
    /// One of [`kind`], or what a client made up.
    pub kind: i32,
    /// Tells which call a reply belongs to.
    pub serial: u32,
    /// One of [`status`], or what a client made up.
    pub status: i32,
}

impl Header {
    /// Reads the six words after the length.
    pub fn read(from: &mut Reader) -> Result<Header, Malformed> {
        Ok(Header {
            program: from.u32()?,
            version: from.u32()?,
            procedure: from.i32()?,
            kind: from.i32()?,
            serial: from.u32()?,
            status: from.i32()?,
        })
    }

    /// The head of a call.
    pub fn call(program: u32, procedure: i32, serial: u32) -> Header {
        Header { program, version: VERSION, procedure, kind: kind::CALL, serial, status: status::OK }
    }

    /// A whole frame with this head and `body`.
    pub fn frame(&self, body: &[u8]) -> Vec<u8> {
        let mut to = self.begin();
        to.raw(body);
        finish(to)
    }

    /// A frame with this head and no length yet: the body is to be appended.
    fn begin(&self) -> Writer {
        let mut to = Writer::default();
        to.u32(0).u32(self.program).u32(self.version).i32(self.procedure);
        to.i32(self.kind).u32(self.serial).i32(self.status);
        to
    }
}

fn finish(frame: Writer) -> Vec<u8> {
    let mut bytes = frame.into_bytes();
    let length = u32::try_from(bytes.len()).expect("bodies are limited far below 4 GiB");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// A ping or a pong.
pub fn keepalive_frame(procedure: i32) -> Vec<u8> {
    let head = Header::call(KEEPALIVE, procedure, 0);
    Header { kind: kind::MESSAGE, ..head }.frame(&[])
}

/// The frame that answers a call with what `write` appends, or with the error it ends in.
pub fn answer(call: &Header, write: impl FnOnce(&mut Writer) -> Result<(), Error>) -> Vec<u8> {
    let begin = |status| Header { kind: kind::REPLY, status, ..*call }.begin();
    let mut frame = begin(status::OK);
    if let Err(error) = write(&mut frame) {
        frame = begin(status::ERROR);
        super::wire_error::write(&error, &mut frame);
        if call.program == COMMAND {
            faults::write(&mut frame, &error.faults);
        }
    }
    finish(frame)
}

/// Reads the arguments of a filter, binding or command procedure; `None` where it is none of these.
pub fn request(program: u32, procedure: i32, body: &[u8]) -> Option<Result<Request, Malformed>> {
    let from = &mut Reader::new(body);
    match program {
        REMOTE => remote_request(procedure, from).transpose(),
        COMMAND => command_request(procedure, from).transpose(),
        _ => None,
    }
}

fn remote_request(procedure: i32, from: &mut Reader) -> Result<Option<Request>, Malformed> {
    Ok(Some(match procedure {
        procedure::LOOKUP_BY_NAME => Request::LookupFilterByName { name: string(from)? },
        procedure::LOOKUP_BY_UUID => Request::LookupFilterByUuid { uuid: uuid(from)? },
        procedure::GET_XML_DESC => Request::FilterXml { uuid: filter(from)?.uuid, flags: from.u32()? },
        procedure::NUM_OF_FILTERS => Request::CountFilters,
        // A negative number becomes one beyond every maximum; the session refuses it by what was sent.
        procedure::LIST_FILTER_NAMES => {
            Request::ListFilterNames { max: usize::try_from(from.i32()?).unwrap_or(usize::MAX) }
        }
        procedure::DEFINE_XML => Request::DefineFilter { xml: document(from)?, flags: 0 },
        procedure::UNDEFINE => Request::UndefineFilter { uuid: filter(from)?.uuid },
        procedure::LIST_ALL_FILTERS => {
            Request::ListAllFilters { need_results: from.bool()?, flags: from.u32()? }
        }
        procedure::BINDING_LOOKUP => Request::LookupBinding { portdev: string(from)? },
        procedure::BINDING_GET_XML_DESC => {
            Request::BindingXml { portdev: binding(from)?.portdev, flags: from.u32()? }
        }
        procedure::BINDING_CREATE_XML => Request::CreateBinding { xml: document(from)?, flags: from.u32()? },
        procedure::BINDING_DELETE => Request::DeleteBinding { portdev: binding(from)?.portdev },
        procedure::LIST_ALL_BINDINGS => {
            Request::ListAllBindings { need_results: from.bool()?, flags: from.u32()? }
        }
        procedure::DEFINE_XML_FLAGS => Request::DefineFilter { xml: document(from)?, flags: from.u32()? },
        _ => return Ok(None),
    }))
}

fn command_request(procedure: i32, from: &mut Reader) -> Result<Option<Request>, Malformed> {
    Ok(Some(match procedure {
        command::STATUS => Request::Status,
        command::BOUND => Request::Bound { portdev: string(from)? },
        command::APPLY => Request::Apply { xml: document(from)? },
        command::PLAN => Request::Plan { xml: document(from)? },
        command::REMOVE => Request::Remove { portdev: string(from)? },
        command::DEFINE => Request::Define {
            documents: from.array(DOCUMENTS_MAX, |from| Ok((string(from)?, string(from)?)))?,
        },
        command::UNDEFINE => Request::Undefine { name: string(from)? },
        command::IPSET => Request::Ipset {
            name: string(from)?,
            verb: verb(from)?,
            addresses: from.array(ADDRESSES_MAX, string)?,
        },
        _ => return Ok(None),
    }))
}

fn verb(from: &mut Reader) -> Result<IpsetVerb, Malformed> {
    Ok(match from.u32()? {
        0 => IpsetVerb::List,
        1 => IpsetVerb::Add,
        2 => IpsetVerb::Delete,
        3 => IpsetVerb::Flush,
        _ => return Err(Malformed),
    })
}

/// Appends the body that answers `call` with `reply`; an error where the two do not fit or the reply is too big.
pub fn result(to: &mut Writer, call: &Header, reply: &Reply) -> Result<(), Error> {
    let to = match (call.program, call.procedure, reply) {
        (
            REMOTE,
            procedure::LOOKUP_BY_NAME
            | procedure::LOOKUP_BY_UUID
            | procedure::DEFINE_XML
            | procedure::DEFINE_XML_FLAGS,
            Reply::Filter(it),
        ) => write_filter(to, it),
        (REMOTE, procedure::BINDING_LOOKUP | procedure::BINDING_CREATE_XML, Reply::Binding(it)) => {
            write_binding(to, it)
        }
        (REMOTE, procedure::GET_XML_DESC | procedure::BINDING_GET_XML_DESC, Reply::Xml(text)) => {
            to.string(short(text, STRING_MAX)?)
        }
        (REMOTE, procedure::NUM_OF_FILTERS, Reply::Count(count)) => write_count(to, *count),
        (REMOTE, procedure::LIST_FILTER_NAMES, Reply::Names(names)) => {
            write_names(to, limited("nwfilters", names)?)
        }
        (REMOTE, procedure::LIST_ALL_FILTERS, Reply::Filters(all)) => {
            write_count(to.array(limited("nwfilters", all)?, write_filter), all.len())
        }
        (REMOTE, procedure::LIST_ALL_BINDINGS, Reply::Bindings(all)) => {
            write_count(to.array(limited("nwfilter_bindings", all)?, write_binding), all.len())
        }
        (REMOTE, procedure::LIST_ALL_FILTERS | procedure::LIST_ALL_BINDINGS, Reply::Count(count)) => {
            write_count(to.u32(0), *count)
        }
        (REMOTE, procedure::UNDEFINE | procedure::BINDING_DELETE, Reply::Done) => to,
        (COMMAND, command::STATUS | command::BOUND | command::DEFINE, Reply::Json(text))
        | (COMMAND, command::PLAN, Reply::Text(text)) => to.string(short(text, FRAME_MAX - 64)?),
        (COMMAND, command::IPSET, Reply::Names(names)) => write_names(to, names),
        (COMMAND, command::APPLY | command::REMOVE | command::UNDEFINE, Reply::Done) => to,
        _ => return Err(Error::internal("the answer does not fit the call")),
    };
    if to.size() > FRAME_MAX { Err(too_big()) } else { Ok(()) }
}

/// Appends a filter.
pub fn write_filter<'a>(to: &'a mut Writer, filter: &FilterId) -> &'a mut Writer {
    to.string(&filter.name).fixed(filter.uuid.as_bytes())
}

/// Appends a binding.
pub fn write_binding<'a>(to: &'a mut Writer, binding: &BindingId) -> &'a mut Writer {
    to.string(&binding.portdev).string(&binding.filter)
}

fn write_names<'a>(to: &'a mut Writer, names: &[String]) -> &'a mut Writer {
    to.array(names, |to, name| to.string(name))
}

fn write_count(to: &mut Writer, count: usize) -> &mut Writer {
    to.u32(u32::try_from(count).unwrap_or(u32::MAX))
}

fn short(text: &str, max: usize) -> Result<&str, Error> {
    if text.len() > max { Err(too_big()) } else { Ok(text) }
}

fn limited<'a, T>(what: &str, items: &'a [T]) -> Result<&'a [T], Error> {
    if items.len() <= LIST_MAX {
        return Ok(items);
    }
    Err(Error::rpc(format!("Too many {what} '{}' for limit '{LIST_MAX}'", items.len())))
}

fn too_big() -> Error {
    Error::rpc("Unable to encode message payload")
}

/// Reads a filter.
pub fn filter(from: &mut Reader) -> Result<FilterId, Malformed> {
    Ok(FilterId { name: string(from)?, uuid: uuid(from)? })
}

/// Reads a binding.
pub fn binding(from: &mut Reader) -> Result<BindingId, Malformed> {
    Ok(BindingId { portdev: string(from)?, filter: string(from)? })
}

fn document(from: &mut Reader) -> Result<String, Malformed> {
    from.characters(STRING_MAX).map(decode)
}

fn string(from: &mut Reader) -> Result<String, Malformed> {
    from.string(STRING_MAX).map(str::to_owned)
}

fn uuid(from: &mut Reader) -> Result<Uuid, Malformed> {
    from.fixed().map(Uuid::from_bytes)
}
