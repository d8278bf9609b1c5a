//! What an audit finds, and that it finds nothing where there is nothing.

use nwfilter::audit::{Disguise, audit, witnesses};
use nwfilter::filter::read::read;
use nwfilter::library::Library;
use nwfilter::span::Source;
use std::sync::Arc;

fn with(text: &str) -> Library {
    let mut library = Library::standard();
    let (filter, _) = read(&Source::new("f.xml", text)).unwrap();
    library.filters.insert("f".into(), Arc::new(filter));
    library
}

fn messages(text: &str) -> Vec<String> {
    let library = with(text);
    let found = audit(&|name| library.get(name), "f").unwrap();
    found.iter().map(|found| format!("{found} {}", found.help.as_deref().unwrap_or_default())).collect()
}

#[test]
fn the_standard_filters_keep_what_they_promise() {
    use Disguise::*;
    let library = Library::standard();
    for (name, kept) in [
        ("clean-traffic", &[Mac, ArpMac, ArpIp, Ipv4, Ipv6][..]),
        ("clean-traffic-gateway", &[Mac, ArpMac, ArpIp, Ipv4]),
        ("no-mac-spoofing", &[Mac]),
        ("no-ip-spoofing", &[Ipv4]),
        ("no-arp-spoofing", &[ArpMac, ArpIp]),
        ("no-arp-mac-spoofing", &[ArpMac]),
        ("no-arp-ip-spoofing", &[ArpIp]),
        ("no-other-l2-traffic", &[Mac, ArpMac, ArpIp, Ipv4, Ipv6]),
    ] {
        let found = witnesses(&|name| library.get(name), name).unwrap();
        let broken: Vec<_> = found.iter().filter(|witness| kept.contains(&witness.disguise)).collect();
        // A tagged frame is judged by mac and vlan rules alone, which a filter about IP or ARP has none of.
        let broken: Vec<_> =
            broken.into_iter().filter(|witness| witness.frame[12..14] != [0x81, 0]).collect();
        assert!(broken.is_empty(), "{name}: {broken:?}");
    }
    assert_eq!(audit(&|name| library.get(name), "clean-traffic").unwrap(), []);
    // A guest may use UDP from any link-local address, so that it can ask for its own.
    let told = witnesses(&|name| library.get(name), "no-ipv6-spoofing").unwrap();
    let told = told.iter().find(|witness| witness.disguise == Ipv6).unwrap();
    assert!(nwfilter::explain::summary::of(&told.frame).contains("IPv6 fe80::2 > fe80::9, UDP"));
    // Through its gateway a guest may say anything in IPv6 and in a VLAN: so libvirt's filter has it, and the audit tells.
    let told = audit(&|name| library.get(name), "clean-traffic-gateway").unwrap();
    let plain =
        |found: &&nwfilter::diag::Diagnostic| !found.help.as_deref().unwrap_or_default().contains("VLAN");
    let plain: Vec<&str> = told.iter().filter(plain).map(|found| found.message.as_str()).collect();
    assert_eq!(
        plain,
        ["filter 'clean-traffic-gateway' lets the guest send with a foreign source address in IPv6"]
    );
    assert_eq!(told.len(), 4, "{told:?}");
}

#[test]
fn a_hole_is_shown_with_a_frame_that_goes_through_it() {
    let told = messages(
        "<filter name='f'><filterref filter='no-mac-spoofing'/><rule action='accept' direction='out' priority='-900'><udp dstportstart='53'/></rule>\
         <rule action='accept' direction='out' priority='-900'><arp opcode='2'/></rule><filterref filter='clean-traffic'/></filter>",
    );
    assert_eq!(told.len(), 3, "{told:#?}");
    for (told, hole) in
        told.iter().zip(["source MAC address", "sender MAC address in ARP", "sender IP address in ARP"])
    {
        assert!(told.contains(&format!("lets the guest send with a foreign {hole}")), "{told}");
        assert!(told.contains("ARP 192.0.2.") && told.contains("is-at"), "{told}");
    }
}

#[test]
fn a_filter_that_restricts_nothing_lets_everything_pass() {
    let library = with("<filter name='f'/>");
    assert_eq!(witnesses(&|name| library.get(name), "f").unwrap().len(), 5);
}

#[test]
fn rules_that_no_frame_reaches_are_told() {
    let told = messages(
        "<filter name='f'>\n<rule action='drop' direction='inout' priority='1'/>\n<rule action='accept' direction='out' priority='2'><mac protocolid='arp'/></rule>\n</filter>",
    );
    assert_eq!(told, ["f.xml:3:1: no frame reaches this rule of filter 'f' "]);
}
