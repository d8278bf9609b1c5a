//! Looks, from time to time, whether bound interfaces carry frames that no chain of ours sees, and tells of it.
//!
//! Reading is a task of its own that nobody waits for. What it means is [`unseen`](crate::unseen)'s.

use super::Daemon;
use crate::apply::Kernel;
use crate::config::Config;
use crate::drops;
use crate::links::{self, Link};
use crate::status::Status;
use crate::unseen::{Finding, Look, Missed, Way};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info, warn};

/// Where looks come from; none ever do where frames are not counted.
pub(super) fn looks(config: &Config, kernel: &Kernel, started: Instant) -> mpsc::Receiver<Look> {
    let (to, looks) = mpsc::channel(1);
    if config.traffic && !config.traffic_check.is_zero() {
        tokio::spawn(keep_looking(config.traffic_check, kernel.clone(), started, to));
    }
    looks
}

async fn keep_looking(period: Duration, kernel: Kernel, started: Instant, to: mpsc::Sender<Look>) {
    let mut timer = interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        match look(&kernel, started).await {
            Ok(look) => {
                if to.send(look).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(reason = %error, "frames that pass unseen can not be looked for"),
        }
    }
}

async fn look(kernel: &Kernel, started: Instant) -> io::Result<Look> {
    let began = started.elapsed();
    let before = aside(links::loads).await?;
    let observed = kernel.submit_count().await.map_err(io::Error::other)??;
    let shed = aside(links::shed).await?;
    Ok(Look { began, before, seen: drops::ways(&observed), shed, after: aside(links::loads).await? })
}

async fn aside<T: Send + 'static>(read: fn() -> io::Result<T>) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
}

impl Daemon {
    pub(super) fn look(&mut self, look: &Look) {
        self.counters.look();
        for Finding { index, way, carried, seen, missed } in self.watch.look(look) {
            let Some(link) = self.state.link_at(index) else { continue };
            let sends = (way == Way::In) != link.kind.is_turned();
            let (interface, direction) = (&link.name, if sends { "from the guest" } else { "to the guest" });
            match missed {
                true => warn!(
                    interface,
                    direction,
                    carried,
                    seen,
                    "carries frames that no rule sees: tc, XDP, another switch or rules before ours may have them"
                ),
                false => info!(interface, direction, carried, seen, "rules see its frames again"),
            }
        }
    }

    /// Adds what was missed to a status.
    pub(super) fn with_missed(&self, mut status: Status) -> Status {
        let missed: BTreeMap<u32, Missed> =
            self.missed().map(|(link, missed)| (link.index, missed)).collect();
        for interface in &mut status.interfaces {
            interface.missed = interface.index.and_then(|index| missed.get(&index).copied());
        }
        status
    }

    /// What was missed of each interface that is looked at.
    pub(super) fn missed(&self) -> impl Iterator<Item = (&Link, Missed)> {
        self.watch.missed().filter_map(|(index, frames)| {
            let link = self.state.link_at(index)?;
            Some((&**link, Missed::of(frames, link.kind.is_turned())))
        })
    }
}
