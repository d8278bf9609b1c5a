//! Where the frames of a member are seen, and the devices whose own hooks must lead to our table for that.
//!
//! A device has such hooks as long as a member has its name. Where the kernel keeps a hook for a device that does not exist,
//! the hook stays for a name that a binding has, so that a device that is created again is blocked until it is bound.

use super::{Firewall, Placement};
use crate::document::mac::Mac;
use crate::guest::link::Orientation;
use crate::program::compile::AttachPoint;
use crate::program::ir::{Family, Table};
use crate::ruleset::layout;
use imbl::{OrdMap, OrdSet};

/// Where the frames of an interface are seen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Attachment {
    /// On their way through a bridge, of which it is a port. Which one matters only where connections are tracked.
    Bridge(Option<BridgePort>),
    /// The same, or at its own hooks where its program can be there.
    Port {
        /// What the interface is called now, which need not be what it was bound as.
        name: String,
        /// Its bridge.
        bridge: BridgePort,
    },
    /// At its own hooks, and then its packets in the host's IP layer.
    Routed {
        /// What the interface is called now, which need not be what it was bound as.
        name: String,
    },
    /// At its own hooks alone.
    Device {
        /// What the interface is called now, which need not be what it was bound as.
        name: String,
        /// Whether it is a macvtap: what its guest sends goes out by it.
        reversed: bool,
    },
}

/// The bridge of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BridgePort {
    /// The index of the bridge.
    pub index: u32,
    /// The name of the bridge.
    pub name: String,
    /// The host's own address on it.
    pub host: Option<Mac>,
    /// What the port is called now.
    pub port: String,
}

/// The devices whose own hooks lead to our table.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices {
    /// How many members have each name.
    members: OrdMap<String, usize>,
    /// How many members have each name whose bridge is to keep no frame from us.
    guarded: OrdMap<String, usize>,
    /// Names of bindings whose last device is gone.
    kept: OrdSet<String>,
    /// Whether hooks outlive their device.
    last: bool,
}

impl Attachment {
    /// Which hooks see the frames.
    pub fn hooks(&self) -> AttachPoint {
        match self {
            Attachment::Bridge(_) => AttachPoint::Bridge,
            Attachment::Port { .. } => AttachPoint::Port,
            Attachment::Routed { .. } => AttachPoint::Routed,
            Attachment::Device { reversed: false, .. } => AttachPoint::Device,
            Attachment::Device { reversed: true, .. } => AttachPoint::Macvtap,
        }
    }

    /// Whether what the guest sends leaves by the interface.
    pub fn orientation(&self) -> Orientation {
        match self {
            Attachment::Device { reversed: true, .. } => Orientation::Reversed,
            _ => Orientation::Straight,
        }
    }

    /// The bridge, where it is one that is known.
    pub fn bridge(&self) -> Option<&BridgePort> {
        match self {
            Attachment::Bridge(bridge) => bridge.as_ref(),
            Attachment::Port { bridge, .. } => Some(bridge),
            Attachment::Routed { .. } | Attachment::Device { .. } => None,
        }
    }

    /// The port of a bridge that sits at the bridge, where its name is known.
    fn guarded(&self, attach_point: AttachPoint) -> Option<&str> {
        if attach_point != AttachPoint::Bridge {
            return None;
        }
        self.bridge().map(|bridge| &*bridge.port)
    }

    /// The interface that the host itself sends by to get there; none where it is not known or another system's.
    pub fn host_link(&self) -> Option<&str> {
        match self {
            Attachment::Bridge(bridge) => bridge.as_ref().map(|bridge| &*bridge.name),
            Attachment::Port { bridge, .. } => Some(&bridge.name),
            Attachment::Routed { name } => Some(name),
            Attachment::Device { .. } => None,
        }
    }

    /// The device whose own hooks hold a program with this attach point.
    pub(super) fn device(&self, attach_point: AttachPoint) -> Option<&str> {
        match self {
            _ if attach_point == AttachPoint::Bridge => None,
            Attachment::Bridge(_) => None,
            Attachment::Port { name, .. } | Attachment::Routed { name } | Attachment::Device { name, .. } => {
                Some(name)
            }
        }
    }
}

impl AttachPoint {
    /// The family of the table that these hooks lead to.
    pub fn family(self) -> Family {
        match self {
            AttachPoint::Bridge => Family::Bridge,
            AttachPoint::Device | AttachPoint::Macvtap | AttachPoint::Port | AttachPoint::Routed => {
                Family::Netdev
            }
            AttachPoint::Packets => Family::Inet,
        }
    }
}

impl Devices {
    fn has(&self, name: &str) -> bool {
        self.members.contains_key(name) || self.kept.contains(name)
    }
}

/// How long a device's own hooks stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookLifetime {
    /// They outlive their device (Linux 6.16).
    Lasting,
    /// They go with their device.
    Device,
}

impl Firewall {
    /// For a kernel in which hooks outlive their device, or not.
    pub fn with_hooks(&self, hooks: HookLifetime) -> Firewall {
        let last = hooks == HookLifetime::Lasting;
        Firewall { devices: Devices { last, ..self.devices.clone() }, ..self.clone() }
    }

    /// Where a bridge's port is to be filtered if its program allows either.
    pub fn port_placement(&self) -> Placement {
        if self.devices.last { self.policy.placement } else { Placement::Bridge }
    }

    /// Whether the ports that are judged there have hooks of their own for what their bridge takes or makes itself.
    pub(super) fn guards(&self, attach_point: AttachPoint) -> bool {
        attach_point == AttachPoint::Bridge && self.devices.last && self.policy.placement == Placement::Bridge
    }

    /// With the hooks of these names that are in force, where such a name is reserved and no device has it.
    pub fn keep_hooks<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Firewall {
        let mut next = self.clone();
        names.into_iter().for_each(|name| next.keep_hook(name));
        next
    }

    /// What of the rule set is for these hooks.
    pub(super) fn table(&self, hooks: AttachPoint) -> &Table {
        self.tables.of(hooks.family())
    }

    pub(super) fn table_mut(&mut self, hooks: AttachPoint) -> &mut Table {
        self.tables.of_mut(hooks.family())
    }

    /// A member has come to a place.
    pub(super) fn attach(&mut self, name: &str, place: &Attachment, attach_point: AttachPoint) {
        let Some(device) = place.device(attach_point).map(String::from) else {
            self.drop_kept_hook(name);
            return self.count_guard(place, attach_point, 1);
        };
        *self.devices.members.entry(device.clone()).or_default() += 1;
        self.devices.kept.remove(&device);
        self.hook_as_needed(&device);
    }

    /// A member has left a place.
    pub(super) fn detach(&mut self, place: &Attachment, attach_point: AttachPoint) {
        let Some(device) = place.device(attach_point) else {
            return self.count_guard(place, attach_point, -1);
        };
        match self.devices.members.get(device).copied() {
            Some(more @ 2..) => drop(self.devices.members.insert(device.into(), more - 1)),
            _ => drop(self.devices.members.remove(device)),
        }
        self.keep_hook(device);
        self.hook_as_needed(device);
    }

    /// Members of a name that are guarded come and go.
    fn count_guard(&mut self, place: &Attachment, attach_point: AttachPoint, more: isize) {
        if !self.guards(attach_point) {
            return;
        }
        let Some(port) = place.guarded(attach_point).map(String::from) else { return };
        let before = self.devices.guarded.get(&port).copied().unwrap_or_default();
        match before.saturating_add_signed(more) {
            0 => drop(self.devices.guarded.remove(&port)),
            after => drop(self.devices.guarded.insert(port.clone(), after)),
        }
        self.hook_as_needed(&port);
    }

    fn keep_hook(&mut self, name: &str) {
        let vacant = !self.devices.members.contains_key(name);
        if self.devices.last && vacant && layout::is_reserved(&self.tables.bridge, name) {
            self.devices.kept.insert(name.into());
            self.hook_as_needed(name);
        }
    }

    /// Devices of a name that no binding has any more need no hook, unless they are bound.
    pub(super) fn drop_kept_hook(&mut self, name: &str) {
        if self.devices.kept.remove(name).is_some() {
            self.hook_as_needed(name);
        }
    }

    fn hook_as_needed(&mut self, device: &str) {
        match (self.devices.has(device), self.devices.guarded.contains_key(device)) {
            (true, _) => layout::hook(&mut self.tables.netdev, device, self.tracing),
            (false, true) => layout::guard(&mut self.tables.netdev, device, self.tracing),
            (false, false) => layout::unhook(&mut self.tables.netdev, device),
        }
    }

    pub(super) fn hook_all(&mut self) {
        let names: Vec<String> = layout::hooked(&self.tables.netdev).into_iter().map(String::from).collect();
        names.iter().for_each(|name| self.hook_as_needed(name));
    }
}
