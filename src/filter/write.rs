//! [`Filter`](super::Filter) to XML.
