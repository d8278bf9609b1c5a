//! Frames out of a capture, pcap or pcapng. A hostile file ends in an error, never in a panic or a large allocation.
//!
//! Its own reader: the crate that the trace writes captures with refuses those whose frames are longer than what was kept of them.

use std::fmt;

/// The frames of a capture in order.
#[derive(Clone, Debug)]
pub struct PcapFrames<'a> {
    frames: Vec<&'a [u8]>,
}

/// Why a file is no capture of Ethernet frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// It begins with neither magic number.
    NoCapture,
    /// It ends inside of a record, or a record's length is no length.
    Broken,
    /// Its frames are not those of Ethernet.
    OtherLink(u32),
}

const ETHERNET: u32 = 1;

impl<'a> PcapFrames<'a> {
    /// Reads a whole file.
    pub fn read(file: &'a [u8]) -> Result<PcapFrames<'a>, Unreadable> {
        match file.get(..4) {
            Some([0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1]) => pcap(file, u32::from_le_bytes),
            Some([0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d]) => pcap(file, u32::from_be_bytes),
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(file),
            _ => Err(Unreadable::NoCapture),
        }
    }

    /// The frame of a number, from 1.
    pub fn packet(&self, number: usize) -> Option<&'a [u8]> {
        self.frames.get(number.checked_sub(1)?).copied()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.frames.len()
    }
}

type Order = fn([u8; 4]) -> u32;

fn number(file: &[u8], at: usize, order: Order) -> Result<u32, Unreadable> {
    let bytes = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Unreadable::Broken)?;
    Ok(order(*bytes))
}

fn part(file: &[u8], at: usize, length: u32) -> Result<&[u8], Unreadable> {
    let end = at.checked_add(length as usize).ok_or(Unreadable::Broken)?;
    file.get(at..end).ok_or(Unreadable::Broken)
}

fn ethernet(link: u32) -> Result<(), Unreadable> {
    if link == ETHERNET { Ok(()) } else { Err(Unreadable::OtherLink(link)) }
}

fn pcap(file: &[u8], order: Order) -> Result<PcapFrames<'_>, Unreadable> {
    ethernet(number(file, 20, order)? & 0xffff)?;
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let frame = part(file, at + 16, number(file, at + 8, order)?)?;
        at += 16 + frame.len();
        frames.push(frame);
    }
    Ok(PcapFrames { frames })
}

fn pcapng(file: &[u8]) -> Result<PcapFrames<'_>, Unreadable> {
    const SECTION: u32 = 0x0a0d_0d0a;
    let (mut order, mut links): (Order, Vec<u32>) = (u32::from_le_bytes, Vec::new());
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < file.len() {
        let kind = number(file, at, order)?;
        if kind == SECTION {
            let little = number(file, at + 8, u32::from_le_bytes)? == 0x1a2b_3c4d;
            order = if little { u32::from_le_bytes } else { u32::from_be_bytes };
            links.clear();
        }
        let length = number(file, at + 4, order)?;
        if length < 12 || length % 4 != 0 {
            return Err(Unreadable::Broken);
        }
        let block = part(file, at, length)?;
        let link = |interface: u32| ethernet(*links.get(interface as usize).ok_or(Unreadable::Broken)?);
        match kind {
            1 => links.push(link_type(block, order)?),
            6 => {
                link(number(block, 8, order)?)?;
                frames.push(part(block, 28, number(block, 20, order)?)?);
            }
            3 => {
                link(0)?;
                let length = number(block, 8, order)?.min(block.len() as u32 - 16);
                frames.push(part(block, 12, length)?);
            }
            _ => {}
        }
        at += block.len();
    }
    Ok(PcapFrames { frames })
}

/// The first half of its word.
fn link_type(block: &[u8], order: Order) -> Result<u32, Unreadable> {
    let bytes = number(block, 8, u32::from_be_bytes)?.to_be_bytes();
    let little = order([1, 0, 0, 0]) == 1;
    Ok(order(if little { [bytes[0], bytes[1], 0, 0] } else { [0, 0, bytes[0], bytes[1]] }))
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::NoCapture => f.write_str("neither pcap nor pcapng"),
            Unreadable::Broken => f.write_str("the capture is cut off or broken"),
            Unreadable::OtherLink(link) => write!(f, "frames of link type {link}, not of Ethernet"),
        }
    }
}

impl std::error::Error for Unreadable {}
