//! Pairs on which the judges once disagreed, and others that are easily got wrong.

use crate::lab::Way;
use crate::lab::frames::{GUEST_MAC, PEER_MAC};
use nwfilter::document::vars::Vars;

/// A filter, frames, and whether they pass.
pub struct Case {
    pub name: &'static str,
    pub filter: &'static str,
    pub vars: Vars,
    pub frames: Vec<(Way, Vec<u8>)>,
    pub passes: bool,
}

pub fn cases() -> Vec<Case> {
    let tcp = [4, 5, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0];
    let behind = |header: &[u8], kind: u8| ipv6(kind, &[header, &tcp].concat());
    vec![
        drops(
            "an authentication header is the upper protocol, whatever is behind it",
            "<rule action='drop' direction='out' statematch='false'><ah-ipv6/></rule>",
            behind(&[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 51),
        ),
        passes(
            "no port is read behind an authentication header",
            "<rule action='drop' direction='out' statematch='false'><tcp-ipv6 dstportstart='80'/></rule>",
            behind(&[6, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 51),
        ),
        drops(
            "an extension header that reaches beyond the packet still names the upper protocol",
            "<rule action='drop' direction='out' statematch='false'><tcp-ipv6/></rule>",
            ipv6(60, &[6, 200]),
        ),
        passes(
            "an authentication header beyond the packet is no upper protocol",
            "<rule action='drop' direction='out' statematch='false'><ah-ipv6/></rule>",
            ipv6(43, &[51, 32, 0, 0, 0, 0, 0, 0]),
        ),
        with(
            &[("IP", "10.0.0.9")],
            drops(
                "a variable address of which no bit counts matches whatever is left of the packet",
                "<rule action='drop' direction='out'><ip srcipaddr='$IP' srcipmask='0'/></rule>",
                ipv4(17, &[])[..14 + 10].to_vec(),
            ),
        ),
        drops(
            "a length in a tag reads as the kernel's number for LLC",
            "<rule action='drop' direction='out'><vlan match='no' encap-protocol='100'/></rule>",
            [&PEER_MAC[..], &GUEST_MAC, &[0x81, 0, 0, 5, 0, 100], &[0; 100]].concat(),
        ),
        passes(
            "an option in the last byte of a TCP header is not looked at",
            "<rule action='drop' direction='out' statematch='false'><tcp option='1'/></rule>",
            ipv4(6, &[4, 5, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x60, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ),
        drops(
            "what is no TCP header with options lacks every option",
            "<rule action='drop' direction='out' statematch='false'><tcp match='no' option='2'/></rule>",
            ipv4(6, &[4, 5, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 2, 1, 0, 0, 0, 0, 0]),
        ),
    ]
}

fn with(vars: &[(&str, &str)], mut case: Case) -> Case {
    vars.iter().for_each(|(name, value)| case.vars.push(*name, *value));
    case
}

fn passes(name: &'static str, filter: &'static str, body: Vec<u8>) -> Case {
    Case { passes: true, ..drops(name, filter, body) }
}

fn drops(name: &'static str, rules: &'static str, frame: Vec<u8>) -> Case {
    let frames = vec![(Way::FromGuest, frame)];
    Case { name, filter: rules, vars: Vars::default(), frames, passes: false }
}

fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = 20 + body.len() as u8;
    let header = [0x45, 0, 0, length, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&PEER_MAC[..], &GUEST_MAC, &[8, 0], &header, body].concat()
}

fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut address = [0; 16];
    address[0] = 0xfe;
    let header = [0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
    [&PEER_MAC[..], &GUEST_MAC, &[0x86, 0xdd], &header, &address, &address, body].concat()
}
