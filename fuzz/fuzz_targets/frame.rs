//! A guest's bytes: reading them must not panic, and every address that is reported stands in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nwfilter::guest::frame::read;
use std::net::IpAddr;

fuzz_target!(|bytes: &[u8]| {
    let Some(frame) = read(bytes) else { return };
    for address in frame.sighting.addresses() {
        let stands = match address {
            IpAddr::V4(address) => bytes.windows(4).any(|four| four == address.octets()),
            IpAddr::V6(address) => bytes.windows(16).any(|sixteen| sixteen == address.octets()),
        };
        assert!(stands, "{address}");
    }
});
