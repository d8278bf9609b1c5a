//! The RELAX NG, the table and the validation in Rust say the same.
//!
//! `schema/nwfilterprotocols.rng` is the table, printed (`UPDATE=1` rewrites it). What it means is asked
//! of xmllint, for every attribute at every protocol and for values in and out of every set.

mod libvirt;
mod tool;

use nwfilter::document::binding;
use nwfilter::document::filter::schema::{Attribute, AttributeRole, PROTOCOLS, Protocol, ValueKind};
use nwfilter::document::filter::validate::validate;
use nwfilter::document::span::Source;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tool::{InTime, available};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What the RELAX NG calls the values of a kind.
fn type_name(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::U8 => "uint8",
        ValueKind::U16 => "uint16",
        ValueKind::U32 => "uint32",
        ValueKind::Decimal16 => "decimal16",
        ValueKind::Mac => "mac",
        ValueKind::MacMask => "mac-mask",
        ValueKind::Ipv4 => "ipv4",
        ValueKind::Ipv6 => "ipv6",
        ValueKind::Ipv4Mask => "ipv4-mask",
        ValueKind::Ipv6Mask => "ipv6-mask",
        ValueKind::Bool => "boolean",
        ValueKind::Comment => "comment",
        ValueKind::States => "states",
        ValueKind::TcpFlags => "tcp-flags",
        ValueKind::IpsetName => "ipset-name",
        ValueKind::IpsetFlags => "ipset-flags",
        ValueKind::EtherType(0x600) => "ether-type",
        ValueKind::EtherType(_) => "encapsulated-type",
        ValueKind::VlanId => "vlan-id",
        ValueKind::ArpOpcode => "arp-opcode",
        ValueKind::IpProtocol => "ip-protocol",
        ValueKind::Dscp => "dscp",
    }
}

/// Whether an attribute may only stand beside another one.
fn is_beside(attribute: &Attribute, base: &str) -> bool {
    match attribute.role {
        AttributeRole::MaskOf(other) | AttributeRole::EndOf(other) => other == base,
        _ => false,
    }
}

fn attribute_pattern(attribute: &Attribute) -> String {
    format!(
        "<attribute name=\"{}\"><ref name=\"{}\"/></attribute>",
        attribute.name,
        type_name(attribute.kind)
    )
}

/// Attributes have no order, so interleaving them says no more than a group. But a group of optional
/// attributes takes libxml2 time that doubles with each.
fn protocol_pattern(text: &mut String, protocol: &'static Protocol) {
    writeln!(text, "  <define name=\"protocol-{0}\">\n    <element name=\"{0}\"><interleave>", protocol.name)
        .unwrap();
    writeln!(text, "      <optional><attribute name=\"match\"><ref name=\"sign\"/></attribute></optional>")
        .unwrap();
    for attribute in protocol.attributes() {
        let pattern = attribute_pattern(attribute);
        let dependents: Vec<_> =
            protocol.attributes().filter(|other| is_beside(other, attribute.name)).collect();
        match attribute.role {
            AttributeRole::MaskOf(_) | AttributeRole::EndOf(_) | AttributeRole::IpsetFlags => {}
            AttributeRole::Ipset => {
                let flags =
                    protocol.attributes().find(|other| other.role == AttributeRole::IpsetFlags).unwrap();
                let flags = attribute_pattern(flags);
                writeln!(text, "      <optional>\n        {pattern}\n        {flags}\n      </optional>")
                    .unwrap();
            }
            _ if dependents.is_empty() => writeln!(text, "      <optional>{pattern}</optional>").unwrap(),
            _ => {
                writeln!(text, "      <optional>\n        {pattern}").unwrap();
                for dependent in dependents {
                    let pattern = attribute_pattern(dependent);
                    writeln!(text, "        <optional>{pattern}</optional>").unwrap();
                }
                writeln!(text, "      </optional>").unwrap();
            }
        }
    }
    writeln!(text, "    </interleave></element>\n  </define>\n").unwrap();
}

fn protocols_grammar() -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!-- The table of protocols and attributes in src/document/filter/schema.rs, printed by tests/schema.rs. -->\n\
         <grammar xmlns=\"http://relaxng.org/ns/structure/1.0\">\n\
         \x20 <define name=\"protocol\">\n    <choice>\n",
    );
    for protocol in PROTOCOLS {
        writeln!(text, "      <ref name=\"protocol-{}\"/>", protocol.name).unwrap();
    }
    text.push_str("    </choice>\n  </define>\n\n");
    text.push_str(
        "  <define name=\"sign\">\n    <choice>\n      <value type=\"string\">yes</value>\n      \
         <value type=\"string\">no</value>\n    </choice>\n  </define>\n\n",
    );
    for protocol in PROTOCOLS {
        protocol_pattern(&mut text, protocol);
    }
    text.truncate(text.len() - 1);
    text + "</grammar>\n"
}

/// What xmllint says of each document, or none, visibly, where it is not installed.
fn xmllint(grammar: &str, documents: &[String]) -> Option<Vec<bool>> {
    if !available("xmllint", "--tests") {
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..documents.len()).map(|n| format!("{n}.xml")).collect();
    for (name, document) in names.iter().zip(documents) {
        fs::write(scratch.path().join(name), document).unwrap();
    }
    let output = Command::new("xmllint")
        .args(["--noout", "--relaxng"])
        .arg(folder("schema").join(grammar))
        .args(&names)
        .current_dir(scratch.path())
        .output_in_time()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let valid: BTreeSet<&str> = said.lines().filter_map(|line| line.strip_suffix(" validates")).collect();
    let invalid: BTreeSet<&str> =
        said.lines().filter_map(|line| line.strip_suffix(" fails to validate")).collect();
    assert_eq!(valid.len() + invalid.len(), documents.len(), "{said}");
    Some(names.iter().map(|name| valid.contains(name.as_str())).collect())
}

fn is_valid(document: &str) -> bool {
    validate(&Source::new("test.xml", document)).is_ok()
}

/// Both sides must say the same, and not always the same.
fn agree(documents: &[String]) {
    let Some(verdicts) = xmllint("nwfilter.rng", documents) else {
        return;
    };
    for (document, verdict) in documents.iter().zip(&verdicts) {
        let faults = validate(&Source::new("test.xml", document.as_str()));
        assert_eq!(faults.is_ok(), *verdict, "{document}\n{faults:?}");
    }
    assert!(verdicts.contains(&true) && verdicts.contains(&false));
}

fn filter(rules: &str) -> String {
    format!("<filter name='f'>{rules}</filter>")
}

fn rule(element: &str) -> String {
    filter(&format!("<rule action='drop' direction='in'>{element}</rule>"))
}

/// One value that is allowed.
fn sample(kind: ValueKind) -> &'static str {
    match kind {
        ValueKind::Mac | ValueKind::MacMask => "ff:ff:ff:00:00:00",
        ValueKind::Ipv4 => "192.0.2.1",
        ValueKind::Ipv6 => "2001:db8::1",
        ValueKind::Bool => "true",
        ValueKind::States => "NEW,RELATED",
        ValueKind::TcpFlags => "SYN,ACK/SYN",
        ValueKind::IpsetFlags => "src,dst",
        ValueKind::EtherType(_) => "0x0806",
        _ => "9",
    }
}

const VALUES: &[&str] = &[
    "",
    "0",
    "00",
    "01",
    "9",
    "10",
    "32",
    "33",
    "59",
    "60",
    "0x3b",
    "0x3c",
    "0x03c",
    "0x00",
    "0xfff",
    "0x1000",
    "63",
    "64",
    "0x3f",
    "0x40",
    "99",
    "100",
    "128",
    "129",
    "199",
    "255",
    "256",
    "0xff",
    "0xFF",
    "0Xa",
    "0x",
    "0x100",
    "0x0a",
    "0x00a",
    "ff",
    "-1",
    "+1",
    " 1",
    "1 ",
    "1.0",
    "1535",
    "1536",
    "1999",
    "4095",
    "4096",
    "0x5ff",
    "0x600",
    "0x0600",
    "0x00600",
    "9999",
    "65535",
    "65536",
    "0xffff",
    "0x10000",
    "4294967295",
    "4294967296",
    "4294967300",
    "999999999",
    "9999999999",
    "0xffffffff",
    "0x100000000",
    "1:2:3:4:5:6",
    "aa:BB:cc:dd:ee:ff",
    "1:2:3:4:5",
    "1:2:3:4:5:6:7",
    "001:2:3:4:5:6",
    "g:2:3:4:5:6",
    "ff:ff:ff:ff:ff:ff",
    "ff:fe:0:00:0:00",
    "ff:ff:e0:0:0:0",
    "fe:ff:00:00:00:00",
    "ff:0:f0:0:0:0",
    "0:0:0:0:0:0",
    "f:0:0:0:0:0",
    "80:0:0:0:0:0",
    "1.2.3.4",
    "1.2.3",
    "1.2.3.256",
    "01.2.3.4",
    "1.2.3.4.5",
    "255.255.255.0",
    "255.255.0.255",
    "255.0.0.0",
    "254.0.0.0",
    "253.0.0.0",
    "128.128.0.0",
    "0.0.0.0",
    "255.255.255.255",
    "::",
    ":",
    ":::",
    "::1",
    "1::",
    "1:2:3:4:5:6:7:8",
    "1:2:3:4:5:6:7::",
    "1:2:3:4:5:6:7:8:9",
    "1:2:3:4:5:6:7:8:9:0",
    "::ffff:1.2.3.4",
    "1.2.3.4::",
    "::12345",
    "::1%lo",
    "fe80::1",
    "ffff:ffff::",
    "true",
    "false",
    "yes",
    "no",
    "1",
    "True",
    "maybe",
    "NEW",
    "NEW,ESTABLISHED,RELATED,INVALID",
    "new",
    "NEW,",
    "NEW ESTABLISHED",
    "NONE",
    "NONE,NEW",
    "SYN/SYN",
    "SYN,ACK/NONE",
    "ALL/FIN,URG,PSH",
    "ALL,SYN/SYN",
    "/",
    "SYN/",
    "SYN",
    "syn/syn",
    "SYN/SYN/SYN",
    "src",
    "src,dst",
    "SRC,dSt,SRC",
    "src,src,src,src,src,src",
    "src,src,src,src,src,src,src",
    "src,",
    ",src",
    "src dst",
    "a-b_c.d:e+f g",
    "a/b",
    "0123456789012345678901234567890",
    "01234567890123456789012345678901",
    "arp",
    "ARP",
    "rarp",
    "ipv4",
    "ipv6",
    "vlan",
    "Request",
    "request",
    "ARP_NAK",
    "DRARP_Error",
    "10",
    "tcp",
    "udplite",
    "icmpv6",
    "TCP",
    "$A",
    "$",
    "$A[1]",
    "$A[@1]",
    "$A[ @ 1 ]",
    "$A[]",
    "$A[x]",
    "$A[1",
    "$A[1]x",
    "$ A",
    "$A-B",
    "$9",
    "$A[12345678901]",
    "ä",
    "a\u{2028}b",
];

#[test]
fn the_protocol_grammar_is_the_table() {
    let path = folder("schema").join("nwfilterprotocols.rng");
    let grammar = protocols_grammar();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &grammar).unwrap();
    }
    assert!(fs::read_to_string(path).unwrap() == grammar, "UPDATE=1 cargo test --test schema rewrites it");
}

#[test]
fn every_protocol_has_its_attributes_and_no_other() {
    let all: BTreeSet<(&str, &str)> = PROTOCOLS
        .iter()
        .flat_map(|protocol| protocol.attributes())
        .map(|attribute| (attribute.name, sample(attribute.kind)))
        .collect();
    let mut documents = Vec::new();
    for protocol in PROTOCOLS {
        for (name, value) in &all {
            documents.push(rule(&format!("<{} {name}='{value}'/>", protocol.name)));
        }
        for attribute in protocol.attributes() {
            for base in protocol.attributes().filter(|base| base.name != attribute.name) {
                let Attribute { name, kind, .. } = attribute;
                documents.push(rule(&format!(
                    "<{} match='no' {name}='{}' {}='{}'/>",
                    protocol.name,
                    sample(*kind),
                    base.name,
                    sample(base.kind)
                )));
            }
        }
    }
    agree(&documents);
}

#[test]
fn every_attribute_stands_in_some_valid_document() {
    for protocol in PROTOCOLS {
        let attributes: String = protocol
            .attributes()
            .map(|attribute| format!(" {}='{}'", attribute.name, sample(attribute.kind)))
            .collect();
        let document = rule(&format!("<{}{attributes}/>", protocol.name));
        assert!(is_valid(&document), "{document}");
    }
}

#[test]
fn every_kind_has_one_set_of_values() {
    let mut seen = BTreeSet::new();
    let mut documents = Vec::new();
    for protocol in PROTOCOLS {
        for attribute in protocol.attributes().filter(|attribute| seen.insert(attribute.kind)) {
            let beside: String = protocol
                .attributes()
                .filter(|other| other.name != attribute.name)
                .map(|other| format!(" {}='{}'", other.name, sample(other.kind)))
                .collect();
            for value in VALUES {
                documents.push(rule(&format!("<{}{beside} {}='{value}'/>", protocol.name, attribute.name)));
            }
        }
    }
    for length in [255, 256, 257] {
        documents.push(rule(&format!("<tcp comment='{}'/>", "ä".repeat(length))));
    }
    agree(&documents);
}

#[test]
fn documents_have_one_structure() {
    let mut documents: Vec<String> = [
        "<rule action='drop' direction='in'/>",
        "<rule action='Drop' direction='in'/>",
        "<rule action='drop'/>",
        "<rule direction='in'/>",
        "<rule action='drop' direction='both'/>",
        "<rule action='drop' direction='in'><tcp/><tcp/></rule>",
        "<rule action='drop' direction='in'><tcp/><udp/></rule>",
        "<rule action='drop' direction='in'><tcp><tcp/></tcp></rule>",
        "<rule action='drop' direction='in'><tcp>text</tcp></rule>",
        "<rule action='drop' direction='in'> <!-- why --> <tcp> </tcp> </rule>",
        "<rule action='drop' direction='in'>text<tcp/></rule>",
        "<rule action='drop' direction='in'><gre/></rule>",
        "<rule action='drop' direction='in'><tcp match='yes'/></rule>",
        "<rule action='drop' direction='in'><tcp match='maybe'/></rule>",
        "<rule action='drop' direction='in'><tcp xmlns='urn:x'/></rule>",
        "<rule action='drop' direction='in'><tcp xmlns:x='urn:x' x:dscp='1'/></rule>",
        "<rule action='drop' direction='in' more='1'/>",
        "<uuid>5c6d49af-b071-6127-b4ec-6f8ed4b55335</uuid>",
        "<uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid>",
        "<uuid>5c6d49af-b0716127b4ec6f8ed4b55335</uuid>",
        "<uuid>5c6d49af-b071-6127-b4ec-6f8ed4b5533</uuid>",
        "<uuid/>",
        "<uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid>",
        "<rule action='drop' direction='in'/><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid><filterref filter='a'/>",
        "<filterref filter='a'/>",
        "<filterref/>",
        "<filterref filter=''/>",
        "<filterref filter='a/b'/>",
        "<filterref filter='a' more='1'/>",
        "<filterref filter='a'><parameter name='A' value='1.2.3.4'/><parameter name='A' value='::1'/></filterref>",
        "<filterref filter='a'><parameter name='A'/></filterref>",
        "<filterref filter='a'><parameter value='1'/></filterref>",
        "<filterref filter='a'><parameter name='' value='1'/></filterref>",
        "<filterref filter='a'><parameter name='A' value=''/></filterref>",
        "<filterref filter='a'><parameter name='A' value='1/2'/></filterref>",
        "<filterref filter='a'><parameter name='A' value='1'>x</parameter></filterref>",
        "<filterref filter='a'><rule/></filterref>",
        "<other/>",
        "text",
        "",
    ]
    .map(filter)
    .into();
    for value in ["500", "-1000", "1000", "1001", "-1001", "0", "-0", "007", "", "x", "+5"] {
        documents.push(filter(&format!("<rule action='drop' direction='in' priority='{value}'/>")));
        documents.push(format!("<filter name='f' chain='root' priority='{value}'/>"));
    }
    for value in ["0", "false", "False", "FALSE", "1", "true", ""] {
        documents.push(filter(&format!("<rule action='drop' direction='in' statematch='{value}'/>")));
    }
    for value in [
        "root",
        "rootx",
        "mac",
        "macvlan",
        "ipv4-ip",
        "ipv4-ip-long",
        "ipv4-ip-longer",
        "arp/x",
        "ip",
        "",
        "arp_.:-9",
    ] {
        documents.push(format!("<filter name='f' chain='{value}'/>"));
    }
    let (longest, longer) = ("ä".repeat(128), "ä".repeat(129));
    for value in [
        "f", "a b", "-a", ".a", "a.b", "a/b", "a&#10;b", "a&#x85;b", "a&#x7f;", "&lt;", "", &longest, &longer,
    ] {
        documents.push(format!("<filter name='{value}'/>"));
    }
    documents.push("<filter/>".to_owned());
    documents.push("<filter name='f' xmlns='urn:x'/>".to_owned());
    documents.push("<?xml version='1.0'?><!-- x --><filter name='f'/><?pi x?>".to_owned());
    agree(&documents);
}

#[test]
fn bindings_have_one_structure() {
    const OWNER: &str = "<owner><name>vm</name><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid></owner>";
    const REST: &str = "<mac address='52:54:00:00:00:01'/><filterref filter='f'/>";
    let mut documents: Vec<String> = [
        format!("{OWNER}<portdev name='vnet0'/>{REST}"),
        format!("{REST}<portdev name='vnet0'/>{OWNER}<linkdev name='eth0'/><backend name='nftables'/>"),
        format!("{OWNER}{REST}"),
        format!("<portdev name='vnet0'/>{REST}"),
        format!("{OWNER}<portdev name='vnet0'/><portdev name='vnet0'/>{REST}"),
        format!("{OWNER}<portdev/>{REST}"),
        format!("{OWNER}<portdev name='vnet0'>x</portdev>{REST}"),
        format!("{OWNER}<portdev name='vnet0'/><mac address='52:54'/><filterref filter='f'/>"),
        format!("{OWNER}<portdev name='vnet0'/><mac address='52:54:00:00:00:01'/>"),
        format!("{OWNER}<portdev name='vnet0'/>{REST}<more/>"),
        format!(
            "<owner><name/><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid></owner><portdev name='v'/>{REST}"
        ),
        format!("<owner><name>vm</name><uuid>5c6d</uuid></owner><portdev name='v'/>{REST}"),
        format!("<owner><name>vm</name></owner><portdev name='v'/>{REST}"),
    ]
    .into();
    for name in [
        "v",
        "v.0",
        ".",
        "..",
        "...",
        "a/b",
        "a:b",
        "a b",
        "0123456789abcde",
        "0123456789abcdef",
        "",
        "ä",
        "%~!",
    ] {
        documents.push(format!("{OWNER}<portdev name='{name}'/>{REST}"));
    }
    let documents: Vec<String> =
        documents.iter().map(|inner| format!("<filterbinding>{inner}</filterbinding>")).collect();
    let Some(verdicts) = xmllint("nwfilterbinding.rng", &documents) else {
        return;
    };
    for (document, verdict) in documents.iter().zip(verdicts) {
        let faults = binding::validate::validate(&Source::new("test.xml", document.as_str()));
        assert_eq!(faults.is_ok(), verdict, "{document}\n{faults:?}");
    }
}

fn documents_of(folder: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut documents: Vec<(String, String)> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "xml"))
        .map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    documents.sort();
    documents
}

#[test]
fn the_standard_filters_and_the_examples_are_valid() {
    let mut documents = documents_of(&folder("filters"));
    assert_eq!(documents.len(), 24);
    documents.extend(documents_of(&folder("schema/examples/filter")));
    assert!(documents.len() > 24);
    for (name, document) in &documents {
        assert!(is_valid(document), "{name}");
    }
    let texts: Vec<String> = documents.into_iter().map(|(_, text)| text).collect();
    if let Some(verdicts) = xmllint("nwfilter.rng", &texts) {
        assert!(verdicts.iter().all(|verdict| *verdict));
    }
    let bindings = documents_of(&folder("schema/examples/binding"));
    assert!(!bindings.is_empty());
    let texts: Vec<String> = bindings.into_iter().map(|(_, text)| text).collect();
    for text in &texts {
        assert!(binding::validate::validate(&Source::new("test.xml", text.as_str())).is_ok(), "{text}");
    }
    if let Some(verdicts) = xmllint("nwfilterbinding.rng", &texts) {
        assert!(verdicts.iter().all(|verdict| *verdict));
    }
}

#[test]
fn libvirts_inputs_are_valid_exactly_where_libvirt_says_so() {
    let Some(inputs) = libvirt::data("xml-in") else {
        return;
    };
    for (name, document) in &inputs {
        assert_eq!(is_valid(document), !name.ends_with("-invalid"), "{name}");
    }
    let texts: Vec<String> = inputs.into_iter().map(|(_, text)| text).collect();
    agree(&texts);
}
