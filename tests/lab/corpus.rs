//! Attack frames in one table, each with the verdict that clean-traffic owes it.
//!
//! The guest is 52:54:00:00:00:01 with 10.0.0.1 and nothing else. Verdicts follow from what the
//! filter says, and from the rule that a tagged frame is never judged by rules about IP or ARP:
//!
//! * From the guest: its own MAC first. IPv4 with its own source, or UDP from 0.0.0.0. ARP with its
//!   own MAC and IP as the sender. QEMU's RARP announcement. Nothing else.
//! * To the guest: IPv4, ARP, the announcement. Nothing else.
//!
//! So much that looks wicked passes, since clean-traffic does not judge it: ports, fragments,
//! checksums, who gets an answer.

// Tables read best with a case on a line.
#[rustfmt::skip]
mod arp;
#[rustfmt::skip]
mod dhcp;
#[rustfmt::skip]
mod ipv4;
#[rustfmt::skip]
mod ipv6;
#[rustfmt::skip]
mod link;

use super::frames::Frame;
use super::network::{Verdict, Way};

pub use link::every_ethertype;

/// A frame and what should become of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Section and number, with a letter where there are variants.
    pub id: &'static str,
    /// What the frame is.
    pub what: &'static str,
    /// Through the guest's interface, out or in.
    pub way: Way,
    /// The bytes.
    pub frame: Vec<u8>,
    /// `Accept` or `Drop`.
    pub verdict_under_clean_traffic: Verdict,
    /// The bridge keeps the frame to itself or discards it, firewall or not.
    pub eaten_by_bridge: bool,
}

/// Every case.
pub fn corpus() -> Vec<Case> {
    [link::cases(), arp::cases(), ipv4::cases(), ipv6::cases(), dhcp::cases()].concat()
}

/// A frame that the guest sends and the filter accepts.
fn passes(id: &'static str, what: &'static str, frame: Frame) -> Case {
    case(id, what, frame, Way::FromGuest, Verdict::Accept)
}

/// A frame that the guest sends and the filter drops.
fn stops(id: &'static str, what: &'static str, frame: Frame) -> Case {
    case(id, what, frame, Way::FromGuest, Verdict::Drop)
}

/// A frame to the guest, accepted. It comes from the peer; a frame for a group stays one.
fn enters(id: &'static str, what: &'static str, frame: Frame) -> Case {
    case(id, what, frame.inbound(), Way::ToGuest, Verdict::Accept)
}

/// A frame to the guest, dropped.
fn stays_out(id: &'static str, what: &'static str, frame: Frame) -> Case {
    case(id, what, frame.inbound(), Way::ToGuest, Verdict::Drop)
}

/// A frame that no bridge forwards, from whichever side.
fn eaten(id: &'static str, what: &'static str, frame: Frame) -> Case {
    Case { eaten_by_bridge: true, ..stops(id, what, frame) }
}

fn case(id: &'static str, what: &'static str, frame: Frame, way: Way, verdict: Verdict) -> Case {
    let frame = frame.into();
    Case { id, what, way, frame, verdict_under_clean_traffic: verdict, eaten_by_bridge: false }
}
