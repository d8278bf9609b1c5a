//! Checks periodically whether bound interfaces carry frames that no chain of ours sees, and logs it.
//!
//! Reading is a task of its own that no call waits for. [`bypass`](crate::ruleset::bypass) compares the samples.

use super::Daemon;
use super::reader::Teller;
use crate::guest::link::{Link, Orientation};
use crate::kernel::apply::Wanted;
use crate::kernel::links;
use crate::program::ir::{Family, KeyType, SetType, ValueType};
use crate::ruleset::bypass::{BypassCount, Finding, Flow, Look};
use crate::ruleset::counters;
use crate::ruleset::layout::{TRAFFIC_IN, TRAFFIC_OUT};
use crate::service::config::Config;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

/// Where looks come from; none ever do where frames are not counted.
pub(super) fn looks(config: &Config, teller: &Teller, started: Instant) -> mpsc::Receiver<Look> {
    let (to, looks) = mpsc::channel(1);
    if config.traffic && !config.traffic_check.is_zero() {
        tokio::spawn(keep_looking(config.traffic_check, teller.clone(), started, to));
    }
    looks
}

/// The sets that count frames, in whichever tables there are by then.
fn counting() -> Wanted {
    let kind = SetType { key: vec![KeyType::IfIndex], data: ValueType::None, dynamic: false, counted: true };
    let of = |family| [TRAFFIC_IN, TRAFFIC_OUT].map(|name| (family, name.into(), kind.clone()));
    Wanted { sets: [Family::Bridge, Family::Netdev].into_iter().flat_map(of).collect(), chains: Vec::new() }
}

async fn keep_looking(period: Duration, teller: Teller, started: Instant, to: mpsc::Sender<Look>) {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        match look(&teller, started).await {
            Ok(look) => {
                if to.send(look).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(reason = %error, "bypass check failed; it is repeated"),
        }
    }
}

async fn look(teller: &Teller, started: Instant) -> io::Result<Look> {
    let began = started.elapsed();
    let before = aside(links::loads).await?;
    let observed = teller.counts(counting()).await?;
    let shed = aside(links::shed).await?;
    Ok(Look { began, before, seen: counters::ways(&observed), shed, after: aside(links::loads).await? })
}

async fn aside<T: Send + 'static>(read: fn() -> io::Result<T>) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

impl Daemon {
    pub(super) fn look(&mut self, look: &Look) {
        self.core.counters.look();
        for Finding { index, way, carried, seen, missed } in self.core.watch.look(look) {
            let Some(link) = self.core.state.link_at(index) else { continue };
            let sends = (way == Flow::Ingress) == (link.kind.orientation() == Orientation::Straight);
            let (interface, direction) = (&link.name, if sends { "from the guest" } else { "to the guest" });
            if missed {
                warn!(
                    interface,
                    direction,
                    carried,
                    seen,
                    "carries frames that no rule sees: tc, XDP, another switch or rules before ours may have them"
                )
            } else {
                info!(interface, direction, carried, seen, "rules see its frames again")
            }
        }
    }

    /// What was missed of each interface that is looked at.
    pub(super) fn missed(&self) -> impl Iterator<Item = (&Link, BypassCount)> {
        self.core.watch.missed().filter_map(|(index, frames)| {
            let link = self.core.state.link_at(index)?;
            Some((&**link, BypassCount::of(frames, link.kind.orientation())))
        })
    }
}
