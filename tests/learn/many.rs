//! A thousand guests listened to at once: all are heard, and what that costs.

use crate::lab::Tap;
use crate::lab::frames::*;
use crate::wire::in_world;
use nwfilter::addr::Mac;
use nwfilter::bpf::Side;
use nwfilter::frame::Sighting;
use nwfilter::learn::{Ear, Post, listen};
use nwfilter::learning::Mode;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::timeout;

const GUESTS: u32 = 1000;

/// Kilobytes of memory that this process has in use.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Guest {
    tap: Tap,
    address: Ipv4Addr,
    ear: Ear,
}

fn guest(number: u32, to: mpsc::Sender<nwfilter::learn::Told>) -> Guest {
    let mac = mac(number);
    let tap = Tap::new(&format!("vnet{number}"));
    tap.link.up();
    let index = tap.link.index();
    let post = Post { guest: index, link: index, side: Side::Host, mac: Mac(mac), mode: Mode::Any };
    Guest { tap, address: address(number), ear: listen(post, to).unwrap() }
}

fn mac(number: u32) -> [u8; 6] {
    let [_, _, high, low] = number.to_be_bytes();
    [2, 0, 0, 1, high, low]
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a01_0000 + number)
}

/// What a guest says first: the address is another's, since one of the frame's own would be read without reading.
fn says(guest: &Guest, number: u32) -> Vec<u8> {
    let mac = mac(number);
    arp_request(&guest.address.to_string(), PEER_IP).sender_mac(mac).from(mac).into()
}

#[test]
fn a_thousand_guests_are_all_heard() {
    in_world(async || {
        let (to, mut told) = mpsc::channel(64);
        let before = resident();
        let made = Instant::now();
        let guests: Vec<Guest> = (0..GUESTS).map(|number| guest(number, to.clone())).collect();
        let (made, memory) = (made.elapsed(), resident() - before);

        let began = Instant::now();
        for (number, guest) in guests.iter().enumerate() {
            guest.tap.send(&says(guest, number as u32)).unwrap();
        }
        let mut heard = BTreeSet::new();
        while heard.len() < guests.len() {
            let told = timeout(Duration::from_secs(20), told.recv()).await.expect("all are heard").unwrap();
            let Sighting::Arp { address, .. } = told.frame.sighting else { panic!("{told:?}") };
            assert!(told.frame.sighting.addresses().eq([IpAddr::V4(address)]));
            heard.insert((told.guest, address));
        }
        let learned = began.elapsed();
        let expected = guests.iter().map(|guest| (guest.tap.link.index(), guest.address)).collect();
        assert_eq!(heard, expected);
        assert!(guests.iter().all(|guest| !guest.ear.has_ended()));
        println!(
            "{GUESTS} guests: made in {made:?}, all heard in {learned:?}, {} bytes of memory each",
            memory * 1024 / u64::from(GUESTS)
        );
    });
}
