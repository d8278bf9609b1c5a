//! Pages that are about no command: the configuration, from the file that is installed, and the filter language, from the
//! attribute table.

use super::sections::see_also;
use crate::document::filter::reference;
use crate::document::filter::schema::{PROTOCOLS, Protocol};
use roff::{Roff, bold, italic, roman};

/// The file that is installed, which documents every key.
const CONFIGURATION: &str = include_str!("../../../packaging/nwfilterd.conf");

/// nwfilterd.conf(5).
pub(super) fn configuration() -> String {
    let mut roff = begin("nwfilterd.conf", "5", "configuration of nwfilterd");
    roff.control("SH", ["DESCRIPTION"]);
    for block in CONFIGURATION.split("\n\n") {
        write_block(&mut roff, block);
    }
    roff.control("SH", ["FILES"]).control("TP", []).text([bold(crate::service::config::DEFAULT_FILE)]);
    roff.text([roman("The configuration, unless --config names another file.")]);
    see_also(&mut roff, "nwfilterd.conf");
    roff.render()
}

/// A heading, a key with its text, or a text.
fn write_block(roff: &mut Roff, block: &str) {
    let (mut text, mut key) = (Vec::new(), None);
    for line in block.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            roff.control("SH", [heading.to_uppercase().as_str()]);
        } else if let Some(words) = line.strip_prefix("# ") {
            text.push(words);
        } else if line != "#" {
            key = line.strip_prefix('#');
        }
    }
    if let Some(key) = key {
        roff.control("TP", []).text([bold(key)]);
    } else {
        roff.control("PP", []);
    }
    roff.text([roman(text.join(" "))]);
}

/// nwfilter-filter(7).
pub(super) fn filter_language() -> String {
    let mut roff = begin("nwfilter-filter", "7", "the language of network filters");
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in LANGUAGE {
        roff.control("PP", []).text([roman(*paragraph)]);
    }
    roff.control("SH", ["EXAMPLES"]).control("EX", []);
    for line in EXAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("EE", []);
    roff.control("SH", ["PROTOCOLS"]);
    PROTOCOLS.iter().for_each(|protocol| write_protocol(&mut roff, protocol));
    see_also(&mut roff, "nwfilter-filter");
    roff.render()
}

fn write_protocol(roff: &mut Roff, protocol: &'static Protocol) {
    let frames = reference::frames(protocol);
    roff.control("SS", [protocol.name]).text([roman(format!("{frames}."))]);
    for row in reference::rows(protocol) {
        roff.control("TP", []).text([bold(row.name)]);
        roff.text([roman(format!("{}; ", row.matches)), italic(row.values), roman(".")]);
    }
}

fn begin(name: &str, section: &str, about: &str) -> Roff {
    let version = format!("nwfilter {}", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", [name, section, "", version.as_str()]);
    roff.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    roff
}

/// What has to be known before the list of protocols is of use.
const LANGUAGE: &[&str] = &[
    "A filter is an XML document: <filter name='NAME' chain='CHAIN' priority='N'> with <rule> and <filterref filter='NAME'> in it. \
     A rule has an action (accept, drop, reject, return, continue), a direction (in: to the guest; out: from it; inout) and a \
     priority from -1000 to 1000, 500 by default; a lower one is judged first. It holds one protocol element, whose attributes \
     must all match. match='no' negates each of them.",
    "A frame that no rule decides is accepted. A frame must pass both layers, the Ethernet layer first. Rules for IPv4 say nothing \
     about IPv6. Rules of the IP layer never match a frame with a VLAN tag. What the host itself sends to a guest passes the IP \
     layer unless host_to_guest says otherwise.",
    "An accept rule of the IP layer is about connections: it lets the answers pass, and needs conntrack. With statematch='false' it \
     is about packets, both ways, so either side may begin. With state='NONE' it is about packets in its own direction. drop and \
     reject rules of the IP layer are about packets, both ways.",
    "A value that begins with $ is a variable; the binding gives it. $MAC is the guest's MAC address, $IP its IPv4 addresses, which \
     the daemon learns where the binding gives none (CTRL_IP_LEARNING: any, dhcp or none).",
];

const EXAMPLE: &str = "<filter name='ssh'>
  <filterref filter='clean-traffic'/>
  <rule action='accept' direction='in' priority='100'>
    <tcp dstportstart='22'/>
  </rule>
  <rule action='accept' direction='out' priority='200'>
    <all/>
  </rule>
  <rule action='drop' direction='inout' priority='900'>
    <all/>
  </rule>
</filter>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_page_has_every_key() {
        let page = configuration();
        let keys: Vec<&str> = CONFIGURATION
            .lines()
            .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
            .map(|(key, _)| key)
            .filter(|key| !key.contains(' '))
            .collect();
        assert!(keys.len() > 20, "{keys:?}");
        keys.iter()
            .for_each(|key| assert!(page.contains(&format!("\\fB{key} =")), "{key} is not in\n{page}"));
    }

    #[test]
    fn the_example_of_the_filter_page_is_a_filter() {
        let source = crate::document::span::Source::new("example", EXAMPLE);
        assert!(crate::document::filter::read::read(&source).is_ok());
    }
}
