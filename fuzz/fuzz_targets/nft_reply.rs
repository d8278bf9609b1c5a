//! Whatever a kernel answers: reading it must not panic, nor take more memory than was received.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::ruleset::nft::read::{Dump, DumpRequest, observe};
use nwfilter::ruleset::nft::reply::{Received, error, messages};
use nwfilter::ruleset::nft::announcement::Decoder;
use std::io;

/// A kernel that answers every question with the same bytes.
struct Parrot<'a>(&'a [u8]);

impl Dump for Parrot<'_> {
    fn dump(&mut self, _: &DumpRequest, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()> {
        messages(self.0).for_each(|message| each(&message));
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    messages(bytes).for_each(|message| drop(error(&message)));
    Decoder::default().read(bytes);
    let _ = observe(&mut Parrot(bytes));
});
