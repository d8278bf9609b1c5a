//! The filters that are in force while a guest's address is not known: documents like any other, compiled like any other.
//!
//! Their names have a slash, which no client's filter may have: they can be neither redefined, nor referred to, nor listed.

use crate::document::filter::{Filter, read};
use crate::document::span::Source;
use std::sync::Arc;

/// ARP in the guest's own name, and DHCP.
pub const ANY: &str = "learning/any";
/// DHCP alone.
pub const DHCP: &str = "learning/dhcp";
/// DHCP alone, with the servers of `DHCPSERVER`.
pub const DHCP_FROM_SERVERS: &str = "learning/dhcp-servers";

const DOCUMENTS: [(&str, &str); 3] = [
    (ANY, include_str!("filters/any.xml")),
    (DHCP, include_str!("filters/dhcp.xml")),
    (DHCP_FROM_SERVERS, include_str!("filters/dhcp-servers.xml")),
];

/// The learning filter of this name.
pub fn get(name: &str) -> Option<Arc<Filter>> {
    document(name).map(|filter| Arc::new(Filter { name: name.into(), ..filter }))
}

/// The same under the name that its document gives it, which anybody can read.
pub fn document(name: &str) -> Option<Filter> {
    let (_, text) = DOCUMENTS.iter().find(|(known, _)| *known == name)?;
    let (filter, _) = read::read(&Source::new(format!("<{name}>"), *text)).expect("the document is a filter");
    Some(filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_is_a_filter_without_a_warning() {
        for (name, text) in DOCUMENTS {
            let (_, warnings) = read::read(&Source::new(name, text)).expect(name);
            assert_eq!(warnings, [], "{name}");
            assert_eq!(get(name).expect(name).name, name);
        }
        assert!(get("clean-traffic").is_none());
    }
}
