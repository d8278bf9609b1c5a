//! Frames described in a few words: `who-has 10.0.0.1 tell 10.0.0.2`, `10.0.0.2:1234,10.0.0.9:80`.
//!
//! What is not said is as an honest station would have it: lengths, sizes, checksums that no rule reads are zero.

use crate::document::mac::Mac;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a frame is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameSpec {
    /// `who-has A tell B`, or `A is-at MAC`.
    Arp(String),
    /// `A:p,B:q`, with the SYN flag.
    Tcp(String),
    /// `A:p,B:q`.
    Udp(String),
    /// `A,B`, an echo request, or `A,B TYPE/CODE`.
    Icmp(String),
}

/// The Ethernet side of it.
#[derive(Clone, Copy, Debug)]
pub struct Station {
    /// Who sends it.
    pub source: Mac,
    /// Who gets it; broadcast requests go to everybody.
    pub destination: Option<Mac>,
    /// Its tag.
    pub vlan: Option<u16>,
}

/// A description that says no frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameSpecError {
    said: String,
    expected: &'static str,
}

const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ENDS: &str =
    "ADDRESS:PORT,ADDRESS:PORT (or with > between them, in quotes), an IPv6 address in brackets";
const ADDRESSES: &str =
    "ADDRESS,ADDRESS (or with > between them, in quotes), and perhaps TYPE/CODE after them";
/// ICMP types that begin something; all others belong to what was begun.
const QUESTIONS: [u8; 5] = [8, 13, 15, 17, 128];

impl FrameSpec {
    /// Whether such a packet begins a connection, as conntrack sees it.
    pub fn begins(&self) -> bool {
        match self {
            FrameSpec::Arp(_) => false,
            FrameSpec::Tcp(_) | FrameSpec::Udp(_) => true,
            FrameSpec::Icmp(text) => icmp(text).is_ok_and(|(ether_type, packet)| {
                let header = if ether_type == 0x0800 { 20 } else { 40 };
                QUESTIONS.contains(&packet[header])
            }),
        }
    }

    /// The frame.
    pub fn frame(&self, station: Station) -> Result<Vec<u8>, FrameSpecError> {
        let (ether_type, body) = match self {
            FrameSpec::Arp(text) => (0x0806, arp(text, station)?),
            FrameSpec::Tcp(text) => segment(text, 6, |ports| {
                [ports, &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 2, 0, 0, 0, 0, 0]].concat()
            })?,
            FrameSpec::Udp(text) => segment(text, 17, |ports| [ports, &[0, 8, 0, 0]].concat())?,
            FrameSpec::Icmp(text) => icmp(text)?,
        };
        let everybody = matches!(self, FrameSpec::Arp(text) if text.starts_with("who-has"));
        let usual = if everybody { Mac([0xff; 6]) } else { PEER };
        let destination = station.destination.unwrap_or(usual);
        let mut frame = [destination.0, station.source.0].concat();
        if let Some(vlan) = station.vlan {
            frame.extend([0x81, 0]);
            frame.extend(vlan.to_be_bytes());
        }
        frame.extend(u16::to_be_bytes(ether_type));
        frame.extend(body);
        Ok(frame)
    }
}

fn arp(text: &str, station: Station) -> Result<Vec<u8>, FrameSpecError> {
    let unclear = || FrameSpecError {
        said: text.into(),
        expected: "'who-has ADDRESS tell ADDRESS' or 'ADDRESS is-at MAC'",
    };
    let address =
        |text: &str| text.parse::<Ipv4Addr>().map(|address| address.octets()).map_err(|_| unclear());
    let message = |operation: u8, sender: (Mac, [u8; 4]), target: (Mac, [u8; 4])| {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        [&head[..], &sender.0.0, &sender.1, &target.0.0, &target.1].concat()
    };
    match *text.split_whitespace().collect::<Vec<_>>() {
        ["who-has", target, "tell", sender] => {
            Ok(message(1, (station.source, address(sender)?), (Mac([0; 6]), address(target)?)))
        }
        [sender, "is-at", mac] => {
            let mac = mac.parse().map_err(|_| unclear())?;
            Ok(message(2, (mac, address(sender)?), (station.destination.unwrap_or(PEER), [0; 4])))
        }
        _ => Err(unclear()),
    }
}

/// The two ends of what a shell can carry without quotes, too.
fn ends(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let between = ["->", ">", ","].iter().find_map(|sign| text.split_once(sign));
    let (from, to) =
        between.or_else(|| text.split_once(char::is_whitespace)).or_else(|| text.split_once('-'))?;
    Some((from.trim(), to.trim()))
}

fn segment(
    text: &str,
    protocol: u8,
    header: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<(u16, Vec<u8>), FrameSpecError> {
    let unclear = || FrameSpecError { said: text.into(), expected: ENDS };
    let (from, to) = ends(text).ok_or_else(unclear)?;
    let end = |text: &str| text.parse::<SocketAddr>().map_err(|_| unclear());
    let (from, to) = (end(from)?, end(to)?);
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    packet(from.ip(), to.ip(), protocol, &header(&ports)).ok_or_else(unclear)
}

fn icmp(text: &str) -> Result<(u16, Vec<u8>), FrameSpecError> {
    let unclear = || FrameSpecError { said: text.into(), expected: ADDRESSES };
    let (text, kind) = match text.trim().rsplit_once([' ', ',']) {
        Some((ends, kind)) if kind.contains('/') => (ends, Some(kind)),
        _ => (text, None),
    };
    let (from, to) = ends(text).ok_or_else(unclear)?;
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| unclear());
    let (from, to) = (address(from)?, address(to)?);
    let echo = if from.is_ipv4() { (8, 0) } else { (128, 0) };
    let number = |text: &str| text.trim().parse::<u8>().map_err(|_| unclear());
    let (kind, code) = match kind.map(|kind| kind.split_once('/').ok_or_else(unclear)).transpose()? {
        Some((kind, code)) => (number(kind)?, number(code)?),
        None => echo,
    };
    let protocol = if from.is_ipv4() { 1 } else { 58 };
    packet(from, to, protocol, &[kind, code, 0, 0, 0, 1, 0, 1]).ok_or_else(unclear)
}

/// None where the two addresses are of different families.
fn packet(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Option<(u16, Vec<u8>)> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [high, low] = (20 + body.len() as u16).to_be_bytes();
            let head = [0x45, 0, high, low, 0, 1, 0x40, 0, 64, protocol, 0, 0];
            Some((0x0800, [&head[..], &from.octets(), &to.octets(), body].concat()))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [high, low] = (body.len() as u16).to_be_bytes();
            let head = [0x60, 0, 0, 0, high, low, protocol, 64];
            Some((0x86dd, [&head[..], &from.octets(), &to.octets(), body].concat()))
        }
        _ => None,
    }
}

impl fmt::Display for FrameSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' describes no frame: expected {}", self.said, self.expected)
    }
}

impl std::error::Error for FrameSpecError {}
