//! Frames at random, made of the values that filters ask for, and then often spoilt: cut, tagged, fragmented, with
//! headers that lie.

use crate::dice::Dice;
use crate::lab::Way;

type Bytes = Vec<u8>;

/// A frame and the way it goes. The bridge itself lets every one of them pass.
pub fn frame(dice: &mut Dice) -> (Way, Bytes) {
    loop {
        let way = dice.pick(&[Way::FromGuest, Way::ToGuest]);
        let mut bytes = any(dice);
        if dice.chance(15) {
            let length = 14 + dice.below(bytes.len() - 13);
            bytes.truncate(length);
        }
        if dice.chance(10) {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        if dice.chance(10) {
            let length = bytes.len() + dice.below(40);
            bytes.resize(length, dice.byte());
        }
        if is_forwarded(&bytes) {
            return (way, bytes);
        }
    }
}

/// Whether any bridge forwards such a frame: its source is a station, its destination no reserved group, and a tag
/// is whole.
pub fn is_forwarded(bytes: &[u8]) -> bool {
    let (to, from) = (&bytes[..6], &bytes[6..12]);
    let reserved = to[..5] == [1, 0x80, 0xc2, 0, 0] && to[5] & 0xf0 == 0 && to[5] != 0;
    let station = from[0] & 1 == 0 && from != [0; 6];
    station && !reserved && to != [0; 6] && tags_are_whole(&bytes[12..])
}

fn tags_are_whole(bytes: &[u8]) -> bool {
    match bytes {
        [0x81, 0, rest @ ..] | [0x88, 0xa8, rest @ ..] => rest.len() >= 6 && tags_are_whole(&rest[2..]),
        // br_netfilter, where it is loaded, drops what is too short for a PPPoE header.
        [0x88, 0x64, rest @ ..] => rest.len() >= 8,
        _ => true,
    }
}

const MACS: &[[u8; 6]] = &[
    [0x52, 0x54, 0, 0, 0, 1],
    [0x52, 0x54, 0, 0, 0, 2],
    [0x52, 0x54, 0, 0, 0, 3],
    [2, 0, 0, 0, 0, 1],
    [1, 0, 0x5e, 0, 0, 1],
    [0xff; 6],
    BRIDGES,
];
const BRIDGES: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0];
const IPV4: &[[u8; 4]] =
    &[[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3], [10, 0, 1, 1], [0; 4], [255; 4], [224, 0, 0, 1]];
const PROTOCOLS: &[u8] = &[1, 2, 6, 6, 6, 17, 17, 17, 58, 58, 132, 136, 50, 51, 0, 43, 44, 59, 60, 255];
const NUMBERS: &[u16] = &[80, 53, 1, 2, 0, 256, 32768, 65535, 3];
const SMALL: &[u8] = &[0, 1, 2, 3, 8, 128, 135, 255];

fn any(dice: &mut Dice) -> Bytes {
    let (ether_type, body) = match dice.below(16) {
        0..5 => (0x0800, ipv4(dice)),
        5..9 => (0x86dd, ipv6(dice)),
        9..11 => (0x0806, arp(dice)),
        11 => (0x8035, arp(dice)),
        12 => return bpdu(dice),
        13 => (dice.pick(&[0x88b5, 0x600, 0x5ff, 0x888e, 0x8100, 0]), some(dice, 60)),
        14 => llc(dice),
        _ => (dice.pick(&[0x0800, 0x86dd, 0x0806, 0x8035, 0x8100]), some(dice, 60)),
    };
    let mut frame = [addresses(dice), tags(dice), ether_type.to_be_bytes().to_vec(), body].concat();
    // A frame whose type does not say what it carries.
    if dice.chance(2) {
        frame[12] ^= 0x80;
    }
    frame
}

fn addresses(dice: &mut Dice) -> Bytes {
    let stations = &MACS[..4];
    [dice.skewed(MACS), dice.skewed(stations)].concat()
}

fn tags(dice: &mut Dice) -> Bytes {
    let mut tags = Vec::new();
    while dice.chance(18) {
        let kind: u16 = dice.pick(&[0x8100, 0x8100, 0x8100, 0x88a8, 0x9100]);
        let control: u16 = dice.pick(&[0, 1, 5, 0x0fff, 0x2005, 0x1005, 0xf000]);
        tags.extend([kind.to_be_bytes(), control.to_be_bytes()].concat());
    }
    tags
}

fn some(dice: &mut Dice, limit: usize) -> Bytes {
    (0..dice.below(limit)).map(|_| dice.byte()).collect()
}

fn llc(dice: &mut Dice) -> (u16, Bytes) {
    let inner = match dice.below(3) {
        0 => [vec![0xaa, 0xaa, 3, 0, 0, 0, 8, 0], ipv4(dice)].concat(),
        1 => [vec![0xff, 0xff], some(dice, 40)].concat(),
        _ => [vec![0x42, 0x42, 3], some(dice, 40)].concat(),
    };
    (if dice.chance(80) { inner.len() as u16 } else { dice.pick(&[0x3c, 100, 1, 0]) }, inner)
}

fn bpdu(dice: &mut Dice) -> Bytes {
    let mut body = vec![0x42, 0x42, 3, 0, 0, 0, dice.pick(&[0, 0, 0, 0, 0x80, 2]), dice.skewed(SMALL)];
    let number = |dice: &mut Dice| dice.skewed(NUMBERS).to_be_bytes();
    body.extend(number(dice));
    body.extend(dice.skewed(MACS));
    body.extend(dice.pick(&[0u32, 1, 100, 65536, u32::MAX]).to_be_bytes());
    body.extend(number(dice));
    body.extend(dice.skewed(MACS));
    (0..5).for_each(|_| body.extend(number(dice)));
    if dice.chance(5) {
        body[dice.below(6)] ^= 1;
    }
    let length = (body.len() as u16).to_be_bytes();
    let to = if dice.chance(90) { BRIDGES } else { dice.skewed(MACS) };
    [&to[..], &dice.pick(&MACS[..4]), &tags(dice), &length, &body].concat()
}

fn arp(dice: &mut Dice) -> Bytes {
    let odd = |dice: &mut Dice| dice.chance(6);
    let mut message = vec![0, 1, 8, 0, 6, 4];
    for _ in 0..2 {
        if odd(dice) {
            message[dice.below(6)] ^= 1 << dice.below(8);
        }
    }
    message.extend(dice.pick(&[1u16, 2, 3, 4, 0, 65535]).to_be_bytes());
    let sender = dice.skewed(IPV4);
    let target = if dice.chance(25) { sender } else { dice.skewed(IPV4) };
    [message, dice.skewed(MACS).to_vec(), sender.to_vec(), dice.skewed(MACS).to_vec(), target.to_vec()]
        .concat()
}

fn ipv4(dice: &mut Dice) -> Bytes {
    let protocol = dice.pick(PROTOCOLS);
    let options = if dice.chance(15) { vec![1; 4 * (1 + dice.below(10))] } else { Vec::new() };
    let body = upper(dice, protocol);
    let words = 5 + options.len() / 4;
    let total = (words * 4 + body.len()) as u16;
    let fragment: u16 =
        if dice.chance(15) { dice.pick(&[1, 0x2000, 0x2001, 0x1fff, 0x4000, 185]) } else { 0 };
    let (mut first, mut total) = (0x40 | words as u8, total);
    match dice.below(60) {
        0 => first = 0x40 | dice.byte() & 15,
        1 => first = dice.byte(),
        2 => total = dice.pick(&[0, 19, 20, 21, 65535]),
        3 => total += 1,
        4 => total = total.saturating_sub(dice.below(30) as u16),
        _ => {}
    }
    let tos = dice.pick(&[0, 4, 0x28, 0xb8, 0xfc, 3, 0xff]);
    let mut header = vec![first, tos];
    header.extend(total.to_be_bytes());
    header.extend([0, 7]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    [header, dice.skewed(IPV4).to_vec(), dice.skewed(IPV4).to_vec(), options, body].concat()
}

fn upper(dice: &mut Dice, protocol: u8) -> Bytes {
    let ports =
        |dice: &mut Dice| [dice.skewed(NUMBERS).to_be_bytes(), dice.skewed(NUMBERS).to_be_bytes()].concat();
    match protocol {
        6 => tcp(dice),
        17 | 136 | 132 => [ports(dice), vec![0, 8, 0, 0], some(dice, 20)].concat(),
        1 | 58 => [vec![dice.skewed(SMALL), dice.skewed(SMALL), 0, 0, 0, 0, 0, 0], some(dice, 20)].concat(),
        _ => some(dice, 40),
    }
}

fn tcp(dice: &mut Dice) -> Bytes {
    let mut options = Vec::new();
    while dice.chance(40) && options.len() < 36 {
        let kind = dice.pick(&[0, 1, 2, 3, 8, 128, 255]);
        match kind {
            0 | 1 => options.push(kind),
            _ => {
                let length = dice.pick(&[2, 3, 4, 4, 0, 1, 10, 40]);
                options.extend([kind, length]);
                options.resize(
                    options.len() + usize::from(length).saturating_sub(2).min(8),
                    dice.pick(&[0, 1, 2]),
                );
            }
        }
    }
    options.resize(options.len().next_multiple_of(4).min(40), 0);
    let mut words = 5 + (options.len() / 4) as u8;
    if dice.chance(5) {
        words = dice.byte() & 15;
    }
    let flags = dice.pick(&[0, 1, 2, 4, 0x12, 0x10, 0x3f, 0xff, 0xc2]);
    let ports = [dice.skewed(NUMBERS).to_be_bytes(), dice.skewed(NUMBERS).to_be_bytes()].concat();
    [ports, vec![0; 8], vec![words << 4, flags, 1, 0, 0, 0, 0, 0], options].concat()
}

fn address6(dice: &mut Dice) -> [u8; 16] {
    let text = dice.skewed(&["fe80::1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "ff02::1", "::"]);
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

fn ipv6(dice: &mut Dice) -> Bytes {
    let last = dice.pick(PROTOCOLS);
    let mut kinds = Vec::new();
    while dice.chance(30) {
        kinds.push(dice.pick(&[0, 43, 44, 51, 60, 44, 60]));
    }
    let mut body = upper(dice, last);
    let mut next = last;
    for kind in kinds.iter().rev() {
        body = [extension(dice, *kind, next), body].concat();
        next = *kind;
    }
    let mut length = body.len() as u16;
    match dice.below(50) {
        0 => length = dice.pick(&[0, 1, 8, 65535]),
        1 => length += 1,
        2 => length = length.saturating_sub(dice.below(20) as u16),
        _ => {}
    }
    let first = if dice.chance(2) { dice.byte() } else { 0x60 | dice.pick(&[0, 1, 2, 0xb, 0xf]) };
    let mut header = vec![first, dice.pick(&[0, 0x40, 0x80, 0x8f, 0xc0, 0xff]), 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([next, 64]);
    [header, address6(dice).to_vec(), address6(dice).to_vec(), body].concat()
}

fn extension(dice: &mut Dice, kind: u8, next: u8) -> Bytes {
    let units = dice.pick(&[0, 0, 0, 1, 2]);
    let lies = if dice.chance(8) { dice.byte() } else { units };
    match kind {
        44 => {
            let offset: u16 = dice.pick(&[0, 1, 7, 8, 9, 0xfff8, 0x100]);
            [&[next, lies][..], &offset.to_be_bytes(), &[0; 4]].concat()
        }
        51 => [vec![next, lies], vec![0; (usize::from(units) + 2) * 4 - 2]].concat(),
        _ => [vec![next, lies], vec![0; (usize::from(units) + 1) * 8 - 2]].concat(),
    }
}
