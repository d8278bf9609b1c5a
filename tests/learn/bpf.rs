//! The socket filters, instruction by instruction, over frames.

use crate::lab::corpus::corpus;
use crate::lab::frames::*;
use nwfilter::document::mac::Mac;
use nwfilter::guest::bpf::{self, Instruction, LONGEST, WireEnd};

/// What the kernel knows of a frame besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet<'a> {
    pub bytes: &'a [u8],
    pub outgoing: bool,
    pub tag_taken_out: bool,
}

/// Runs a program as the kernel does: so many bytes are for the socket. A load of what is not there ends with none.
pub fn run(program: &[Instruction], packet: Packet<'_>) -> u32 {
    interpret(program, packet).unwrap_or(0)
}

fn interpret(program: &[Instruction], packet: Packet<'_>) -> Option<u32> {
    let (mut accumulator, mut x, mut at) = (0, 0, 0);
    loop {
        let Instruction { code, then, or, k } = program[at];
        at += 1;
        let mut jump = |holds| at += usize::from(if holds { then } else { or });
        match code {
            0x20 if k >= 0xffff_f000 => accumulator = besides(packet, k.wrapping_sub(0xffff_f000)),
            0x20 => accumulator = bytes(packet, k, 4)?,
            0x28 => accumulator = bytes(packet, k, 2)?,
            0x30 => accumulator = bytes(packet, k, 1)?,
            0x40 => accumulator = bytes(packet, x + k, 4)?,
            0x48 => accumulator = bytes(packet, x + k, 2)?,
            0xb1 => x = 4 * (bytes(packet, k, 1)? & 15),
            0x15 => jump(accumulator == k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return Some(k),
            other => panic!("instruction {other:#x} is not in use"),
        }
    }
}

fn besides(packet: Packet<'_>, which: u32) -> u32 {
    match which {
        4 => u32::from(packet.outgoing) * 4,
        48 => u32::from(packet.tag_taken_out),
        other => panic!("nothing at {other}"),
    }
}

fn bytes(packet: Packet<'_>, at: u32, length: usize) -> Option<u32> {
    let bytes = packet.bytes.get(at as usize..at as usize + length)?;
    Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

pub const GUEST: Mac = Mac(GUEST_MAC);

/// Whether a frame is heard: in mode any, in mode dhcp. On both sides alike.
fn heard(frame: &[u8], from_guest: bool) -> (bool, bool) {
    let on = |side, outgoing| {
        let packet = Packet { bytes: frame, outgoing, tag_taken_out: false };
        for (program, side) in [(&bpf::any(GUEST, side)[..], side), (&bpf::dhcp(GUEST, side), side)] {
            let tagged = Packet { tag_taken_out: true, ..packet };
            assert_eq!(run(program, tagged), 0, "{side:?}: a tag was overlooked");
        }
        let (any, dhcp) = (run(&bpf::any(GUEST, side), packet), run(&bpf::dhcp(GUEST, side), packet));
        assert!([any, dhcp].iter().all(|kept| [0, LONGEST].contains(kept)));
        (any > 0, dhcp > 0)
    };
    let host = on(WireEnd::Host, !from_guest);
    assert_eq!(host, on(WireEnd::Guest, from_guest));
    host
}

#[test]
fn the_programs_pass_what_a_learner_wants() {
    let discover = || dhcp(1).broadcast();
    let ack = || dhcp(5).your_ip(GUEST_IP).lease(60, PEER_IP);
    let options = |server: &str| ip(server, "255.255.255.255").options(&[1; 12]);
    let (out, to) = (true, false);
    for (what, frame, from_guest, expected) in [
        ("ARP", arp_request(GUEST_IP, PEER_IP).frame(), out, (true, false)),
        ("ARP from another MAC", arp_request(GUEST_IP, PEER_IP).from(FOREIGN_MAC), out, (false, false)),
        ("ARP to the guest", arp_reply(PEER_IP, GUEST_IP).frame().inbound(), to, (false, false)),
        ("IPv4", udp(ip(GUEST_IP, PEER_IP), 1, 2), out, (true, false)),
        ("IPv4 to the guest", udp(ip(PEER_IP, GUEST_IP), 1, 2).inbound(), to, (false, false)),
        ("IPv6", udp(ip6("fe80::1", "fe80::2"), 1, 2), out, (false, false)),
        ("a discover", discover(), out, (true, true)),
        ("a discover from another MAC", discover().from(FOREIGN_MAC), out, (false, false)),
        ("a last byte of MAC that differs", discover().from([0x52, 0x54, 0, 0, 0, 2]), out, (false, false)),
        ("a first byte of MAC that differs", discover().from([0x50, 0x54, 0, 0, 0, 1]), out, (false, false)),
        ("a discover to the guest", discover().inbound(), to, (false, false)),
        ("an ack", ack().reply(PEER_IP).inbound(), to, (true, true)),
        (
            "an ack behind IP options",
            udp_with(options(PEER_IP), 67, 68, &ack().bytes()).inbound(),
            to,
            (true, true),
        ),
        (
            "an ack about another client",
            ack().client_mac(FOREIGN_MAC).reply(PEER_IP).inbound(),
            to,
            (false, false),
        ),
        ("an ack in the guest's own MAC", ack().reply(PEER_IP), to, (false, false)),
        ("an ack that the guest sends", ack().reply(PEER_IP), out, (true, false)),
        (
            "an ack to a relay",
            udp_with(ip(PEER_IP, GUEST_IP), 67, 67, &ack().bytes()).inbound(),
            to,
            (false, false),
        ),
        ("an ack cut short", ack().reply(PEER_IP).inbound().length(14 + 28 + 30), to, (false, false)),
        (
            "a first fragment",
            ip(PEER_IP, GUEST_IP).fragment(0, true).carry(17, &[0; 300]).inbound(),
            to,
            (false, false),
        ),
        ("a tagged discover", discover().vlan(5), out, (false, false)),
        ("a tagged ack", ack().reply(PEER_IP).inbound().vlan(0), to, (false, false)),
        ("a frame of 14 bytes", discover().length(14), out, (true, false)),
    ] {
        assert_eq!(heard(&Vec::from(frame), from_guest), expected, "{what}");
    }
}

#[test]
fn no_frame_of_the_corpus_breaks_a_program_however_long_it_is() {
    for case in corpus() {
        for length in 0..case.frame.len().min(400) {
            heard(&case.frame[..length], true);
            heard(&case.frame[..length], false);
        }
    }
}

#[test]
fn every_jump_stays_inside_and_every_instruction_is_reached() {
    for program in [&bpf::any(GUEST, WireEnd::Host)[..], &bpf::dhcp(GUEST, WireEnd::Guest)] {
        let mut reached = vec![false; program.len()];
        reached[0] = true;
        for (at, instruction) in program.iter().enumerate() {
            assert!(reached[at], "instruction {at} is dead");
            match instruction.code {
                0x06 => {}
                0x15 | 0x45 => {
                    for step in [instruction.then, instruction.or] {
                        reached[at + 1 + usize::from(step)] = true;
                    }
                }
                _ => reached[at + 1] = true,
            }
        }
    }
}
