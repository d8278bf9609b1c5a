//! What each link carried, and what `tc` dropped of it: dumps of rtnetlink to the kernel's own counts.
//!
//! Both block for the time of a dump, which is not of one moment: each link is read at its own, and one that comes or
//! goes meanwhile may be left out.

use super::dump::dump;
use super::rtnl::{IFLA_LINKINFO, LINK_HEADER, RTM_NEWLINK, find};
use crate::guest::link::Load;
use netlink_packet_route::RouteNetlinkMessage::{GetLink, GetQueueDiscipline};
use netlink_packet_route::{link::LinkMessage, tc::TcMessage};
use std::collections::BTreeMap;
use std::io;

const RTM_NEWQDISC: u16 = 36;
const IFLA_STATS64: u16 = 23;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
/// States of a bridge's port in which the bridge takes its frames: learning, and forwarding.
const OPEN: [u8; 2] = [2, 3];
/// Length of the header before the attributes of a queueing discipline, and where it says what that belongs to.
const QDISC_HEADER: usize = 20;
const QDISC_PARENT: usize = 12;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;

/// What every link of this namespace carried so far, by index.
pub fn loads() -> io::Result<BTreeMap<u32, Load>> {
    dump(GetLink(LinkMessage::default()), RTM_NEWLINK, load)
}

/// How many of the frames that came in by a link `tc` dropped, as a guest's bandwidth may demand; those alone that have any
/// such rule. A discipline for both directions does not distinguish them from outgoing frames.
pub fn shed() -> io::Result<BTreeMap<u32, u32>> {
    dump(GetQueueDiscipline(TcMessage::default()), RTM_NEWQDISC, drops)
}

fn load(payload: &[u8]) -> Option<(u32, Load)> {
    let all = payload.get(LINK_HEADER..)?;
    // struct rtnl_link_stats64: frames, then bytes, each of what came and what went.
    let stats = find(IFLA_STATS64, all)?;
    let number = |at: usize| Some(u64::from_ne_bytes(*stats.get(8 * at..)?.first_chunk()?));
    let (came, went) = ((number(0)?, number(2)?), (number(1)?, number(3)?));
    Some((word(payload, 4)?, Load { came, went, open: find(IFLA_LINKINFO, all).is_none_or(is_open) }))
}

fn is_open(info: &[u8]) -> bool {
    let is_port = find(IFLA_INFO_SLAVE_KIND, info).is_some_and(|kind| kind.starts_with(b"bridge\0"));
    let state = || find(IFLA_BRPORT_STATE, find(IFLA_INFO_SLAVE_DATA, info)?)?.first().copied();
    !is_port || state().is_none_or(|state| OPEN.contains(&state))
}

fn drops(payload: &[u8]) -> Option<(u32, u32)> {
    word(payload, QDISC_PARENT).filter(|parent| *parent == TC_H_INGRESS)?;
    // struct gnet_stats_queue: its third word.
    let queue = find(TCA_STATS_QUEUE, find(TCA_STATS2, payload.get(QDISC_HEADER..)?)?)?;
    Some((word(payload, 4)?, word(queue, 8)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
