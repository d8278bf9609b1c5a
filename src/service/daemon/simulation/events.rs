//! What can happen in a run, and the documents that clients send.

use super::reference::{filter, own_byte};
use crate::document::filter::write;
use uuid::Uuid;

const FILTERS: u8 = 3;
const VERSIONS: u8 = 4;
pub(super) const PORTS: u8 = 4;

/// Something that happens, and the seed of what the machine decides meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) seed: u64,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Define {
        filter: u8,
        version: u8,
    },
    Undefine {
        filter: u8,
    },
    Bind {
        port: u8,
        filter: u8,
    },
    Unbind {
        port: u8,
    },
    Appear {
        port: u8,
        bridged: bool,
    },
    Vanish {
        port: u8,
    },
    Rename {
        from: u8,
        to: u8,
    },
    Move {
        port: u8,
    },
    /// The daemon hears of some of what happened to links.
    Hear,
    /// Another program takes a rule out of our tables, where it can.
    Meddle,
    Wait {
        seconds: u64,
    },
    Reload,
    /// The process ends and starts again, perhaps with another configuration.
    Restart {
        fold_up_to: u8,
    },
    /// The machine loses its power.
    Reboot,
    RefuseSoon {
        batches: u8,
        error: u8,
    },
    CrashSoon {
        boundaries: u8,
    },
    BreakDisk {
        how: u8,
    },
    MendDisk,
}

impl Event {
    /// The events of a seed. Which kinds are likely is the seed's, too.
    pub fn of_seed(seed: u64, length: usize) -> Vec<Event> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weights: Vec<u32> =
            (0..18).map(|kind| if kind < 10 { rng.u32(1..12) } else { rng.u32(..5) }).collect();
        (0..length).map(|_| Event { seed: rng.u64(..), what: What::any(&mut rng, &weights) }).collect()
    }
}

impl What {
    fn any(rng: &mut fastrand::Rng, weights: &[u32]) -> What {
        let mut left = rng.u32(..weights.iter().sum::<u32>());
        let mut kind = 0;
        while left >= weights[kind] {
            left -= weights[kind];
            kind += 1;
        }
        let (port, filter) = (rng.u8(..PORTS), rng.u8(..FILTERS));
        match kind {
            0 | 1 => What::Define { filter, version: rng.u8(..VERSIONS) },
            2 | 3 => What::Bind { port, filter },
            4 => What::Unbind { port },
            5 | 6 => What::Appear { port, bridged: rng.u8(..3) > 0 },
            7 => What::Vanish { port },
            8 | 9 => What::Hear,
            10 => What::Undefine { filter },
            11 => {
                if rng.bool() {
                    What::Rename { from: port, to: rng.u8(..PORTS) }
                } else {
                    What::Move { port }
                }
            }
            12 => What::Meddle,
            13 => What::Wait { seconds: rng.u64(..90) },
            14 => {
                if rng.bool() {
                    What::Reload
                } else {
                    What::Restart { fold_up_to: rng.u8(..3) }
                }
            }
            15 => {
                if rng.u8(..4) == 0 {
                    What::Reboot
                } else {
                    What::CrashSoon { boundaries: rng.u8(..12) }
                }
            }
            16 => What::RefuseSoon { batches: rng.u8(..4), error: rng.u8(..) },
            _ => {
                if rng.bool() {
                    What::MendDisk
                } else {
                    What::BreakDisk { how: rng.u8(..3) }
                }
            }
        }
    }
}

pub(super) fn filter_name(number: u8) -> String {
    format!("f{number}")
}

pub(super) fn port_name(number: u8) -> String {
    format!("vnet{number}")
}

/// A filter whose version shows in which port is open. Some refer to the next filter.
pub(super) fn filter_text(number: u8, version: u8) -> String {
    let open = 22 + u16::from(version);
    let reference = match version % 2 == 1 && number + 1 < FILTERS {
        true => format!("<filterref filter='{}' priority='150'/>", filter_name(number + 1)),
        false => String::new(),
    };
    let uuid = Uuid::from_u128(u128::from(number) + 1);
    write::write(&filter(&format!(
        "<filter name='{}' chain='root'><uuid>{uuid}</uuid>
        <rule action='drop' direction='out' priority='100'><mac match='no' srcmacaddr='$MAC'/></rule>{reference}
        <rule action='accept' direction='in' priority='200'><ip protocol='tcp' dstportstart='{open}'/></rule>
        <rule action='drop' direction='in' priority='300'><ip protocol='tcp'/></rule></filter>",
        filter_name(number)
    )))
}

pub(super) fn binding_text(port: &str, filter: u8) -> String {
    let (mac, filter) = (own_byte(port), filter_name(filter));
    format!(
        "<filterbinding><owner><name>guest</name><uuid>3c0e0c0a-0000-4000-8000-00000000000{}</uuid></owner>
        <portdev name='{port}'/><mac address='52:54:00:00:00:{mac:02x}'/>
        <filterref filter='{filter}'><parameter name='MAC' value='52:54:00:00:00:{mac:02x}'/></filterref></filterbinding>",
        mac % 10
    )
}
