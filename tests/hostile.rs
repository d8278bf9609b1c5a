//! Documents made to hurt: each is refused, and fast.

use nwfilter::document::binding;
use nwfilter::document::diag::{Diagnostic, principal, render, render_in_color};
use nwfilter::document::filter::read::{ENTRIES, read};
use nwfilter::document::filter::validate::validate;
use nwfilter::document::span::Source;
use nwfilter::document::xml::{ATTRIBUTES, BYTES, DEPTH, decode};
use std::time::Duration;

/// Generous, for a debug build; what it guards against takes minutes.
const FAST: Duration = Duration::from_secs(10);

/// Of this thread: what else the machine has to do does not count.
fn processor_time() -> Duration {
    let reported = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    let nanoseconds = reported.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number comes first"))
}

fn refused(name: &str, text: &str) -> Vec<Diagnostic> {
    let began = processor_time();
    let source = Source::new("hostile.xml", text);
    let faults = read(&source).expect_err(name);
    assert!(validate(&source).is_err(), "{name}");
    assert!(binding::read(&source).is_err(), "{name}");
    assert!(!render_in_color(&faults).is_empty());
    let took = processor_time() - began;
    assert!(took < FAST, "{name} took {took:?}");
    faults
}

fn message(name: &str, text: &str) -> String {
    principal(&refused(name, text)).message.clone()
}

// P-38
#[test]
fn hostile_documents_are_refused_fast() {
    let nested = format!("{}{}", "<filter name='f'>".repeat(20_000), "</filter>".repeat(20_000));
    let laughs: String =
        (1..10).map(|n| format!("<!ENTITY e{n} '{}'>", format!("&e{};", n - 1).repeat(10))).collect();
    let laughs = format!("<!DOCTYPE f [<!ENTITY e0 'ha'>{laughs}]><filter name='&e9;'/>");
    let quadratic = format!(
        "<!DOCTYPE f [<!ENTITY a '{}'>]><filter name='{}'/>",
        "x".repeat(60_000),
        "&a;".repeat(20_000)
    );
    let attributes: String = (0..200_000).map(|n| format!(" a{n}='1'")).collect();
    let namespaces: String = (0..100_000).map(|n| format!(" xmlns:a{n}='u{n}'")).collect();
    for (name, text) in [
        ("20 000 nested tags", nested.as_str()),
        ("20 000 open tags", &"<a>".repeat(20_000)),
        ("billion laughs", &laughs),
        ("quadratic entity", &quadratic),
        ("external entity", "<!DOCTYPE f [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><filter name='&x;'/>"),
        ("two roots", "<filter name='f'/><filter name='g'/>"),
        ("NUL", "<filter name='a\0b'/>"),
        ("NUL by number", "<filter name='a&#0;b'/>"),
        ("many attributes", &format!("<filter name='f'{attributes}/>")),
        ("many attributes on an inner element", &format!("<filter name='f'><rule{attributes}/></filter>")),
        ("many namespaces", &format!("<filter name='f'{namespaces}/>")),
        ("10 MB", &format!("<filter name='f'>{}</filter>", " ".repeat(10 << 20))),
        ("a million elements", &format!("<filter name='f'>{}</filter>", "<a/>".repeat(1_000_000))),
        ("a million bad rules", &format!("<filter name='f'>{}</filter>", "<rule/>".repeat(150_000))),
        ("one long attribute", &format!("<filter name='{}'/>", "x".repeat(4_000_000))),
        ("nothing", ""),
        ("blanks", " \n "),
        ("text", "not xml"),
        ("half a tag", "<filter name='f'"),
        ("duplicate attribute", "<filter name='f' name='g'/>"),
        ("unbound prefix", "<x:filter name='f'/>"),
        ("unknown entity", "<filter name='&nbsp;'/>"),
    ] {
        refused(name, text);
    }
}

#[test]
fn a_refusal_names_the_limit() {
    let deep = format!("<filter name='f'>{}{}</filter>", "<a>".repeat(DEPTH), "</a>".repeat(DEPTH));
    assert_eq!(message("depth", &deep), format!("elements are nested deeper than {DEPTH} levels"));
    let wide: String = (0..=ATTRIBUTES).map(|n| format!(" a{n}='1'")).collect();
    assert_eq!(
        message("attributes", &format!("<filter name='f'{wide}/>")),
        format!("an element has more than {ATTRIBUTES} attributes")
    );
    // The schema has no such limit; who validates reads as well.
    let rules = "<rule action='drop' direction='in'/>".repeat(ENTRIES + 1);
    let faults = read(&Source::new("hostile.xml", format!("<filter name='f'>{rules}</filter>"))).unwrap_err();
    assert_eq!(principal(&faults).message, format!("a filter has at most {ENTRIES} rules and references"));
    let large = format!("<filter name='f'>{}</filter>", " ".repeat(BYTES));
    assert_eq!(message("bytes", &large), format!("hostile.xml is larger than {BYTES} bytes"));
    let declared = "\n<!DOCTYPE f [<!ELEMENT f ANY>\n<!ATTLIST f name CDATA 'x'>]><filter name='f'/>";
    let refused = "at line 3: a DOCTYPE with entities or attributes is not allowed";
    assert_eq!(message("doctype", declared), refused);
    assert!(message("last tag", "<filter name='f'>\n</filter\n\n\n").starts_with("at line 2: "));
    assert!(message("open", "<filter name='f'>\n<rule/>\n\n\n").starts_with("at line 2: "));
    assert!(
        message("bytes", &decode(b"<filter\nname='M\xfcller'/>")).starts_with("at line 2: this is no text")
    );
    assert!(
        message("encoding", &decode(b"<?xml version='1.0' encoding='martian'?><filter name='f'/>"))
            .contains("no text")
    );
}

#[test]
fn a_doctype_that_declares_nothing_is_overlooked() {
    for doctype in [
        "<!DOCTYPE filter>",
        "<!DOCTYPE filter SYSTEM '/nowhere.dtd'>",
        "<!DOCTYPE f [\n<!ELEMENT f ANY>\n]>",
    ] {
        read(&Source::new("hostile.xml", format!("<?xml version='1.0'?>\n{doctype}\n<filter name='f'/>")))
            .expect(doctype);
    }
}

#[test]
fn what_is_just_within_the_limits_is_taken() {
    let deep = format!("<filter name='f'>{}{}</filter>", "<a>".repeat(DEPTH - 1), "</a>".repeat(DEPTH - 1));
    let wide: String = (1..ATTRIBUTES).map(|n| format!(" a{n}='='")).collect();
    let rules = "<rule action='drop' direction='in'/>".repeat(ENTRIES);
    for text in [
        deep,
        format!("<filter name='f'{wide}/>"),
        format!("<filter name='f'>{rules}</filter>"),
        format!(
            "<filter name='f'><rule action='drop' direction='in'><tcp comment='{}'/></rule></filter>",
            "=".repeat(5000)
        ),
        format!("<filter name='f'><!--{}--></filter>", "=".repeat(5000)),
    ] {
        let began = processor_time();
        assert!(read(&Source::new("large.xml", text)).is_ok());
        assert!(processor_time() - began < FAST);
    }
}

#[test]
fn no_piece_of_a_document_makes_reading_panic() {
    let whole = "<?xml version='1.0'?>\n<!-- ä --><filter name='f' chain='ipv4' priority='-1'><uuid>5c6d49af-b071-6127-b4ec-\
                 6f8ed4b55335</uuid><rule action='drop' direction='in'><tcp match='no' srcipaddr='$A[1]' flags='SYN/&amp;'/>\
                 </rule><filterref filter='x'><parameter name='A' value='1'/></filterref></filter>";
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let _ = read(&Source::new("cut.xml", &whole[..end])).map_err(|faults| render(&faults));
        let without = format!("{}{}", &whole[..end], whole[end..].chars().skip(1).collect::<String>());
        let _ = read(&Source::new("hole.xml", without)).map_err(|faults| render(&faults));
    }
}
