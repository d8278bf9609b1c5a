//! Section E: DHCP. To clean-traffic it is IPv4: these verdicts say what reaches a learner's ears,
//! and what of it would mislead one that believes too easily is said in `what`.

use super::super::frames::{BROADCAST, Dhcp, FOREIGN_IP, FOREIGN_MAC, Frame, GUEST_IP, GUEST_MAC, PEER_IP, PEER_MAC, dhcp, ip, udp_with};
use super::{Case, enters, passes, stays_out, stops};

const SERVER: &str = PEER_IP;
const HOUR: u32 = 3600;

pub(super) fn cases() -> Vec<Case> {
    [client(), rogue(), server(), malformed()].concat()
}

fn ack() -> Dhcp {
    dhcp(5).your_ip(GUEST_IP).lease(HOUR, SERVER)
}

fn client() -> Vec<Case> {
    let renewal = || dhcp(3).client_ip(GUEST_IP);
    let release = |address| dhcp(7).client_ip(address);
    vec![
        passes("E00a", "discover", dhcp(1).broadcast()),
        passes("E00b", "request", dhcp(3).option(50, &[10, 0, 0, 1]).broadcast()),
        stops("E00c", "discover from a foreign MAC", dhcp(1).broadcast().from(FOREIGN_MAC)),
        passes("E03a", "discover about a foreign MAC", dhcp(1).client_mac(FOREIGN_MAC).broadcast()),
        passes("E03b", "request about a broadcast MAC", dhcp(3).client_mac(BROADCAST).broadcast()),
        stops("E12a", "discover in 802.1Q", dhcp(1).broadcast().vlan(5)),
        passes("E14a", "renewal", renewal().unicast(GUEST_IP, SERVER)),
        stops("E14b", "renewal from a foreign address", renewal().unicast(FOREIGN_IP, SERVER)),
        passes("E14c", "decline", dhcp(4).option(50, &[10, 0, 0, 1]).broadcast()),
        passes("E14d", "release of its own address", release(GUEST_IP).unicast(GUEST_IP, SERVER)),
        passes("E14e", "release of a foreign address from its own", release(FOREIGN_IP).unicast(GUEST_IP, SERVER)),
        stops("E14f", "release of a foreign address from there", release(FOREIGN_IP).unicast(FOREIGN_IP, SERVER)),
        passes("E14g", "release from 0.0.0.0", release(FOREIGN_IP).broadcast()),
        passes("E14h", "inform", dhcp(8).client_ip(GUEST_IP).unicast(GUEST_IP, SERVER)),
    ]
}

/// The guest plays the server. From its own address clean-traffic has nothing to say to that.
fn rogue() -> Vec<Case> {
    let offer = || dhcp(2).your_ip(FOREIGN_IP).lease(HOUR, GUEST_IP);
    vec![
        passes("E01a", "offer as a server, own source", offer().reply(GUEST_IP)),
        stops("E01b", "offer as the server, its source", offer().reply(SERVER)),
        stops("E01c", "offer as the server, its source and MAC", offer().reply(SERVER).from(PEER_MAC)),
        passes("E18a", "ack to itself, own source", ack().reply(GUEST_IP).to(GUEST_MAC)),
        stops("E18b", "ack to itself, the server's source", ack().reply(SERVER).to(GUEST_MAC)),
        passes("E18c", "ack from 0.0.0.0", ack().reply("0.0.0.0")),
    ]
}

fn server() -> Vec<Case> {
    let reply = |message: &Dhcp| message.reply(SERVER);
    let given = |address, seconds| reply(&dhcp(5).your_ip(address).lease(seconds, SERVER));
    let fragment = |offset, more, part: &[u8]| ip(SERVER, "255.255.255.255").fragment(offset, more).carry(17, part);
    let datagram = Vec::from(reply(&ack()))[34..].to_vec();
    vec![
        enters("E00d", "offer", reply(&dhcp(2).your_ip(GUEST_IP).lease(HOUR, SERVER))),
        enters("E00e", "ack", reply(&ack())),
        enters("E00f", "ack to the guest alone", udp_with(ip(SERVER, GUEST_IP), 67, 68, &ack().bytes())),
        enters("E02", "ack from another server", ack().reply(FOREIGN_IP)),
        enters("E03c", "ack about a foreign MAC", reply(&ack().client_mac(FOREIGN_MAC))),
        enters("E04", "ack of another transaction", reply(&Dhcp { transaction: 1, ..ack() })),
        enters("E09a", "lease of no time", given(GUEST_IP, 0)),
        enters("E09b", "lease without end", given(GUEST_IP, u32::MAX)),
        enters("E10a", "lease of 0.0.0.0", given("0.0.0.0", HOUR)),
        enters("E10b", "lease of the broadcast address", given("255.255.255.255", HOUR)),
        enters("E10c", "lease of a group", given("224.0.0.1", HOUR)),
        enters("E10d", "lease of the server's own address", given(SERVER, HOUR)),
        enters("E10e", "lease of 127.0.0.1", given("127.0.0.1", HOUR)),
        enters("E11a", "first fragment of an ack", fragment(0, true, &datagram[..64])),
        enters("E11b", "the rest of the ack", fragment(8, false, &datagram[64..])),
        stays_out("E12b", "ack in 802.1Q", reply(&ack()).vlan(5)),
        stays_out("E12c", "ack in VLAN 0", reply(&ack()).vlan(0)),
        enters("E13", "ack through a relay", reply(&ack().relay_ip("10.0.0.3"))),
        enters("E14i", "nak", reply(&dhcp(6).option(54, &[10, 0, 0, 2]))),
    ]
}

fn malformed() -> Vec<Case> {
    let reply = |message: Dhcp| message.reply(SERVER);
    let overload = |place: u8| ack().option(52, &[place]);
    let in_file = |mut message: Dhcp| -> Frame {
        message.file[..3].copy_from_slice(&[53, 1, 5]);
        reply(message)
    };
    vec![
        enters(
            "E05a",
            "type in the file field, by overload",
            in_file(Dhcp::plain(5).your_ip(GUEST_IP).option(52, &[1])),
        ),
        enters("E05b", "overload of both fields, empty", reply(overload(3))),
        enters("E05c", "overload without meaning", reply(overload(9))),
        enters("E06a", "type in two halves", reply(Dhcp::plain(5).raw_option(&[53, 0, 53, 1, 5]))),
        enters("E06b", "no type", reply(Dhcp::plain(5).your_ip(GUEST_IP).lease(HOUR, SERVER))),
        enters("E06c", "two types", reply(ack().option(53, &[2]))),
        enters("E06d", "type of two bytes", reply(Dhcp::plain(5).option(53, &[5, 5]))),
        enters("E07a", "option beyond the message", reply(ack().raw_option(&[12, 200, 1]))),
        enters("E07b", "option without a length", reply(Dhcp::plain(5).raw_option(&[53]))),
        enters("E07c", "message cut inside its addresses", reply(ack()).length(14 + 28 + 18)),
        enters("E07d", "a thousand pad options", reply(ack().raw_option(&[0; 1000]))),
        enters("E08", "no cookie, as BOOTP", reply(Dhcp { cookie: false, ..ack() })),
        enters("E16a", "hardware address of no bytes", reply(Dhcp { hardware_length: 0, ..ack() })),
        enters("E16b", "hardware address of 16 bytes", reply(Dhcp { hardware_length: 16, ..ack() })),
        enters("E16c", "hardware address of 255 bytes", reply(Dhcp { hardware_length: 255, ..ack() })),
        enters("E17", "ack with rapid commit", reply(ack().option(80, &[]))),
    ]
}
