//! What the host itself sends to a guest, which the IP layer lets pass.
//!
//! The host's IP layer knows its own packets from those that it routes, and a bridge does not. So it marks them on their
//! way to an interface that leads to such a guest ([`HOST_MARK`]), and the program takes the mark away again as it lets
//! them pass. Frames of other stations carry no mark that they chose, and a routed packet never gets this one from us.

use super::{AttachPoint, Build, Direction, HostToGuest};
use crate::program::ir::{Action, Key, KeySource, Match, Name, Rule};
use crate::program::{IN, Program};

/// The mark of a packet that the host itself sends to a guest, from the host's IP layer to the guest's program. A packet
/// that has another mark keeps that and is judged.
pub const HOST_MARK: u32 = 0x5000_0000;

const HOST: &str = "host";

/// Whether the program lets packets of the host pass by their mark.
pub fn lets_host(program: &Program) -> bool {
    program.chains.contains_key(&*format!("{IN}/{HOST}"))
}

impl Build<'_> {
    /// The rule that comes before those of the IP layer, if the host's own packets are to pass them.
    pub(super) fn host_rule(&mut self, direction: Direction) -> Option<Rule> {
        let marked = matches!(
            self.options.features.hooks,
            AttachPoint::Bridge | AttachPoint::Port | AttachPoint::Routed | AttachPoint::Packets
        );
        if direction == Direction::Out || self.options.host_to_guest == HostToGuest::Filter || !marked {
            return None;
        }
        let chain: Name = direction.name(HOST);
        let unmark = Rule::new(vec![], Action::Mark(0));
        self.add_chain(chain.clone(), vec![unmark, Rule::new(vec![], Action::Accept)]);
        let marked = Match::equals(Key::new(KeySource::Mark), &HOST_MARK.to_ne_bytes());
        Some(Rule::new(vec![marked], Action::Goto(chain)))
    }
}
