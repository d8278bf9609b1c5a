//! What IP carries: UDP, UDP-Lite, TCP, SCTP, ESP, AH.

use super::{Frame, Net};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;
pub const URG: u8 = 32;

/// What a packet says unless a test says otherwise.
const WORDS: &[u8] = b"nwfilter";

/// A UDP datagram.
pub fn udp(net: impl Into<Net>, source: u16, destination: u16) -> Frame {
    udp_with(net, source, destination, WORDS)
}

/// A UDP datagram with this content.
pub fn udp_with(net: impl Into<Net>, source: u16, destination: u16, data: &[u8]) -> Frame {
    net.into().carry_summed(17, udp_bytes(source, destination, data), 6)
}

/// A UDP datagram without checksum, as bytes: what `carry(17, ..)` wants.
pub fn udp_bytes(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u16;
    [&words([source, destination, length, 0]), data].concat()
}

/// A UDP-Lite datagram, its checksum over all of it.
pub fn udplite(net: impl Into<Net>, source: u16, destination: u16) -> Frame {
    let bytes = [&words([source, destination, 0, 0]), WORDS].concat();
    net.into().carry_summed(136, bytes, 6)
}

/// A TCP segment with these flags.
pub fn tcp(net: impl Into<Net>, source: u16, destination: u16, flags: u8) -> Frame {
    tcp_with(net, source, destination, flags, &[], &[])
}

/// A TCP segment with flags, options (whole words) and content.
pub fn tcp_with(
    net: impl Into<Net>,
    source: u16,
    destination: u16,
    flags: u8,
    options: &[u8],
    data: &[u8],
) -> Frame {
    assert_eq!(options.len() % 4, 0, "TCP options fill whole words");
    let length = (5 + options.len() / 4) as u8;
    let mut bytes = words([source, destination, 0, 1, 0, u16::from(flags & ACK > 0)]);
    bytes.extend([length << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes.extend(options);
    bytes.extend(data);
    net.into().carry_summed(6, bytes, 16)
}

/// A TCP segment at this place of its stream, for those who follow the numbers.
pub fn tcp_at(
    net: impl Into<Net>,
    [source, destination]: [u16; 2],
    flags: u8,
    [sequence, acknowledged]: [u32; 2],
) -> Frame {
    let mut bytes = words([source, destination]);
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    net.into().carry_summed(6, bytes, 16)
}

/// An SCTP packet with an INIT chunk.
pub fn sctp(net: impl Into<Net>, source: u16, destination: u16) -> Frame {
    sctp_chunk(net, [source, destination], 0, 1)
}

/// An SCTP packet with a chunk of this kind, laid out as INIT is, and this verification tag.
pub fn sctp_chunk(
    net: impl Into<Net>,
    [source, destination]: [u16; 2],
    verification: u32,
    kind: u8,
) -> Frame {
    let mut bytes = words([source, destination]);
    bytes.extend(verification.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([kind, 0, 0, 20, 0, 0, 0, 1, 0, 0, 16, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&bytes).to_le_bytes();
    bytes[8..12].copy_from_slice(&sum);
    net.into().carry(132, &bytes)
}

/// An ESP packet.
pub fn esp(net: impl Into<Net>, index: u32) -> Frame {
    net.into().carry(50, &[&index.to_be_bytes(), &1u32.to_be_bytes(), WORDS].concat())
}

/// An authentication header around UDP.
pub fn ah(net: impl Into<Net>, index: u32) -> Frame {
    let header = [&[17, 4, 0, 0], &index.to_be_bytes()[..], &1u32.to_be_bytes(), &[0; 12]];
    net.into().carry(51, &[&header.concat(), &udp_bytes(1234, 80, WORDS)[..]].concat())
}

fn words<const N: usize>(values: [u16; N]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| {
        if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
    };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}
