//! Any byte stream from a client, cut into frames and given to a session: no panic, nothing kept beyond
//! its bound, every answer a well-formed frame, and no write ever asked for on a read-only connection.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::service::rpc::frames::Frames;
use nwfilter::service::rpc::proto::{Header, kind};
use nwfilter::service::rpc::session::{Access, Keepalive, KeepaliveEvent, Session, Step};
use nwfilter::service::rpc::wire_error;
use nwfilter::service::rpc::xdr::Reader;
use std::time::Duration;

const KEEP: usize = 512;

fuzz_target!(|data: (bool, &[u8])| {
    let (full, bytes) = data;
    let access = if full { Access::Full } else { Access::ReadOnly };
    let keepalive = Keepalive { interval: Duration::from_secs(5), count: 5 };
    let (mut session, mut frames) = (Session::new(access, keepalive), Frames::new(KEEP));
    let mut now = Duration::ZERO;
    for piece in bytes.chunks(61) {
        frames.room().extend_from_slice(piece);
        loop {
            match frames.take() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some((head, body))) => {
                    assert!(body.len() <= KEEP);
                    now += Duration::from_millis(1700);
                    if !judge(session.receive(now, &head, &body), &head, access) {
                        return;
                    }
                }
            }
        }
        now += Duration::from_secs(3);
        if session.beat(now) == KeepaliveEvent::Dead {
            return;
        }
    }
});

/// Whether the connection goes on.
fn judge(step: Step, head: &Header, access: Access) -> bool {
    match step {
        Step::Ignore => true,
        Step::Close => false,
        Step::Send(frame) | Step::Last(frame) => {
            let mut from = Reader::new(&frame);
            assert_eq!(from.u32().unwrap() as usize, frame.len());
            let answer = Header::read(&mut from).unwrap();
            if answer.kind == kind::REPLY {
                assert_eq!((answer.serial, answer.procedure), (head.serial, head.procedure));
            }
            if answer.status == 1 {
                wire_error::read(&mut from).unwrap();
                assert_eq!(from.remaining(), 0);
            }
            true
        }
        Step::Ask(_, request) => {
            assert!(access == Access::Full || request.is_look(), "{request:?}");
            true
        }
    }
}
