//! One connection, without a socket: what libvirt 12.8 was seen to answer.

use crate::served::{answered, body, check_answer, filter, opening, text, word};
use nwfilter::engine::api::{BindingId, FilterId, Reply};
use nwfilter::engine::error::{Domain, Error, ErrorNumber};
use nwfilter::service::rpc::proto::{
    self, COMMAND, HEADER, Header, KEEPALIVE, LIST_MAX, REMOTE, STRING_MAX, kind,
};
use nwfilter::service::rpc::session::{Access, Keepalive, KeepaliveEvent, Session, Step, respond};
use nwfilter::service::rpc::wire_error;
use nwfilter::service::rpc::xdr::{Reader, Writer};
use std::time::Duration;
use uuid::Uuid;

pub fn session(access: Access) -> Session {
    Session::new(access, Keepalive { interval: Duration::from_secs(5), count: 5 })
}

fn opened(access: Access, flags: u32) -> Session {
    let mut session = session(access);
    ask(&mut session, 66, &[]).unwrap();
    ask(&mut session, 1, &opening("nwfilter:///system", flags)).unwrap();
    session
}

fn ask(session: &mut Session, procedure: i32, body: &[u8]) -> Result<Vec<u8>, Error> {
    match session.receive(Duration::ZERO, &Header::call(REMOTE, procedure, 3), body) {
        Step::Send(frame) | Step::Last(frame) => {
            let mut from = Reader::new(&frame[4..]);
            let head = Header::read(&mut from).unwrap();
            answered(&head, frame[HEADER..].to_vec())
        }
        Step::Ask(head, _) => {
            Err(Error::new(ErrorNumber::SystemError, Domain::None, format!("asked {}", head.procedure)))
        }
        step => panic!("{step:?}"),
    }
}

/// (procedure, body, what comes back: words of the result, or code, domain and text of the error).
type Talk = (i32, Vec<u8>, Result<&'static [u32], (i32, i32, &'static str)>);

fn check(mut session: Session, talks: &[Talk]) {
    for (procedure, body, expected) in talks {
        let got = ask(&mut session, *procedure, body);
        let got = got.map_err(|error| (error.code as i32, error.domain as i32, error.message));
        let expected =
            (*expected).map(|words| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>());
        let expected = expected.map_err(|(code, domain, text)| (code, domain, text.to_owned()));
        assert_eq!(got, expected, "procedure {procedure}, body {body:x?}");
    }
}

#[test]
fn a_connection_must_authenticate_and_open_first() {
    let unauthenticated = Err((39, 7, "authentication required"));
    let closed = Err((1, 7, "internal error: connection not open"));
    let closed_driver = Err((1, 7, "internal error: hypervisor connection not open"));
    check(
        session(Access::Full),
        &[
            (286, body(|to| to.u32(1).u32(0)), unauthenticated),
            (1, opening("nwfilter:///system", 0), unauthenticated),
            (9999, vec![], Err((39, 7, "unknown procedure: 9999"))),
            (70, vec![], Err((45, 7, "authentication failed: authentication failed"))),
            (66, vec![], Ok(&[1, 0])),
            (286, body(|to| to.u32(1).u32(0)), closed),
            (60, word(8), closed_driver),
            (60, word(10), Ok(&[1])),
            (3, vec![], closed_driver),
            (4, vec![], closed_driver),
            (360, vec![], closed_driver),
            (66, body(|to| to.u32(5)), Ok(&[1, 0])),
            (2, vec![], Ok(&[])),
        ],
    );
}

#[test]
fn one_uri_can_be_opened_and_once() {
    let refused = |name: &str, error: (i32, i32, &'static str)| {
        check(session(Access::Full), &[(66, vec![], Ok(&[1, 0])), (1, opening(name, 0), Err(error))]);
    };
    refused(
        "nwfilter:///session",
        (1, 33, "internal error: unexpected nwfilter URI path '/session', try nwfilter:///system"),
    );
    refused(
        "nwfilter:///",
        (1, 33, "internal error: unexpected nwfilter URI path '/', try nwfilter:///system"),
    );
    refused("qemu:///system", (5, 0, "no connection driver available for qemu:///system"));
    refused("", (5, 0, "no connection driver available for <null>"));
    let nameless = (1, body(|to| to.u32(0).u32(0)), Err((1, 7, "internal error: connection not open")));
    check(session(Access::Full), &[(66, vec![], Ok(&[1, 0])), nameless]);
    check(
        session(Access::Full),
        &[
            (66, vec![], Ok(&[1, 0])),
            (1, opening("nwfilter:///system?x=y", 0xff), Ok(&[])),
            (1, opening("nwfilter:///system", 0), Err((1, 7, "internal error: connection already open"))),
        ],
    );
}

#[test]
fn what_is_not_about_filters_is_answered_as_libvirt_does() {
    let unsupported = |text| Err((3, 20, text));
    for feature in 0..20 {
        let there = matches!(feature, 8 | 10 | 14 | 15);
        check(opened(Access::Full, 0), &[(60, word(feature), Ok(if there { &[1] } else { &[0] }))]);
    }
    check(
        opened(Access::Full, 0),
        &[
            (3, vec![], Ok(&[8, 0x6e776669, 0x6c746572])),
            (157, vec![], Ok(&[0, 12_008_000])),
            (110, vec![], Ok(&[18, 0x6e776669, 0x6c746572, 0x3a2f2f2f, 0x73797374, 0x656d0000])),
            (149, vec![], Ok(&[1])),
            (360, vec![], Ok(&[])),
            (360, vec![], Ok(&[])),
            (361, vec![], Ok(&[])),
            (361, vec![], Ok(&[])),
            (
                4,
                vec![],
                unsupported("this function is not supported by the connection driver: virConnectGetVersion"),
            ),
            (
                59,
                vec![],
                unsupported("this function is not supported by the connection driver: virConnectGetHostname"),
            ),
            (
                7,
                vec![],
                unsupported(
                    "this function is not supported by the connection driver: virConnectGetCapabilities",
                ),
            ),
            (
                6,
                vec![],
                unsupported("this function is not supported by the connection driver: virNodeGetInfo"),
            ),
            (
                203,
                word(0),
                unsupported("this function is not supported by the connection driver: virConnectGetSysinfo"),
            ),
            (
                273,
                body(|to| to.u32(1).u32(3)),
                unsupported(
                    "this function is not supported by the connection driver: virConnectListAllDomains",
                ),
            ),
            (
                316,
                vec![],
                unsupported(
                    "this function is not supported by the connection driver: virConnectDomainEventRegisterAny",
                ),
            ),
            (
                52,
                vec![],
                Err((
                    3,
                    19,
                    "this function is not supported by the connection driver: virConnectNumOfNetworks",
                )),
            ),
            (9999, vec![], Err((39, 7, "unknown procedure: 9999"))),
            (-1, vec![], Err((39, 7, "unknown procedure: -1"))),
        ],
    );
}

#[test]
fn an_identity_is_taken_when_it_is_one() {
    let identity = |field: &str, kind: i32| {
        let value = |to: &mut Writer| match kind {
            7 => drop(to.string("root")),
            _ => drop(to.i64(0)),
        };
        let mut to = Writer::default();
        value(to.u32(1).string(field).i32(kind));
        to.u32(0);
        to.into_bytes()
    };
    let unknown = "argument unsupported: parameter 'foo' not supported";
    let wrong = "invalid argument: invalid type 'string' for parameter 'process-id', expected 'llong'";
    check(
        opened(Access::Full, 0),
        &[
            (419, body(|to| to.u32(0).u32(0)), Ok(&[])),
            (419, identity("process-id", 3), Ok(&[])),
            (419, identity("system.token", 7), Ok(&[])),
            (419, identity("foo", 3), Err((74, 0, unknown))),
            (419, identity("process-id", 7), Err((8, 0, wrong))),
            (419, identity("process-id", 9), Err((39, 7, "Unable to decode message payload"))),
            (419, body(|to| to.u32(21)), Err((39, 7, "Unable to decode message payload"))),
        ],
    );
}

#[test]
fn what_cannot_be_decoded_is_refused_and_changes_nothing() {
    let undecodable = Err((39, 7, "Unable to decode message payload"));
    let long = body(|to| to.u32(STRING_MAX as u32 + 1));
    let too_long = text(&"x".repeat(STRING_MAX + 1));
    check(
        opened(Access::Full, 0),
        &[
            (175, vec![], undecodable),
            (175, word(0xffff_ffff), undecodable),
            (175, long, undecodable),
            (180, too_long, undecodable),
            (176, vec![0; 12], undecodable),
            (286, word(1), undecodable),
            (175, [text("a"), vec![9; 40]].concat(), Err((38, 0, "asked 175"))),
        ],
    );
}

#[test]
fn flags_and_numbers_libvirt_does_not_know_are_refused() {
    let name = || filter("a", Uuid::nil());
    let pair = || body(|to| to.string("a").string("b"));
    let with = |body: Vec<u8>, flags: u32| [body, word(flags)].concat();
    check(
        opened(Access::Full, 0),
        &[
            (
                286,
                body(|to| to.u32(1).u32(1)),
                Err((8, 33, "unsupported flags (0x1) in function nwfilterConnectListAllNWFilters")),
            ),
            (
                401,
                body(|to| to.u32(1).u32(1)),
                Err((8, 33, "unsupported flags (0x1) in function nwfilterConnectListAllNWFilterBindings")),
            ),
            (177, with(name(), 1), Err((8, 33, "unsupported flags (0x1) in function nwfilterGetXMLDesc"))),
            (
                398,
                with(pair(), 2),
                Err((8, 33, "unsupported flags (0x2) in function nwfilterBindingGetXMLDesc")),
            ),
            (
                399,
                with(text("x"), 4),
                Err((8, 33, "unsupported flags (0x4) in function nwfilterBindingCreateXML")),
            ),
            (
                431,
                with(text("x"), 9),
                Err((8, 33, "unsupported flags (0x8) in function nwfilterDefineXMLFlags")),
            ),
            (431, with(text("x"), 1), Err((38, 0, "asked 431"))),
            (179, word(u32::MAX), Err((39, 7, "maxnames must be non-negative"))),
            (179, word(LIST_MAX as u32 + 1), Err((39, 7, "maxnames > REMOTE_NWFILTER_LIST_MAX"))),
            (179, word(LIST_MAX as u32), Err((38, 0, "asked 179"))),
        ],
    );
}

#[test]
fn a_read_only_connection_can_look_and_nothing_else() {
    let refused = |function| Err((29, 33, function));
    let writes: Vec<Talk> = vec![
        (180, text("x"), refused("operation forbidden: read only access prevents virNWFilterDefineXML")),
        (
            431,
            [text("x"), word(8)].concat(),
            refused("operation forbidden: read only access prevents virNWFilterDefineXMLFlags"),
        ),
        (
            181,
            filter("a", Uuid::nil()),
            refused("operation forbidden: read only access prevents virNWFilterUndefine"),
        ),
        (
            399,
            [text("x"), word(0)].concat(),
            refused("operation forbidden: read only access prevents virNWFilterBindingCreateXML"),
        ),
        (
            400,
            body(|to| to.string("a").string("b")),
            refused("operation forbidden: read only access prevents virNWFilterBindingDelete"),
        ),
        (175, text("a"), Err((38, 0, "asked 175"))),
        (286, body(|to| to.u32(1).u32(0)), Err((38, 0, "asked 286"))),
    ];
    check(opened(Access::Full, 1), &writes);
    check(opened(Access::ReadOnly, 0), &writes);
    check(opened(Access::ReadOnly, 1), &writes);
}

#[test]
fn only_a_read_only_socket_keeps_the_command_from_writing() {
    let asked = |session: &mut Session, procedure| {
        let call = Header::call(COMMAND, procedure, 0);
        let body = match procedure {
            proto::command::DEFINE => body(|to| to.u32(0)),
            _ => body(|to| to.string("x").u32(0).u32(0)),
        };
        matches!(session.receive(Duration::ZERO, &call, &body), Step::Ask(..))
    };
    let allowed = |access| {
        (1..=proto::command::UNDEFINE + 1)
            .filter(|procedure| asked(&mut session(access), *procedure))
            .collect::<Vec<_>>()
    };
    assert_eq!(allowed(Access::Full), (1..=proto::command::UNDEFINE).collect::<Vec<_>>());
    assert_eq!(allowed(Access::ReadOnly), [proto::command::STATUS, proto::command::BOUND]);
}

#[test]
fn frames_that_are_no_calls_are_dropped_and_odd_calls_refused() {
    let mut session = opened(Access::Full, 0);
    let call = Header::call(REMOTE, 66, 2);
    let mut step = |head: Header| session.receive(Duration::ZERO, &head, &[]);
    for kind in [1, 2, 3, 5, 6, 77, -1] {
        assert_eq!(step(Header { kind, ..call }), Step::Ignore, "kind {kind}");
        assert_eq!(step(Header { kind, program: 9, ..call }), Step::Ignore, "kind {kind}");
    }
    assert_eq!(step(Header { kind: kind::CALL_WITH_FDS, ..call }), Step::Close);
    let texts = [
        (Header { status: 1, ..call }, "Unexpected message status 1"),
        (Header { version: 2, ..call }, "Cannot find program 536903814 version 2"),
        (Header { program: 0x1111_1111, ..call }, "Cannot find program 286331153 version 1"),
        (Header { procedure: 9999, ..call }, "unknown procedure: 9999"),
    ];
    for (head, text) in texts {
        let Step::Send(frame) = step(head) else { panic!("{text}") };
        let error = wire_error::read(&mut Reader::new(&frame[HEADER..])).unwrap();
        assert_eq!((error.code, error.domain, error.message.as_str()), (ErrorNumber::Rpc, Domain::Rpc, text));
    }
}

#[test]
fn answers_have_the_bytes_libvirt_sends() {
    // (call, answer, length of libvirt 12.8's frame)
    let found = || Ok(Reply::Filter(FilterId { name: "clean-traffic".into(), uuid: Uuid::nil() }));
    let filters = (0..24).map(|_| FilterId { name: "12345678".into(), uuid: Uuid::nil() }).collect();
    let cases = [
        (175, found(), 64),
        (175, Err(Error::no_filter_named("nosuchfilter")), 236),
        (397, Err(Error::no_binding("nosuchport")), 252),
        (397, Ok(Reply::Binding(BindingId { portdev: "capt0".into(), filter: "clean-traffic".into() })), 60),
        (286, Ok(Reply::Filters(filters)), 28 + 4 + 24 * 28 + 4),
        (286, Ok(Reply::Count(24)), 36),
        (178, Ok(Reply::Count(24)), 32),
        (181, Err(Error::invalid("nwfilter is in use")), 196),
        (181, Ok(Reply::Done), 28),
        (399, Err(Error::failed("binding 'capt0' already exists")), 188),
        (399, Err(Error::internal("referenced filter 'no-such-filter' is missing")), 216),
        (399, Err(Error::xml("expecting root element of 'filterbinding', not 'x'")), 216),
        (180, Err(Error::xml_detail("at line 1: Start tag expected, '<' not found\nnot xml\n^")), 200),
        (176, Err(Error::no_filter_with(Uuid::nil())), 284),
        (177, Err(Error::unsupported_flags("nwfilterGetXMLDesc", 1)), 168),
        (59, Err(Error::no_support(Domain::Domain, "virConnectGetHostname")), 252),
    ];
    for (procedure, answer, length) in cases {
        let head = Header::call(REMOTE, procedure, 6);
        let shown = format!("{answer:?}");
        let frame = respond(&head, answer);
        check_answer(&head, &frame);
        assert_eq!(frame.len(), length, "{shown}");
    }
    let unknown_program = "0000002700000007000000010000002743616e6e6f742066696e642070726f6772616d203238363333\
        313135332076657273696f6e2031000000000200000000";
    let head = Header::call(0x1111_1111, 1, 2);
    let Step::Send(frame) = opened(Access::Full, 0).receive(Duration::ZERO, &head, &[]) else { panic!() };
    let hex: String = frame[HEADER..].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(hex.starts_with(&unknown_program.replace(' ', "")), "{hex}");
}

#[test]
fn an_answer_that_does_not_fit_or_is_too_big_becomes_an_error() {
    let error = |procedure, reply| {
        let frame = respond(&Header::call(REMOTE, procedure, 0), Ok(reply));
        wire_error::read(&mut Reader::new(&frame[HEADER..])).unwrap().message
    };
    assert_eq!(error(177, Reply::Done), "internal error: the answer does not fit the call");
    assert_eq!(error(177, Reply::Xml("x".repeat(STRING_MAX + 1))), "Unable to encode message payload");
    let many = vec![FilterId { name: "a".into(), uuid: Uuid::nil() }; LIST_MAX + 1];
    assert_eq!(error(286, Reply::Filters(many)), "Too many nwfilters '16385' for limit '16384'");
}

#[test]
fn a_client_that_can_pong_is_pinged_and_given_up() {
    let second = Duration::from_secs;
    let mut session = session(Access::Full);
    assert_eq!(
        (session.next_beat(), session.beat(second(99))),
        (None, KeepaliveEvent::Quiet),
        "it never said it can"
    );
    ask(&mut session, 66, &[]).unwrap();
    ask(&mut session, 60, &word(10)).unwrap();
    let ping = || KeepaliveEvent::Ping(proto::keepalive_frame(proto::keepalive::PING));
    assert_eq!(session.next_beat(), Some(second(5)));
    assert_eq!(session.beat(second(4)), KeepaliveEvent::Quiet);
    for time in [5, 10, 15, 20, 25] {
        assert_eq!(session.beat(second(time)), ping(), "at {time}");
        assert_eq!(session.next_beat(), Some(second(time + 5)));
    }
    assert_eq!(session.beat(second(29)), KeepaliveEvent::Quiet);
    let pong = Header { kind: kind::MESSAGE, ..Header::call(KEEPALIVE, proto::keepalive::PONG, 0) };
    assert_eq!(session.receive(second(29), &pong, &[]), Step::Ignore);
    for time in [34, 39, 44, 49, 54] {
        assert_eq!(session.beat(second(time)), ping(), "at {time}");
    }
    assert_eq!(session.beat(second(59)), KeepaliveEvent::Dead);
}
