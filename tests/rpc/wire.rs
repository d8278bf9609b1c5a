//! Bytes: whatever is written is read back, and no bytes do any harm.

use crate::served::{body, check_answer, text, word};
use crate::talk::session;
use nwfilter::engine::api::Request;
use nwfilter::engine::error::{Domain, Error, ErrorNumber};
use nwfilter::service::rpc::frames::{BadLength, Frames};
use nwfilter::service::rpc::proto::{self, COMMAND, FRAME_MAX, Header, KEEPALIVE, REMOTE, STRING_MAX};
use nwfilter::service::rpc::session::{Access, Step};
use nwfilter::service::rpc::wire_error;
use nwfilter::service::rpc::xdr::{Malformed, Reader, Writer};
use proptest::prelude::*;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq)]
enum Value {
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    Text(String),
    Fixed([u8; 16]),
    Option(Option<i64>),
    List(Vec<String>),
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e300..1e300).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        "[^\0]{0,40}".prop_map(Value::Text),
        any::<[u8; 16]>().prop_map(Value::Fixed),
        any::<Option<i64>>().prop_map(Value::Option),
        prop::collection::vec("[^\0]{0,9}", 0..9).prop_map(Value::List),
    ]
}

fn write_value<'a>(to: &'a mut Writer, value: &Value) -> &'a mut Writer {
    match value {
        Value::U32(it) => to.u32(*it),
        Value::I32(it) => to.i32(*it),
        Value::U64(it) => to.u64(*it),
        Value::I64(it) => to.i64(*it),
        Value::F64(it) => to.f64(*it),
        Value::Bool(it) => to.bool(*it),
        Value::Text(it) => to.string(it),
        Value::Fixed(it) => to.fixed(it),
        Value::Option(it) => to.option(*it, |to, it| to.i64(it)),
        Value::List(it) => to.array(it, |to, it| to.string(it)),
    }
}

fn read_like(from: &mut Reader, value: &Value) -> Result<Value, Malformed> {
    Ok(match value {
        Value::U32(_) => Value::U32(from.u32()?),
        Value::I32(_) => Value::I32(from.i32()?),
        Value::U64(_) => Value::U64(from.u64()?),
        Value::I64(_) => Value::I64(from.i64()?),
        Value::F64(_) => Value::F64(from.f64()?),
        Value::Bool(_) => Value::Bool(from.bool()?),
        Value::Text(_) => Value::Text(from.string(STRING_MAX)?.to_owned()),
        Value::Fixed(_) => Value::Fixed(from.fixed()?),
        Value::Option(_) => Value::Option(from.option(|from| from.i64())?),
        Value::List(_) => Value::List(from.array(9, |from| from.string(99).map(str::to_owned))?),
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(values in prop::collection::vec(value(), 0..20)) {
        let bytes = body(|to| values.iter().fold(to, |to, each| write_value(to, each)));
        prop_assert_eq!(bytes.len() % 4, 0);
        let mut from = Reader::new(&bytes);
        for each in &values {
            prop_assert_eq!(&read_like(&mut from, each).unwrap(), each);
        }
        prop_assert_eq!(from.remaining(), 0);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..80),
                                      values in prop::collection::vec(value(), 0..9)) {
        let mut from = Reader::new(&bytes);
        for each in &values {
            let _ = read_like(&mut from, each);
            prop_assert!(from.remaining() <= bytes.len());
        }
    }

    #[test]
    fn no_body_makes_a_session_panic(bodies in prop::collection::vec(
        (prop_oneof![Just(REMOTE), Just(COMMAND), Just(KEEPALIVE)],
         prop_oneof![1..460i32, prop::sample::select(vec![1, 60, 66, 177, 179, 399, 419])],
         prop::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..64)), 0..12)) {
        let mut session = session(Access::Full);
        for (program, procedure, body) in bodies {
            let head = Header::call(program, procedure, 7);
            match session.receive(Duration::ZERO, &head, &body) {
                Step::Send(frame) | Step::Last(frame) => check_answer(&head, &frame),
                Step::Ask(asked, _) => prop_assert_eq!(asked, head),
                Step::Ignore => prop_assert_eq!(program, KEEPALIVE),
                Step::Close => prop_assert!(false, "closed without descriptors"),
            }
        }
    }

    #[test]
    fn frames_do_not_depend_on_how_they_are_cut(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
        cuts in prop::collection::vec(1..200usize, 1..40), keep in 0..300usize) {
        let heads: Vec<_> = (0..).map(|serial| Header::call(REMOTE, 1, serial)).take(bodies.len()).collect();
        let aligned: Vec<Vec<u8>> = bodies.iter().map(|body| body[..body.len() & !3].to_vec()).collect();
        let stream: Vec<u8> = heads.iter().zip(&aligned).flat_map(|(head, body)| head.frame(body)).collect();
        let (mut frames, mut rest, mut got) = (Frames::new(keep), &stream[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (piece, left) = rest.split_at(rest.len().min(*cut));
            frames.room().extend_from_slice(piece);
            while let Some(frame) = frames.take().unwrap() { got.push(frame); }
            rest = left;
            if rest.is_empty() { break }
        }
        let want: Vec<_> = heads.into_iter().zip(aligned.into_iter().map(|mut body| { body.truncate(keep); body })).collect();
        prop_assert_eq!(got, want);
        prop_assert!(!frames.is_amid());
    }

    #[test]
    fn errors_come_back_as_they_went(detail in "[^\0]{0,60}", code in 0..120i32, domain in 0..70i32) {
        let (Some(code), Some(domain)) = (ErrorNumber::from_number(code), Domain::from_number(domain)) else { return Ok(()) };
        let error = Error::new(code, domain, detail);
        let mut to = Writer::default();
        wire_error::write(&error, &mut to);
        let bytes = to.into_bytes();
        let mut from = Reader::new(&bytes);
        prop_assert_eq!(wire_error::read(&mut from).unwrap(), error);
        prop_assert_eq!(from.remaining(), 0);
    }
}

#[test]
fn lengths_and_counts_beyond_their_maximum_are_refused() {
    let long = text("12345678");
    assert_eq!(Reader::new(&long).string(8).unwrap(), "12345678");
    assert_eq!(Reader::new(&long).string(7), Err(Malformed));
    assert_eq!(Reader::new(&long[..11]).string(8), Err(Malformed), "cut short");
    assert_eq!(Reader::new(&text("12345")[..9]).string(8), Err(Malformed), "padding cut short");
    assert_eq!(Reader::new(&[0xff; 8]).string(usize::MAX), Err(Malformed));
    assert_eq!(Reader::new(&[0xff; 8]).array(usize::MAX, |from| from.u32()), Err(Malformed));
    assert_eq!(Reader::new(&[0, 0, 0, 3, 0, 0, 0, 0]).array(2, |from| from.u32()), Err(Malformed));
    assert_eq!(Reader::new(&[0, 0, 0, 1, 0xff, 0, 0, 0]).string(8), Err(Malformed), "not UTF-8");
    assert_eq!(Reader::new(&[0, 0, 0, 1, 0, 0, 0, 0]).string(8), Err(Malformed), "a NUL");
}

#[test]
fn lengths_no_frame_can_have_end_the_stream() {
    for length in [0, 4, 27, FRAME_MAX as u32 + 1, u32::MAX] {
        let mut frames = Frames::new(100);
        frames.room().extend_from_slice(&word(length));
        assert_eq!(frames.take(), Err(BadLength(length)));
    }
    for length in [28, FRAME_MAX as u32] {
        let mut frames = Frames::new(100);
        frames.room().extend_from_slice(&word(length));
        assert_eq!(frames.take(), Ok(None), "{length}");
        assert!(frames.room().capacity() < 10_000, "{length} reserved {}", frames.room().capacity());
    }
}

/// A document says for itself how it is to be read; all other strings are UTF-8.
#[test]
fn documents_come_in_the_encoding_that_they_name() {
    let latin = b"<?xml version='1.0' encoding='ISO-8859-1'?><filter name='M\xfcller'/>";
    let body = |bytes: &[u8]| {
        let padding = vec![0; bytes.len().next_multiple_of(4) - bytes.len()];
        [&(bytes.len() as u32).to_be_bytes()[..], bytes, &padding, &[0; 4]].concat()
    };
    for (procedure, is_document) in [(180, true), (431, true), (399, true), (175, false), (397, false)] {
        let request = proto::request(REMOTE, procedure, &body(latin)).unwrap();
        let xml = match request {
            Ok(Request::DefineFilter { xml, .. } | Request::CreateBinding { xml, .. }) => Some(xml),
            other => {
                assert_eq!(other, Err(Malformed));
                None
            }
        };
        let read = xml.is_some_and(|xml| xml.ends_with("<filter name='M\u{fc}ller'/>"));
        assert_eq!(read, is_document, "{procedure}");
    }
}
