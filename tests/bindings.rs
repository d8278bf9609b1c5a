//! Bindings: what is read and printed, what is refused and with which words.

mod libvirt;

use nwfilter::document::binding;
use nwfilter::document::diag::{Code, Diagnostic, principal};
use nwfilter::document::span::Source;

#[test]
fn libvirts_bindings_print_as_they_read() {
    let Some(bindings) = libvirt::data("bindings") else {
        return;
    };
    for (name, text) in bindings {
        let (binding, warnings) = binding::read(&Source::new("b.xml", text.as_str())).expect(&name);
        assert_eq!(binding::write(&binding), text, "{name}");
        assert!(warnings.is_empty(), "{name}: {warnings:?}");
    }
}

const OWNER: &str = "<owner><name>vm</name><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid></owner>";

fn binding_fault(inner: &str) -> Diagnostic {
    let document = format!("<filterbinding>{inner}</filterbinding>");
    let faults = binding::read(&Source::new("b.xml", document)).expect_err(inner);
    principal(&faults).clone()
}

#[test]
fn a_binding_is_refused_with_libvirts_words() {
    for (inner, message) in [
        ("", "filter binding has no port dev name"),
        ("<portdev name=''/>", "filter binding has no port dev name"),
        ("<portdev name='v'/><linkdev/>", "filter binding has no link dev name"),
        ("<portdev name='v'/>", "filter binding has no owner name"),
        ("<portdev name='v'/><owner><name>vm</name></owner>", "filter binding has no owner UUID"),
        ("<portdev name='v'/><owner><name>vm</name><uuid>x</uuid></owner>", "Unable to parse UUID 'x'"),
        (&format!("<portdev name='v'/>{OWNER}"), "filter binding has no MAC address"),
        (&format!("<portdev name='v'/>{OWNER}<mac address='x'/>"), "Unable to parse MAC 'x'"),
        (
            &format!("<portdev name='v'/>{OWNER}<mac address='1:2:3:4:5:6'/>"),
            "filter binding has no filter reference",
        ),
    ] {
        let fault = binding_fault(inner);
        assert_eq!((fault.code, fault.message.as_str()), (Code::INTERNAL, message), "{inner}");
        assert!(fault.place.is_some());
    }
    let fault = binding::read(&Source::new("b.xml", "<filter/>")).unwrap_err().remove(0);
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (Code::XML_ERROR, "expecting root element of 'filterbinding', not 'filter'")
    );
}

#[test]
fn a_port_device_has_the_name_of_an_interface() {
    for name in ["..", ".", "../../x", "a/b", "a b", "a:b", "0123456789abcdef", "a&#9;b", "\u{a0}", "a\u{85}"]
    {
        let fault = binding_fault(&format!("<portdev name='{name}'/>"));
        assert_eq!(fault.code, Code::INVALID_ARG, "{name}");
        assert!(fault.message.starts_with("interface name '"), "{}", fault.message);
    }
}

#[test]
fn a_binding_survives_its_status_document() {
    let document = "<filterbinding><owner><name>a&lt;&#13;\n b</name><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid></owner>\
         <portdev name='vnet-7%'/><linkdev name='eth0'/><mac address='52:54:0:7b:35:93'/><filterref filter='x&amp;y'>\
         <parameter name='IP' value='10.1.1.1'/><parameter name='IP' value='::1'/></filterref><backend name='nftables'/></filterbinding>";
    let (binding, warnings) = binding::read(&Source::new("b.xml", document)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(binding.owner_name, "a<\r\n b");
    let again = binding::read_status(&Source::new("s.xml", binding::write_status(&binding))).unwrap();
    assert_eq!(binding::write(&again), binding::write(&binding));
    assert_eq!(again.owner_name, binding.owner_name);
    assert_eq!(&again.source.text[again.filter_span.range()], "x&amp;y");
    for broken in [
        "<filterbindingstatus/>",
        "<filterbinding/>",
        "",
        "<filterbindingstatus><filterbinding/></filterbindingstatus>",
    ] {
        assert!(binding::read_status(&Source::new("s.xml", broken)).is_err(), "{broken}");
    }
}
