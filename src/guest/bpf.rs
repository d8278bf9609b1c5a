//! Classic BPF programs that let a packet socket hear only what a learner wants, and a netlink socket only what others do, a
//! comment a line.
//!
//! They keep a busy guest from waking the daemon; they do not judge. `frame` reads what they pass, and it is judged by
//! `learning`, which would refuse the rest as well. A tagged frame is dropped, whether the device took the tag out or not.

use crate::document::mac::Mac;

/// One instruction, as in `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip where a jump's condition holds.
    pub then: u8,
    /// How many to skip where it does not.
    pub or: u8,
    /// The operand.
    pub k: u32,
}

/// Which end of the wire the socket listens at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireEnd {
    /// At a tap or a bridge port: what the guest sends comes in.
    Host,
    /// At a macvtap or the device below it: what the guest sends goes out.
    Guest,
}

/// A length of frame that holds every DHCP message; longer frames are cut there.
pub const LONGEST: u32 = 9216;

/// Load 32 bits at a fixed offset.
const WORD: u16 = 0x20;
/// Load 16 bits at a fixed offset.
const HALF: u16 = 0x28;
/// Load 8 bits at a fixed offset.
const BYTE: u16 = 0x30;
/// Load 32 bits at an offset behind X.
const WORD_X: u16 = 0x40;
/// Load 16 bits at an offset behind X.
const HALF_X: u16 = 0x48;
/// Set X to four times the lower half of a byte: an IPv4 header's length.
const HEADER: u16 = 0xb1;
/// Jump where the accumulator equals the operand.
const EQUALS: u16 = 0x15;
/// Jump where the accumulator has a bit of the operand.
const HAS_BIT: u16 = 0x45;
/// End: so many bytes of the frame are for the socket.
const RETURN: u16 = 0x06;

/// Where the kernel shows what it knows of a frame besides its bytes (`SKF_AD_OFF`), and there:
const BESIDES: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = BESIDES + 4;
const TAG_PRESENT: u32 = BESIDES + 48;

/// `PACKET_OUTGOING`: the frame is being sent through the device.
const OUTGOING: u32 = 4;

const ARP: u32 = 0x0806;
const IPV4: u32 = 0x0800;
const UDP: u32 = 17;
/// More fragments, or an offset.
const FRAGMENT: u32 = 0x3fff;
/// Source and destination port, in one word.
const TO_SERVER: u32 = 68 << 16 | 67;
const TO_CLIENT: u32 = 67 << 16 | 68;

const fn load(code: u16, at: u32) -> Instruction {
    Instruction { code, then: 0, or: 0, k: at }
}

const fn jump(code: u16, k: u32, then: u8, or: u8) -> Instruction {
    Instruction { code, then, or, k }
}

const fn end(bytes: u32) -> Instruction {
    Instruction { code: RETURN, then: 0, or: 0, k: bytes }
}

/// The jump at a frame's direction: so far to what deals with the guest's own, so far to the other.
const fn direction(side: WireEnd, own: u8, other: u8) -> Instruction {
    match side {
        WireEnd::Host => jump(EQUALS, OUTGOING, other, own),
        WireEnd::Guest => jump(EQUALS, OUTGOING, own, other),
    }
}

/// A MAC as a word and a half.
fn halves(Mac([a, b, c, d, e, f]): Mac) -> (u32, u32) {
    (u32::from_be_bytes([a, b, c, d]), u32::from(u16::from_be_bytes([e, f])))
}

/// From the guest's MAC all ARP and IPv4; to the guest DHCP replies about its MAC. What comes from the guest's MAC comes
/// from the guest: from anybody else such a frame is dropped.
pub fn any(mac: Mac, side: WireEnd) -> Vec<Instruction> {
    let (start, rest) = halves(mac);
    let head = [
        load(WORD, TAG_PRESENT),       //  0 a tag that the device took out?
        jump(EQUALS, 0, 0, 27),        //  1 then drop
        load(WORD, PACKET_TYPE),       //  2 who sends?
        direction(side, 0, 7),         //  3 the guest: on; another: 11
        load(WORD, 6),                 //  4 Ethernet source
        jump(EQUALS, start, 0, 23),    //  5 not the guest's: drop
        load(HALF, 10),                //  6 the rest of it
        jump(EQUALS, rest, 0, 21),     //  7 not the guest's: drop
        load(HALF, 12),                //  8 Ethernet type
        jump(EQUALS, ARP, 18, 0),      //  9 ARP: keep
        jump(EQUALS, IPV4, 17, 18),    // 10 IPv4: keep; else drop
        load(WORD, 6),                 // 11 Ethernet source
        jump(EQUALS, start, 0, 2),     // 12 another than the guest's: 15
        load(HALF, 10),                // 13 the rest of it
        jump(EQUALS, rest, 14, 0),     // 14 the guest's: drop
        load(HALF, 12),                // 15 Ethernet type
        jump(EQUALS, IPV4, 0, 12),     // 16 not IPv4: drop
        load(BYTE, 23),                // 17 protocol
        jump(EQUALS, UDP, 0, 10),      // 18 not UDP: drop
        load(HALF, 20),                // 19 fragment
        jump(HAS_BIT, FRAGMENT, 8, 0), // 20 of several: drop
        load(HEADER, 14),              // 21 X = length of the IPv4 header
    ];
    head.into_iter().chain(reply(mac)).collect() // 22 to 29
}

/// Of what netlink announces, what a port other than this has caused. All messages of a datagram are one port's.
pub fn of_others(port: u32) -> Vec<Instruction> {
    // Words are read in the order of networks, and netlink's are in the host's.
    let port = u32::from_be_bytes(port.to_ne_bytes());
    vec![
        load(WORD, 12),           // 0 the port whose request it was
        jump(EQUALS, port, 0, 1), // 1 another: 3
        end(0),                   // 2 drop
        end(u32::MAX),            // 3 keep, whole
    ]
}

/// From the guest's MAC DHCP to a server; to the guest DHCP replies about its MAC, from other MACs than its own.
pub fn dhcp(mac: Mac, side: WireEnd) -> Vec<Instruction> {
    let (start, rest) = halves(mac);
    let head = [
        load(WORD, TAG_PRESENT),        //  0 a tag that the device took out?
        jump(EQUALS, 0, 0, 26),         //  1 then drop
        load(HALF, 12),                 //  2 Ethernet type
        jump(EQUALS, IPV4, 0, 24),      //  3 not IPv4: drop
        load(BYTE, 23),                 //  4 protocol
        jump(EQUALS, UDP, 0, 22),       //  5 not UDP: drop
        load(HALF, 20),                 //  6 fragment
        jump(HAS_BIT, FRAGMENT, 20, 0), //  7 of several: drop
        load(HEADER, 14),               //  8 X = length of the IPv4 header
        load(WORD, PACKET_TYPE),        //  9 who sends?
        direction(side, 0, 6),          // 10 the guest: on; another: 17
        load(WORD_X, 14),               // 11 both ports
        jump(EQUALS, TO_SERVER, 0, 15), // 12 not a client's to a server: drop
        load(WORD, 6),                  // 13 Ethernet source
        jump(EQUALS, start, 0, 13),     // 14 not the guest's: drop
        load(HALF, 10),                 // 15 the rest of it
        jump(EQUALS, rest, 10, 11),     // 16 the guest's: keep; else drop
        load(WORD, 6),                  // 17 Ethernet source
        jump(EQUALS, start, 0, 2),      // 18 another than the guest's: 21
        load(HALF, 10),                 // 19 the rest of it
        jump(EQUALS, rest, 7, 0),       // 20 the guest's: drop
    ];
    head.into_iter().chain(reply(mac)).collect() // 21 to 28
}

/// The end of both: with X the length of the IPv4 header, a DHCP reply about a MAC is kept, all else dropped.
fn reply(mac: Mac) -> [Instruction; 8] {
    let (start, rest) = halves(mac);
    [
        load(WORD_X, 14),              // 0 both ports
        jump(EQUALS, TO_CLIENT, 0, 5), // 1 not a server's to a client: drop
        load(WORD_X, 14 + 8 + 28),     // 2 DHCP client's MAC
        jump(EQUALS, start, 0, 3),     // 3 not the guest's: drop
        load(HALF_X, 14 + 8 + 32),     // 4 the rest of it
        jump(EQUALS, rest, 0, 1),      // 5 not the guest's: drop
        end(LONGEST),                  // 6 keep
        end(0),                        // 7 drop
    ]
}
