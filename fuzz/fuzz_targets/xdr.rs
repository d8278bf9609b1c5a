//! Any bytes, read as any sequence of XDR values: no panic, no read past the end, and whatever was read
//! as a string or a list comes out the same when it is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::service::rpc::xdr::{Malformed, Reader, Writer};

fuzz_target!(|data: (&[u8], &[u8])| {
    let (plan, bytes) = data;
    let mut from = Reader::new(bytes);
    for step in plan {
        let before = from.remaining();
        if one(&mut from, *step).is_err() {
            return;
        }
        assert!(from.remaining() < before);
    }
});

fn one(from: &mut Reader, step: u8) -> Result<(), Malformed> {
    let max = usize::from(step >> 3);
    match step % 8 {
        0 => from.u32().map(drop),
        1 => from.i64().map(drop),
        2 => from.f64().map(drop),
        3 => from.fixed::<16>().map(drop),
        4 => from.bool().map(drop),
        5 => {
            let text = from.string(max)?;
            assert!(text.len() <= max);
            let mut to = Writer::default();
            to.string(text);
            assert_eq!(Reader::new(&to.into_bytes()).string(max), Ok(text));
            Ok(())
        }
        6 => from.option(|from| from.u64()).map(drop),
        _ => {
            let list = from.array(max, |from| from.string(max).map(str::to_owned))?;
            assert!(list.len() <= max);
            let mut to = Writer::default();
            to.array(&list, |to, text| to.string(text));
            let bytes = to.into_bytes();
            assert_eq!(Reader::new(&bytes).array(max, |from| from.string(max).map(str::to_owned)), Ok(list));
            Ok(())
        }
    }
}
