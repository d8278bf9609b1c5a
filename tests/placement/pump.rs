//! A guest that sends honest and forged frames as fast as it can, and everything that they can get to.

use crate::lab::frames::*;
use crate::lab::{Tap, Wire};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The host's own address, whichever link it is reached by.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// The host's end of the guest's link.
pub const TAP_MAC: Mac = [0xfe, 0x54, 0, 0, 0, 0x01];
/// A type that no IP layer knows.
const OTHER: u16 = 0x88b5;
const PORT: u16 = 7777;
const HONEST: u16 = 1;
const FORGED: u16 = 666;

/// Sends until the test is done.
pub struct Pump {
    guest: Mutex<Arc<Tap>>,
    receivers: Vec<Tap>,
    host: Wire,
    socket: UdpSocket,
    frames: [(bool, Vec<u8>); 5],
    count: Mutex<Arrivals>,
    turns: AtomicU64,
    done: AtomicBool,
}

/// What was sent, and what of it arrived anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    /// Forged frames sent.
    pub sent: u64,
    /// Honest frames that arrived.
    pub honest: u64,
    /// Forged frames that arrived, of IP and of no IP.
    pub ip: u64,
    pub other: u64,
    open: Option<(Instant, Instant)>,
}

impl Arrivals {
    /// How long after the first forged frame the last one arrived.
    pub fn open_for(&self) -> Option<Duration> {
        self.open.map(|(first, last)| last - first)
    }

    fn forged(&mut self, ip: bool) {
        *(if ip { &mut self.ip } else { &mut self.other }) += 1;
        let now = Instant::now();
        self.open = Some((self.open.map_or(now, |(first, _)| first), now));
    }

    fn frame(&mut self, frame: &[u8]) {
        match frame.get(6..12) {
            Some(from) if from == GUEST_MAC => self.honest += 1,
            Some(from) if from == FOREIGN_MAC => self.forged(frame[12..14] == [0x08, 0x00]),
            _ => {}
        }
    }
}

impl Pump {
    /// The host must have its address.
    pub fn new(guest: Tap, receivers: Vec<Tap>) -> Pump {
        let host = &HOST.to_string();
        let socket = UdpSocket::bind((HOST, PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let forged = |frame: Frame| (true, frame.from(FOREIGN_MAC).into());
        let frames = [
            (false, udp(ip(GUEST_IP, PEER_IP), HONEST, PORT).into()),
            (false, udp(ip(GUEST_IP, host), HONEST, PORT).to(TAP_MAC).into()),
            forged(udp(ip(GUEST_IP, PEER_IP), FORGED, PORT)),
            forged(udp(ip(GUEST_IP, host), FORGED, PORT).to(TAP_MAC)),
            forged(ether(OTHER, vec![0; 46])),
        ];
        Pump {
            guest: Mutex::new(Arc::new(guest)),
            receivers,
            host: Wire::of_the_host(OTHER),
            socket,
            frames,
            count: Mutex::default(),
            turns: AtomicU64::new(0),
            done: AtomicBool::new(false),
        }
    }

    pub fn guest(&self) -> Arc<Tap> {
        Arc::clone(&self.guest.lock().unwrap())
    }

    /// Sends by another link from now on.
    pub fn set_guest(&self, guest: Tap) {
        *self.guest.lock().unwrap() = Arc::new(guest);
    }

    pub fn honest(&self) -> u64 {
        self.count.lock().unwrap().honest
    }

    /// How often what was sent has been collected.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Arrivals {
        std::mem::take(&mut self.count.lock().unwrap())
    }

    pub fn run(&self) {
        while !self.done.load(Ordering::Acquire) {
            let guest = self.guest();
            let mut sent = 0;
            for (forged, frame) in self.frames.iter().cycle().take(20) {
                sent += u64::from(guest.send(frame).is_ok() && *forged);
            }
            drop(guest);
            self.collect(sent);
            self.turns.fetch_add(1, Ordering::Release);
        }
    }

    fn collect(&self, sent: u64) {
        let mut count = self.count.lock().unwrap();
        count.sent += sent;
        let mut buffer = [0; 2048];
        for receiver in &self.receivers {
            while let Some(length) = receiver.recv_into(&mut buffer) {
                count.frame(&buffer[..length]);
            }
        }
        while let Some(frame) = self.host.recv() {
            count.frame(&frame);
        }
        while let Ok((_, from)) = self.socket.recv_from(&mut buffer) {
            match from.port() {
                HONEST => count.honest += 1,
                FORGED => count.forged(true),
                _ => {}
            }
        }
    }

    /// Ends [`Pump::run`] when the guard goes, even by a panic.
    pub fn ends(&self) -> impl Drop + use<'_> {
        struct End<'a>(&'a Pump);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.done.store(true, Ordering::Release);
            }
        }
        End(self)
    }
}
