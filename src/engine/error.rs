//! libvirt's errors: the codes and domains a network filter daemon uses, and the texts that go with them.
//!
//! A client sees three things of an error: the whole message, its template (`str1`) and what was filled in
//! (`str2`). The template belongs to the code, so it is written down once, in one table.

use crate::document::diag::Diagnostic;
use uuid::Uuid;

/// What went wrong, as libvirt numbers it.
#[allow(missing_docs, reason = "the names are libvirt's own, the templates below explain them")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorNumber {
    InternalError = 1,
    NoSupport = 3,
    NoConnect = 5,
    InvalidArgument = 8,
    OperationFailed = 9,
    XmlError = 27,
    OperationDenied = 29,
    ParseFailed = 32,
    XmlDetail = 35,
    SystemError = 38,
    Rpc = 39,
    AuthFailed = 45,
    OperationInvalid = 55,
    NoFilter = 62,
    ArgumentUnsupported = 74,
    AccessDenied = 88,
    XmlInvalidSchema = 92,
    NoBinding = 101,
}

/// In whose name an error is raised, as libvirt numbers it.
#[allow(missing_docs, reason = "the names are libvirt's own")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Domain {
    None = 0,
    Xml = 5,
    Rpc = 7,
    Storage = 18,
    Network = 19,
    Domain = 20,
    NodeDevice = 22,
    Interface = 26,
    Secret = 30,
    Filter = 33,
    Access = 55,
    Firewall = 59,
}

/// One error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What went wrong.
    pub code: ErrorNumber,
    /// In whose name.
    pub domain: Domain,
    /// The whole text.
    pub message: String,
    /// The template of the text, or what libvirt puts in its place.
    pub str1: Option<String>,
    /// What was filled into the template.
    pub str2: Option<String>,
    /// An error number of the system, 0 for refused flags, else -1.
    pub int1: i32,
    /// 0 for refused flags, else -1.
    pub int2: i32,
    /// All that was found wrong with a document or a value, where that is why. The command's program carries it;
    /// libvirt's has no place for it.
    pub faults: Vec<Diagnostic>,
}

impl ErrorNumber {
    /// The text of errors with this code, with the place of the detail marked as libvirt marks it.
    pub fn template(self) -> &'static str {
        CODES.iter().find(|(code, _)| *code == self).expect("the table has every code").1
    }

    /// The code with this number, where this daemon uses it.
    pub fn from_number(number: i32) -> Option<ErrorNumber> {
        CODES.iter().map(|(code, _)| *code).find(|code| *code as i32 == number)
    }
}

impl Domain {
    /// The domain with this number, where this daemon uses it.
    pub fn from_number(number: i32) -> Option<Domain> {
        DOMAINS.into_iter().find(|domain| *domain as i32 == number)
    }
}

impl Error {
    /// An error whose text is the template of `code` with `detail` filled in.
    pub fn new(code: ErrorNumber, domain: Domain, detail: impl Into<String>) -> Error {
        let detail = detail.into();
        let template = code.template();
        let message = format!("{}{detail}", template.trim_end_matches("%1$s").trim_end_matches("%s"));
        let (str1, str2) = (Some(template.into()), Some(detail));
        Error { code, domain, message, str1, str2, int1: -1, int2: -1, faults: Vec::new() }
    }

    /// The same error, with all that was found wrong.
    pub fn with_faults(self, faults: Vec<Diagnostic>) -> Error {
        Error { faults, ..self }
    }

    /// Something in the network filter driver that no other code names.
    pub fn internal(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::InternalError, Domain::Filter, detail)
    }

    /// The driver tried and could not.
    pub fn failed(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::OperationFailed, Domain::Filter, detail)
    }

    /// Not now: a filter in use, for one.
    pub fn invalid(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::OperationInvalid, Domain::Filter, detail)
    }

    /// A document that is well-formed and still not what it should be.
    pub fn xml(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::XmlError, Domain::Xml, detail)
    }

    /// A document that is not well-formed.
    pub fn xml_detail(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::XmlDetail, Domain::Filter, detail)
    }

    /// A document the schema refuses.
    pub fn schema(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::XmlInvalidSchema, Domain::Xml, detail)
    }

    /// No filter has this name.
    pub fn no_filter_named(name: &str) -> Error {
        let detail = format!("no nwfilter with matching name '{name}'");
        Error::new(ErrorNumber::NoFilter, Domain::Filter, detail)
    }

    /// No filter has this UUID.
    pub fn no_filter_with(uuid: Uuid) -> Error {
        let detail = format!("no nwfilter with matching uuid '{uuid}'");
        Error::new(ErrorNumber::NoFilter, Domain::Filter, detail)
    }

    /// No interface of this name is bound.
    pub fn no_binding(portdev: &str) -> Error {
        let detail = format!("no nwfilter binding for port dev '{portdev}'");
        Error::new(ErrorNumber::NoBinding, Domain::Filter, detail)
    }

    /// The message, not what it asks for, is at fault.
    pub fn rpc(detail: impl Into<String>) -> Error {
        Error::new(ErrorNumber::Rpc, Domain::Rpc, detail)
    }

    /// A function of libvirt's API that this daemon has no driver for.
    pub fn no_support(domain: Domain, function: &str) -> Error {
        Error::new(ErrorNumber::NoSupport, domain, function)
    }

    /// A call that changes something, on a connection that may only look.
    pub fn read_only(function: &str) -> Error {
        let detail = format!("read only access prevents {function}");
        Error::new(ErrorNumber::OperationDenied, Domain::Filter, detail)
    }

    /// Flags that `function` does not know. libvirt gives these a layout of their own.
    pub fn unsupported_flags(function: &str, flags: u32) -> Error {
        Error {
            code: ErrorNumber::InvalidArgument,
            domain: Domain::Filter,
            message: format!("unsupported flags (0x{flags:x}) in function {function}"),
            str1: Some(function.into()),
            str2: Some("flags".into()),
            int1: 0,
            int2: 0,
            faults: Vec::new(),
        }
    }

    /// What a client hears when a call failed without a reason.
    pub fn unknown() -> Error {
        Error {
            code: ErrorNumber::InternalError,
            domain: Domain::None,
            message: "An error occurred, but the cause is unknown".into(),
            str1: None,
            str2: None,
            int1: -1,
            int2: -1,
            faults: Vec::new(),
        }
    }
}

const CODES: [(ErrorNumber, &str); 18] = [
    (ErrorNumber::InternalError, "internal error: %1$s"),
    (ErrorNumber::NoSupport, "this function is not supported by the connection driver: %1$s"),
    (ErrorNumber::NoConnect, "no connection driver available for %1$s"),
    (ErrorNumber::InvalidArgument, "invalid argument: %1$s"),
    (ErrorNumber::OperationFailed, "operation failed: %1$s"),
    (ErrorNumber::XmlError, "XML error: %1$s"),
    (ErrorNumber::OperationDenied, "operation forbidden: %1$s"),
    (ErrorNumber::ParseFailed, "failed to parse configuration file %1$s"),
    (ErrorNumber::XmlDetail, "%s"),
    (ErrorNumber::SystemError, "%s"),
    (ErrorNumber::Rpc, "%s"),
    (ErrorNumber::AuthFailed, "authentication failed: %1$s"),
    (ErrorNumber::OperationInvalid, "Requested operation is not valid: %1$s"),
    (ErrorNumber::NoFilter, "Network filter not found: %1$s"),
    (ErrorNumber::ArgumentUnsupported, "argument unsupported: %1$s"),
    (ErrorNumber::AccessDenied, "access denied: %1$s"),
    (ErrorNumber::XmlInvalidSchema, "XML document failed to validate against schema: %1$s"),
    (ErrorNumber::NoBinding, "Network filter binding not found: %1$s"),
];

const DOMAINS: [Domain; 12] = [
    Domain::None,
    Domain::Xml,
    Domain::Rpc,
    Domain::Storage,
    Domain::Network,
    Domain::Domain,
    Domain::NodeDevice,
    Domain::Interface,
    Domain::Secret,
    Domain::Filter,
    Domain::Access,
    Domain::Firewall,
];
