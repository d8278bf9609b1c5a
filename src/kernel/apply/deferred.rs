//! What is put off until no packet is left that may read it: a thread waits for those packets, while changes go on.
//!
//! Only chains and sets are put off that nothing leads to. A change that names one of them, or that deletes what they may
//! still refer to, [minds](Deferred::minds) and has to come after they are gone. What is put off during a wait has the next one.

use super::socket::wait_for_packets_under_way;
use crate::program::ir::{Family, Name};
use crate::ruleset::plan::{Plan, Step, TableOperation};
use std::collections::BTreeSet;
use std::io;
use std::mem::take;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// How often is looked whether a wait is over.
const LOOK: Duration = Duration::from_millis(2);

/// A wait for the packets under way that holds nothing up.
pub(crate) trait Wait {
    /// Begins to wait for all that are under way now. Whether it did.
    fn begin(&mut self) -> bool;
    /// Whether one more wait that was begun is over.
    fn is_over(&mut self) -> bool;
}

/// A thread that waits.
pub(super) struct Waiter {
    begin: Sender<()>,
    ended: Receiver<()>,
}

/// Steps that wait.
pub(crate) struct Deferred<W> {
    wait: W,
    /// Waited for now.
    waiting: Vec<Step>,
    /// Put off since that wait began.
    later: Vec<Step>,
    /// Waits whose end no step needs any more.
    given_up: usize,
}

impl Waiter {
    pub(super) fn start() -> io::Result<Waiter> {
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new().name("grace".into()).spawn(move || {
            for () in begun {
                wait_for_packets_under_way();
                if end.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Waiter { begin, ended })
    }
}

impl Wait for Waiter {
    fn begin(&mut self) -> bool {
        self.begin.send(()).is_ok()
    }

    fn is_over(&mut self) -> bool {
        self.ended.try_recv().is_ok()
    }
}

impl<W: Wait> Deferred<W> {
    pub(super) fn new(wait: W) -> Deferred<W> {
        Deferred { wait, waiting: Vec::new(), later: Vec::new(), given_up: 0 }
    }

    /// The next job; a timeout where a wait may be over before one comes.
    pub(super) fn until_over<T>(&self, queue: &Receiver<T>) -> Result<T, RecvTimeoutError> {
        if self.waiting.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(LOOK)
        }
    }

    /// Defers steps. Those that cannot be deferred are returned.
    pub(super) fn defer(&mut self, steps: Vec<Step>) -> Vec<Step> {
        let unreachable = |step: &Step| {
            matches!(
                step.change,
                TableOperation::FlushChain(_) | TableOperation::DeleteChain(_) | TableOperation::DeleteSet(_)
            )
        };
        if !steps.iter().all(unreachable) {
            return steps;
        }
        self.later.extend(steps);
        self.go_on();
        Vec::new()
    }

    /// Whether anything is put off.
    pub(super) fn has_steps(&self) -> bool {
        !self.waiting.is_empty() || !self.later.is_empty()
    }

    /// Whether a change must come after what is put off.
    pub(super) fn minds(&self, plan: &Plan) -> bool {
        let put_off: BTreeSet<_> = self.waiting.iter().chain(&self.later).filter_map(name).collect();
        let at_once = || plan.prepare.iter().chain(&plan.switch);
        let deletes = |step: &Step| {
            matches!(
                step.change,
                TableOperation::DeleteTable | TableOperation::DeleteChain(_) | TableOperation::DeleteSet(_)
            )
        };
        let named = |step: &Step| name(step).is_some_and(|name| put_off.contains(&name));
        self.has_steps() && (at_once().any(deletes) || at_once().chain(&plan.retire).any(named))
    }

    /// What no packet can be reading any more.
    pub(super) fn over(&mut self) -> Vec<Step> {
        let mut over = Vec::new();
        while self.wait.is_over() {
            match self.given_up.checked_sub(1) {
                Some(left) => self.given_up = left,
                None => over.extend(take(&mut self.waiting)),
            }
        }
        self.go_on();
        over
    }

    /// All that is put off; who takes it waits himself.
    pub(super) fn give_up(&mut self) -> Vec<Step> {
        self.given_up += usize::from(!self.waiting.is_empty());
        let mut all = take(&mut self.waiting);
        all.append(&mut self.later);
        all
    }

    fn go_on(&mut self) {
        if self.waiting.is_empty() && !self.later.is_empty() && self.wait.begin() {
            self.waiting = take(&mut self.later);
        }
    }
}

/// The chain or set that a step is about.
fn name(step: &Step) -> Option<(Family, bool, Name)> {
    let (is_chain, name) = match &step.change {
        TableOperation::AddTable | TableOperation::DeleteTable => return None,
        TableOperation::AddChain(name, _)
        | TableOperation::DeleteChain(name)
        | TableOperation::FlushChain(name)
        | TableOperation::AddRule(name, _) => (true, name),
        TableOperation::AddSet(name, _)
        | TableOperation::DeleteSet(name)
        | TableOperation::AddElements(name, ..)
        | TableOperation::DeleteElements(name, ..)
        | TableOperation::DestroyElements(name, ..) => (false, name),
    };
    Some((step.family, is_chain, name.clone()))
}
