//! Documents of users → values that keep their places: filters and bindings, XML, variables, diagnostics.
//!
//! Pure, but for [`catalog`] and [`regular`], which read files. What is wrong with a document is a [`diag::Diagnostic`] with file,
//! line and column. This room does not know what a filter means to a packet.

pub mod binding;
pub mod catalog;
pub mod diag;
pub mod field;
pub mod filter;
pub mod mac;
pub mod regular;
pub mod span;
pub mod standard;
pub mod strtoul;
pub mod vars;
pub mod xml;
