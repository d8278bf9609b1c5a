//! The thread that owns the netfilter socket: plans in, outcomes out.
//!
//! One thread, one socket, one commit at a time: owned tables belong to a socket, and `sendmsg` takes as long as the
//! commit. A plan's *prepare* and *switch* are each one datagram, all or nothing; where the switch is refused, what
//! prepare made is swept, so that the kernel is as it was. *Retire* is sent when no packet is left that may still read
//! what it takes away. A set that stands for an ipset comes to be with what the others of its name hold: plans do not
//! know it, and a rule must not meet it empty. Needs no async runtime; answers can be awaited in any.

mod deferred;
mod host;
mod reader;
mod socket;
mod worker;

pub use reader::{Reader, Wanted};

use crate::program::ir::observed::Observed;
use crate::ruleset::nft::Ownership;
use crate::ruleset::nft::probe::{self, Features};
use crate::ruleset::nft::reply::{Refusal, RefusalCause};
use crate::ruleset::plan::Plan;
#[cfg(test)]
pub(crate) use deferred::Wait;
use deferred::Waiter;
pub use host::has_ipset;
use socket::Link;
use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;
pub(crate) use worker::Worker;
#[cfg(test)]
pub(crate) use worker::{Batch, Nftables};

/// A handle on the thread. The thread ends, and its tables lose their owner, when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Kernel {
    jobs: mpsc::Sender<Job>,
    port: u32,
    features: Features,
}

/// When a plan's retire is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Before the answer, which then reports its refusals.
    BeforeAnswer,
    /// After the answer; a later answer reports its refusals. A later plan does not wait for it, unless it touches
    /// what is deleted.
    AfterAnswer,
}

/// A plan that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be deleted: left over, but no failure of the change.
    pub retire_failures: Vec<Refusal>,
}

/// A plan that is not in force. The kernel is as it was, unless it was the last batch of a move that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In which batch.
    pub stage: Stage,
    /// Everything that was refused.
    pub refusals: Vec<Refusal>,
    /// What prepare had made and could not be swept.
    pub retire_failures: Vec<Refusal>,
}

/// How often what is left of a move is tried again whose last batch was refused.
pub const TRIES: usize = 3;

/// The batches that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// What blocks packets for a moment.
    Pause,
    /// What no packet can reach.
    Prepare,
    /// What leads there.
    Switch,
    /// What admits the traffic of interfaces that moved. The thread reports its refusals as retire failures: the sender of the plan knows
    /// whether an interface moves.
    Retire,
}

#[derive(Debug)]
pub(crate) enum Job {
    Apply(Plan, Retire, oneshot::Sender<Result<Applied, Refused>>),
    Observe(oneshot::Sender<io::Result<Observed>>),
}

impl Kernel {
    /// Opens a socket in the calling thread's network namespace. With [`Ownership::OwnedAndKept`], tables are made ours
    /// where the kernel can, and orphans of an earlier run are adopted.
    pub fn open(wanted: Ownership) -> io::Result<Kernel> {
        let (jobs, queue) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        // A new thread is born in the network namespace of the one that makes it.
        thread::Builder::new().name("nftables".into()).spawn(move || match begin(wanted) {
            Ok((mut worker, port, features)) => {
                let _ = ready.send(Ok((port, features)));
                worker.run(&queue);
            }
            Err(error) => drop(ready.send(Err(error))),
        })?;
        let (port, features) = opened.recv().map_err(|_| gone())??;
        Ok(Kernel { jobs, port, features })
    }

    /// The netlink port by which the kernel announces our commits.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Puts a plan in force and waits for the outcome. Not to be called from async code.
    pub fn apply(&self, plan: Plan) -> Result<Applied, Refused> {
        self.submit(plan, Retire::BeforeAnswer).blocking_recv().unwrap_or_else(|_| Err(Refused::gone()))
    }

    /// Puts a plan in force; the outcome can be awaited. A receiver that is dropped stops nothing.
    pub fn submit(&self, plan: Plan, retire: Retire) -> oneshot::Receiver<Result<Applied, Refused>> {
        let (answer, outcome) = oneshot::channel();
        if let Err(mpsc::SendError(Job::Apply(.., answer))) = self.jobs.send(Job::Apply(plan, retire, answer))
        {
            let _ = answer.send(Err(Refused::gone()));
        }
        outcome
    }

    /// Reads our tables back.
    pub fn observe(&self) -> io::Result<Observed> {
        self.submit_observe().blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Reads our tables back; the outcome can be awaited.
    pub fn submit_observe(&self) -> oneshot::Receiver<io::Result<Observed>> {
        let (answer, outcome) = oneshot::channel();
        if let Err(mpsc::SendError(Job::Observe(answer))) = self.jobs.send(Job::Observe(answer)) {
            let _ = answer.send(Err(gone()));
        }
        outcome
    }

    /// What this kernel can do, found out when the socket was opened.
    pub fn features(&self) -> Features {
        self.features
    }
}

/// What the thread owns, the port of its socket, and what the kernel can do.
fn begin(wanted: Ownership) -> io::Result<(Worker<Link, Waiter>, u32, Features)> {
    let link = Link::open()?;
    let (port, questions) = (link.port(), probe::questions());
    let features = questions.answers(&link.send(&questions.encoded, &questions.steps));
    let ownership = if features.owner_persist.is_yes() { wanted } else { Ownership::Shared };
    Ok((Worker::new(link, ownership, Waiter::start()?), port, features))
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the netfilter thread has ended")
}

impl Refused {
    /// What was refused before anything was sent, if anything was.
    pub fn of(refusals: Vec<Refusal>) -> Result<(), Refused> {
        let refused = Refused { stage: Stage::Prepare, refusals, retire_failures: Vec::new() };
        if refused.refusals.is_empty() { Ok(()) } else { Err(refused) }
    }

    /// The filters whose rules were refused.
    pub fn filters(&self) -> BTreeSet<String> {
        let origins = self.refusals.iter().filter_map(|refusal| refusal.origin.as_ref());
        origins.map(|origin| origin.filter.to_string()).collect()
    }

    /// Whether the kernel does not have what the change is about, or has what it would make: it was made for
    /// another state of the kernel.
    pub fn is_stale(&self) -> bool {
        self.refusals.iter().any(|refusal| matches!(refusal.errno(), Some(libc::ENOENT | libc::EEXIST)))
    }

    /// The thread is no more.
    pub fn gone() -> Refused {
        Refused::unsent("the batch", gone().to_string())
    }

    /// Nothing was sent.
    pub fn unsent(what: &str, why: String) -> Refused {
        let refusal =
            Refusal { step: None, what: what.into(), origin: None, fault: RefusalCause::Unencodable(why) };
        Refused { stage: Stage::Prepare, refusals: vec![refusal], retire_failures: Vec::new() }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refused {}
