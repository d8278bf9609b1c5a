//! nf_tables' own trace of one interface's frames: the batch that switches it on, and the messages that it sends. Pure.
//!
//! The rules that ask for it stand in tables that belong to the socket, so that the kernel takes them away when the
//! socket is closed, however the process ends; our own tables are not touched.

use super::message::{Attributes, Message};
use super::read::family_of;
use super::reply::{Received, attribute, body, number, text};
use super::traced::{Traced, TracedVerdict};
use super::uapi::*;
use crate::program::ir::Family;

/// Where an interface's frames are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum At<'a> {
    /// At the bridge's hooks.
    Bridge,
    /// At the hooks of the device of this name.
    Device(&'a str),
    /// There, and packets to it before that, in the host's IP layer. Those from it come there with their trace on.
    Routed(&'a str),
}

/// Just before our own base chains, and before the one that packets leave the host's IP layer by.
const PRIORITY: i32 = -151;
const LATE_PRIORITY: i32 = 149;
const MSG_TRACE: u16 = 17;
const META_NFTRACE: u32 = libc::NFT_META_NFTRACE as u32;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Attributes of a trace event.
mod attribute_kind {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN: u16 = 2;
    pub(super) const HANDLE: u16 = 3;
    pub(super) const VERDICT: u16 = 5;
    pub(super) const ID: u16 = 6;
    pub(super) const HEADERS: [u16; 3] = [7, 8, 9];
    pub(super) const IIF: u16 = 10;
    pub(super) const OIF: u16 = 12;
    pub(super) const POLICY: u16 = 16;
}

/// A base chain with a rule in it.
struct Asker<'a> {
    family: i32,
    chain: &'static str,
    hook: u32,
    priority: i32,
    device: Option<&'a str>,
    /// How it knows the interface.
    meta: i32,
}

/// What asks for the trace there.
fn askers(at: At) -> Vec<Asker> {
    let (family, device, chains) = match at {
        At::Bridge => (libc::NFPROTO_BRIDGE, None, [("prerouting", 0), ("postrouting", 4)]),
        At::Device(name) | At::Routed(name) => {
            (libc::NFPROTO_NETDEV, Some(name), [("ingress", 0), ("egress", 1)])
        }
    };
    let sides = chains.into_iter().zip([libc::NFT_META_IIF, libc::NFT_META_OIF]);
    let asker = |((chain, hook), meta)| Asker { family, chain, hook, priority: PRIORITY, device, meta };
    let mut askers: Vec<Asker> = sides.map(asker).collect();
    if let At::Routed(_) = at {
        askers.push(Asker {
            family: libc::NFPROTO_INET,
            chain: "postrouting",
            hook: 4,
            priority: LATE_PRIORITY,
            device: None,
            meta: libc::NFT_META_OIF,
        });
    }
    askers
}

/// The batch with the tables of the socket's own that ask for the trace.
pub fn batch(index: u32, at: At) -> Vec<u8> {
    let table = format!("nwfilter-trace-{}", std::process::id());
    let named = |fill: &dyn Fn(&mut Attributes)| {
        let mut attributes = Attributes::default();
        attributes.text(TABLE_NAME, &table);
        fill(&mut attributes);
        attributes
    };
    let messages = askers(at).into_iter().flat_map(|asker| {
        let table = named(&|table| table.u32(TABLE_FLAGS, TABLE_F_OWNER));
        let chain = named(&|attributes| base_chain(attributes, &asker));
        let rule = named(&|attributes| rule(attributes, asker.chain, asker.meta as u32, index));
        let all =
            [(libc::NFT_MSG_NEWTABLE, table), (libc::NFT_MSG_NEWCHAIN, chain), (libc::NFT_MSG_NEWRULE, rule)];
        all.map(|(kind, attributes)| (kind, asker.family, attributes))
    });
    let mut bytes = frame(BATCH_BEGIN, 0);
    let mut number = 1;
    for (kind, family, attributes) in messages {
        let flags = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16;
        let message = Message { kind: kind as u16, flags, family: family as u8, attributes, step: 0 };
        bytes.extend(message.bytes(number));
        number += 1;
    }
    bytes.extend(frame(BATCH_END, number));
    bytes
}

fn base_chain(attributes: &mut Attributes, asker: &Asker) {
    attributes.text(CHAIN_NAME, asker.chain);
    attributes.nest(CHAIN_HOOK, |place| {
        place.u32(HOOK_NUMBER, asker.hook);
        place.u32(HOOK_PRIORITY, asker.priority as u32);
        asker.device.into_iter().for_each(|device| place.text(HOOK_DEVICE, device));
    });
    attributes.text(CHAIN_TYPE, "filter");
}

/// `iif INDEX meta nftrace set 1`.
fn rule(attributes: &mut Attributes, chain: &str, meta: u32, index: u32) {
    const REGISTER: u32 = libc::NFT_REG_1 as u32;
    attributes.text(RULE_CHAIN, chain);
    attributes.nest(RULE_EXPRESSIONS, |list| {
        let mut expression = |name: &str, fill: &dyn Fn(&mut Attributes)| {
            list.nest(LIST_ITEM, |item| {
                item.text(EXPR_NAME, name);
                item.nest(EXPR_DATA, fill);
            });
        };
        expression("meta", &|data| {
            data.u32(META_KEY, meta);
            data.u32(META_DREG, REGISTER);
        });
        expression("cmp", &|data| {
            data.u32(CMP_SREG, REGISTER);
            data.u32(CMP_OP, libc::NFT_CMP_EQ as u32);
            data.nest(CMP_DATA, |value| value.put(DATA_VALUE, &index.to_ne_bytes()));
        });
        expression("immediate", &|data| {
            data.u32(IMMEDIATE_DREG, REGISTER);
            data.nest(IMMEDIATE_DATA, |value| value.put(DATA_VALUE, &[1]));
        });
        expression("meta", &|data| {
            data.u32(META_KEY, META_NFTRACE);
            data.u32(META_SREG, REGISTER);
        });
    });
}

/// The begin or the end of a batch.
fn frame(kind: u16, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(20u32.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 6]);
    bytes.extend((libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes());
    bytes
}

/// What one message tells; none where it is another kind of message.
pub fn event(message: &Received<'_>) -> Option<Traced> {
    if message.kind != (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | MSG_TRACE {
        return None;
    }
    let all = body(message);
    let word = |kind| attribute(all, kind).and_then(number);
    let name = |kind| attribute(all, kind).map(text).unwrap_or_default();
    let handle = attribute(all, attribute_kind::HANDLE).and_then(|bytes| bytes.first_chunk().copied());
    let code = attribute(all, attribute_kind::VERDICT)
        .and_then(|inner| attribute(inner, VERDICT_CODE))
        .and_then(number);
    let family = message.payload.first().and_then(|number| family_of(*number));
    let oif = word(attribute_kind::OIF);
    let route = if family == Some(Family::Inet) && oif.is_some() { Route::Leaves } else { Route::Comes };
    Some(Traced {
        id: word(attribute_kind::ID)?,
        family,
        table: name(attribute_kind::TABLE),
        chain: name(attribute_kind::CHAIN),
        handle: handle.map(u64::from_be_bytes),
        verdict: verdict(code.or(word(attribute_kind::POLICY))),
        headers: headers(attribute_kind::HEADERS.map(|kind| attribute(all, kind)), route),
        iif: word(attribute_kind::IIF),
        oif,
    })
}

/// Whether a packet comes with its link header, or leaves before it has a new one.
#[derive(Clone, Copy)]
enum Route {
    Comes,
    Leaves,
}

/// The headers of the link, the network and the transport as one. What a packet that leaves has of a link's is that of the
/// frame it once came in, if it came at all.
fn headers([link, network, transport]: [Option<&[u8]>; 3], route: Route) -> Option<Vec<u8>> {
    let network = network.unwrap_or_default();
    let link = match (route, network.first().map(|first| first >> 4)) {
        (Route::Comes, _) => link?.to_vec(),
        (Route::Leaves, Some(6)) => [&[0; 12][..], &[0x86, 0xdd]].concat(),
        (Route::Leaves, _) => [&[0; 12][..], &[0x08, 0x00]].concat(),
    };
    Some([&link, network, transport.unwrap_or_default()].concat())
}

fn verdict(code: Option<u32>) -> TracedVerdict {
    match code.map(|code| code as i32) {
        Some(0) => TracedVerdict::Drop,
        Some(1) => TracedVerdict::Accept,
        _ => TracedVerdict::On,
    }
}
