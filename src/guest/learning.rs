//! What a guest's frames teach: a learner, which turns frames and the time into the addresses that are the guest's.
//!
//! Believed are the guest's own MAC as the source of ARP and IPv4, and DHCP servers speaking to it; `bpf` sees to it that
//! what comes from the guest's MAC comes from the guest. A guest that learns may choose any address that is not barred
//! from (see PROMISES.md). A server's refusal (NAK) does not say which lease it ends: it is that of the guest's own last
//! question. This knows no socket, no clock and no rule; while nothing is known, the filter named by [`Learner::waiting_filter`] is in force.

mod budget;
pub mod filters;

pub use budget::RateLimit;

use crate::document::mac::Mac;
use crate::document::vars::Vars;
use crate::guest::frame::dhcp::{Dhcp, DhcpMessageType, FOREVER};
use crate::guest::frame::{SightedFrame, Sighting};
use crate::guest::lease::{AddressSource, Grant, GuestLeases, Learned};
use std::net::Ipv4Addr;
use std::time::Duration;

/// How addresses are found out, as the variable `CTRL_IP_LEARNING` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LearningMode {
    /// From whatever shows them first.
    Any,
    /// From DHCP leases, and no longer than they run.
    Dhcp,
    /// Not at all.
    None,
}

/// A value of a control variable that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable} cannot be '{value}'")]
pub struct InvalidControlVariable {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
}

/// What is to be learned, as the variables of a binding say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How.
    pub mode: LearningMode,
    /// How many addresses in mode [`LearningMode::Any`].
    pub limit: usize,
    /// The DHCP servers that are believed; all where there is none.
    pub servers: Vec<Ipv4Addr>,
}

/// One guest's learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learner {
    mac: Mac,
    wanted: Wanted,
    table: GuestLeases,
    asked: Option<Asked>,
}

/// The guest's last question for an address that is leased to it (REQUEST), while there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Asked {
    transaction: u32,
    address: Ipv4Addr,
    /// The server it is for, where it is for one.
    server: Option<Ipv4Addr>,
}

/// What a frame changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LearnOutcome {
    /// Nothing.
    Nothing,
    /// No address: the guest asks for one of its own, or has its answer.
    Question,
    /// The address is the guest's from now on, or what is known of it is another.
    Granted(Ipv4Addr),
    /// It is the guest's no longer; how it had been learned.
    Ended(Ipv4Addr, AddressSource),
    /// Another address takes its place.
    Replaced(Ipv4Addr, Ipv4Addr),
}

/// The variable of the mode.
pub const MODE: &str = "CTRL_IP_LEARNING";
/// The variable of how many addresses are learned.
pub const LIMIT: &str = "CTRL_IP_LEARNING_LIMIT";
/// The variable of the servers that are believed.
pub const SERVERS: &str = "DHCPSERVER";

/// The most addresses a guest may have, learned or leased.
pub const MOST: usize = 64;

impl Wanted {
    /// Reads the control variables. libvirt reads the mode in any case of letters.
    pub fn of(vars: &Vars) -> Result<Wanted, InvalidControlVariable> {
        let first = |variable| vars.values(variable).and_then(<[String]>::first).map(String::as_str);
        let bad = |variable, value: &str| InvalidControlVariable { variable, value: value.into() };
        let mode = match first(MODE) {
            None => LearningMode::Any,
            Some(text) => LearningMode::of(text).ok_or_else(|| bad(MODE, text))?,
        };
        let limit = match first(LIMIT) {
            None => 1,
            Some(text) => {
                let limit = text.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                limit.ok_or_else(|| bad(LIMIT, text))?
            }
        };
        let servers = vars.values(SERVERS).unwrap_or_default().iter();
        let servers: Result<_, _> =
            servers.map(|text| text.parse().map_err(|_| bad(SERVERS, text))).collect();
        Ok(Wanted { mode, limit, servers: servers? })
    }
}

impl LearningMode {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            LearningMode::Any => "any",
            LearningMode::Dhcp => "dhcp",
            LearningMode::None => "none",
        }
    }

    fn of(text: &str) -> Option<LearningMode> {
        let modes = [LearningMode::Any, LearningMode::Dhcp, LearningMode::None];
        modes.into_iter().find(|mode| text.eq_ignore_ascii_case(mode.word()))
    }
}

/// Whether an address can be one guest's: not of this host (0/8), looped back (127/8), or of a group, reserved or
/// everybody's (224/3).
pub fn is_usable(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

impl Wanted {
    /// Whether a server is believed.
    pub fn believes(&self, server: Ipv4Addr) -> bool {
        self.servers.is_empty() || self.servers.contains(&server)
    }
}

impl Learner {
    /// A learner for the guest of this MAC, which knows already what stands in the table.
    pub fn new(mac: Mac, wanted: Wanted, table: GuestLeases) -> Learner {
        Learner { mac, wanted, table, asked: None }
    }

    /// The guest's MAC.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// What it is to learn.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// What is known.
    pub fn table(&self) -> &GuestLeases {
        &self.table
    }

    /// The filter that is in force while no address is known; none once one is.
    pub fn waiting_filter(&self) -> Option<&'static str> {
        let any_server = self.wanted.servers.is_empty();
        match self.wanted.mode {
            _ if !self.table.is_empty() => None,
            LearningMode::Dhcp if any_server => Some(filters::DHCP),
            LearningMode::Dhcp => Some(filters::DHCP_FROM_SERVERS),
            LearningMode::Any | LearningMode::None => Some(filters::ANY),
        }
    }

    /// Whether frames can still change anything.
    pub fn is_listening(&self) -> bool {
        match self.wanted.mode {
            LearningMode::None => false,
            LearningMode::Dhcp => true,
            LearningMode::Any => self.table.len() < self.wanted.limit || self.offered().is_some(),
        }
    }

    /// Takes a frame of the guest, or to it.
    pub fn hear(&mut self, frame: &SightedFrame, now: Duration) -> LearnOutcome {
        if frame.tagged || !self.is_listening() {
            return LearnOutcome::Nothing;
        }
        let own = frame.source == self.mac;
        match (self.wanted.mode, frame.sighting) {
            (LearningMode::Any, Sighting::Arp { mac, address }) if own && mac == self.mac => {
                self.saw(address, AddressSource::Arp, None, now)
            }
            (LearningMode::Any, Sighting::Ipv4 { source }) if own => {
                self.saw(source, AddressSource::Ipv4, None, now)
            }
            (LearningMode::Any, Sighting::Dhcp(dhcp)) if own => {
                self.saw(dhcp.source, AddressSource::Ipv4, None, now)
            }
            (LearningMode::Any, Sighting::Dhcp(dhcp)) if self.is_offered(frame, &dhcp) => {
                self.promised(&dhcp, now)
            }
            (LearningMode::Dhcp, Sighting::Dhcp(dhcp)) if own && dhcp.client == self.mac => self.says(&dhcp),
            (LearningMode::Dhcp, Sighting::Dhcp(dhcp)) if self.is_refused(frame, &dhcp) => self.refused(),
            (LearningMode::Dhcp, Sighting::Dhcp(dhcp)) if self.is_offered(frame, &dhcp) => {
                self.leased(&dhcp, now)
            }
            _ => LearnOutcome::Nothing,
        }
    }

    /// Ends the leases that have run out.
    pub fn expire(&mut self, now: Duration) -> Vec<Ipv4Addr> {
        self.table.expire(now)
    }

    /// When [`Learner::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.table.deadline()
    }

    /// Whether a server that is believed gives this guest an address that can be one.
    fn is_offered(&self, frame: &SightedFrame, dhcp: &Dhcp) -> bool {
        let address = dhcp.your_address;
        let not_its_own = address != dhcp.source && Some(address) != dhcp.server;
        self.is_answered(frame, dhcp) && is_usable(address) && not_its_own
    }

    /// Whether a server that is believed speaks to this guest.
    fn is_answered(&self, frame: &SightedFrame, dhcp: &Dhcp) -> bool {
        let for_guest = dhcp.client == self.mac && [self.mac, Mac::BROADCAST].contains(&frame.destination);
        dhcp.kind.is_from_server() && for_guest && self.wanted.believes(dhcp.source)
    }

    /// Whether it says no to the guest's last question, in the name of a server that may.
    fn is_refused(&self, frame: &SightedFrame, dhcp: &Dhcp) -> bool {
        let asked = self.asked.filter(|asked| asked.transaction == dhcp.transaction);
        let may = |asked: Asked| {
            dhcp.server.is_none_or(|server| {
                self.wanted.believes(server) && asked.server.is_none_or(|asked| asked == server)
            })
        };
        dhcp.kind == DhcpMessageType::Nak && self.is_answered(frame, dhcp) && asked.is_some_and(may)
    }

    fn saw(
        &mut self,
        address: Ipv4Addr,
        how: AddressSource,
        server: Option<Ipv4Addr>,
        now: Duration,
    ) -> LearnOutcome {
        // What is known already stays as it was learned; only an offer is still open.
        if !is_usable(address)
            || self.table.get(address).is_some_and(|known| known.how != AddressSource::Offer)
        {
            return LearnOutcome::Nothing;
        }
        let learned = Learned { how, server, since: now, ends: None };
        self.granted(address, learned, self.wanted.limit)
    }

    fn granted(&mut self, address: Ipv4Addr, learned: Learned, limit: usize) -> LearnOutcome {
        match self.table.grant(address, learned, limit) {
            Grant::New | Grant::Renewed => LearnOutcome::Granted(address),
            Grant::Same | Grant::Full => LearnOutcome::Nothing,
        }
    }

    /// An offer that another server's confirmation overtakes gives way to it.
    fn promised(&mut self, dhcp: &Dhcp, now: Duration) -> LearnOutcome {
        if dhcp.lease == Some(0) {
            return LearnOutcome::Nothing;
        }
        let (address, server) = (dhcp.your_address, Some(dhcp.source));
        match dhcp.kind {
            DhcpMessageType::Offer if self.is_new(address) => {
                self.saw(address, AddressSource::Offer, server, now)
            }
            DhcpMessageType::Ack => {
                let open = self.offered().filter(|offered| *offered != address);
                let full = self.table.len() >= self.wanted.limit;
                let given_up = open.filter(|_| full && self.is_new(address));
                if let Some(offered) = given_up {
                    self.table.end(offered);
                }
                match (given_up, self.saw(address, AddressSource::Ack, server, now)) {
                    (Some(offered), LearnOutcome::Granted(address)) => {
                        LearnOutcome::Replaced(offered, address)
                    }
                    (_, heard) => heard,
                }
            }
            _ => LearnOutcome::Nothing,
        }
    }

    fn is_new(&self, address: Ipv4Addr) -> bool {
        self.table.get(address).is_none()
    }

    /// An address that was only offered.
    fn offered(&self) -> Option<Ipv4Addr> {
        self.table.iter().find(|(_, learned)| learned.how == AddressSource::Offer).map(|(address, _)| address)
    }

    /// A confirmation without a lease answers a question for settings (INFORM), one for no time takes the lease away.
    fn leased(&mut self, dhcp: &Dhcp, now: Duration) -> LearnOutcome {
        let address = dhcp.your_address;
        let answer =
            |asked: &mut Asked| dhcp.kind == DhcpMessageType::Ack && asked.transaction == dhcp.transaction;
        let answered = self.asked.take_if(answer).is_some();
        let ends = match dhcp.lease.filter(|_| dhcp.kind == DhcpMessageType::Ack) {
            None => return LearnOutcome::Nothing,
            Some(0) => return self.ended(address),
            Some(FOREVER) => None,
            Some(seconds) => Some(now + Duration::from_secs(seconds.into())),
        };
        let server = Some(dhcp.source);
        match self.granted(address, Learned { how: AddressSource::Lease, server, since: now, ends }, MOST) {
            LearnOutcome::Nothing if answered => LearnOutcome::Question,
            heard => heard,
        }
    }

    /// What the guest says to servers.
    fn says(&mut self, dhcp: &Dhcp) -> LearnOutcome {
        match (dhcp.kind, dhcp.requested) {
            (DhcpMessageType::Request, requested) => {
                self.asks(dhcp, requested.unwrap_or(dhcp.client_address))
            }
            (DhcpMessageType::Release, _) => self.ended(dhcp.client_address),
            (DhcpMessageType::Decline, Some(address)) => self.ended(address),
            _ => LearnOutcome::Nothing,
        }
    }

    /// A question for an address that is not leased could only be refused in vain.
    fn asks(&mut self, dhcp: &Dhcp, address: Ipv4Addr) -> LearnOutcome {
        let asked = Asked { transaction: dhcp.transaction, address, server: dhcp.server };
        let asked = self.table.get(address).map(|_| asked);
        let before = std::mem::replace(&mut self.asked, asked);
        if before == asked { LearnOutcome::Nothing } else { LearnOutcome::Question }
    }

    fn refused(&mut self) -> LearnOutcome {
        self.asked.take().map_or(LearnOutcome::Nothing, |asked| self.ended(asked.address))
    }

    fn ended(&mut self, address: Ipv4Addr) -> LearnOutcome {
        self.table
            .end(address)
            .map_or(LearnOutcome::Nothing, |learned| LearnOutcome::Ended(address, learned.how))
    }
}
