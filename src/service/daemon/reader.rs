//! Answers calls that only read, on a thread and with a netfilter socket of its own.
//!
//! A look gets the state as it was when it was asked, which costs a few pointers; what is made of it costs the daemon's own
//! task nothing. Concurrent status calls share one answer. The thread reads from the kernel only what counts.

use super::refusals::Refusals;
use crate::document::diag::{self, Diagnostic};
use crate::engine::api::{Reply, Request};
use crate::engine::documents::error;
use crate::engine::error::Error;
use crate::engine::{Context, State};
use crate::kernel::apply::{Reader, Wanted};
use crate::program::ir::observed::Observed;
use crate::program::ir::{Family, Name};
use crate::program::name::SetName;
use crate::report::status::Status;
use crate::ruleset::bypass::BypassCount;
use crate::ruleset::ipset;
use crate::ruleset::plan::plan;
use crate::service::metrics::{self, Counters};
use crate::service::metrics_server;
use crate::service::rpc::Call;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use uuid::Uuid;

/// What is asked of the thread.
pub(super) enum Ask {
    /// A client's call that looks, with what there is to be seen.
    Call(Call, Box<View>),
    /// Figures for the metrics server.
    Figures(metrics_server::Question, Box<View>),
    /// What the kernel has in these sets.
    Counts(Wanted, oneshot::Sender<io::Result<Observed>>),
}

/// All that can be seen at a moment.
#[derive(Clone)]
pub(super) struct View {
    /// Since the daemon's start.
    pub(super) now: Duration,
    pub(super) state: State,
    /// Frames that no rule saw, by index.
    pub(super) missed: BTreeMap<u32, BypassCount>,
    pub(super) counters: Counters,
    /// Sets that stand for ipsets.
    pub(super) ipsets: BTreeSet<(Family, Name)>,
}

/// The way to the thread. It ends when the last is dropped.
#[derive(Clone)]
pub(super) struct Teller(mpsc::Sender<Ask>);

impl Teller {
    /// Starts the thread, in the calling thread's network namespace.
    pub(super) fn start() -> io::Result<Teller> {
        let (to, asked) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        thread::Builder::new().name("looks".into()).spawn(move || {
            let reader = Reader::open();
            let _ = ready.send(reader.as_ref().map(drop).map_err(|error| error.kind()));
            if let Ok(reader) = reader {
                Telling { reader, refusals: Refusals::default() }.run(&asked);
            }
        })?;
        opened.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(Teller(to))
    }

    /// Asks. Where the thread has ended, the answer's channel ends, too.
    pub(super) fn ask(&self, ask: Ask) {
        let _ = self.0.send(ask);
    }

    /// What the kernel has in these sets.
    pub(super) async fn counts(&self, wanted: Wanted) -> io::Result<Observed> {
        let (to, counts) = oneshot::channel();
        self.ask(Ask::Counts(wanted, to));
        counts.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?
    }
}

struct Telling {
    reader: Reader,
    refusals: Refusals,
}

impl Telling {
    fn run(&mut self, asked: &mpsc::Receiver<Ask>) {
        while let Some(first) = self.next(asked) {
            let all = std::iter::once(first).chain(asked.try_iter());
            let (mut calls, mut figures) = (Vec::new(), Vec::new());
            for ask in all {
                match ask {
                    Ask::Call(call, view) if call.request == Request::Status => calls.push((call, view)),
                    Ask::Call(call, view) => self.answer(call, &view),
                    Ask::Figures(question, view) => figures.push((question, view)),
                    Ask::Counts(wanted, to) => drop(to.send(self.reader.read(&wanted))),
                }
            }
            self.tell_status(calls, figures);
        }
    }

    /// The next to be answered; meanwhile the number of unlogged refusals is logged.
    fn next(&mut self, asked: &mpsc::Receiver<Ask>) -> Option<Ask> {
        while let Some(due) = self.refusals.due() {
            match asked.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(ask) => return Some(ask),
                Err(mpsc::RecvTimeoutError::Timeout) => self.refusals.tell_left_out(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            }
        }
        asked.recv().ok()
    }

    fn answer(&mut self, call: Call, view: &View) {
        let answer = match &call.request {
            Request::Ipset { name, .. } => self.addresses(name),
            Request::Plan { xml } => view.plan(xml),
            request => view.look(request),
        };
        self.reply(call, view, answer);
    }

    fn reply(&mut self, call: Call, view: &View, answer: Result<Reply, Error>) {
        view.counters.call(call.request.name(), (&answer).into());
        if let Err(refused) = &answer {
            self.refusals.tell(&call, refused);
        }
        let _ = call.reply.send(answer); // The client may be gone.
    }

    fn addresses(&mut self, name: &str) -> Result<Reply, Error> {
        let counted =
            self.reader.read(&ipset_sets(name)).map_err(|error| Error::internal(error.to_string()))?;
        ipset::plan_change(&counted, name, ipset::IpsetVerb::List, &[])
            .map(|work| Reply::Names(work.addresses))
            .map_err(|fault| bad_ipset(&fault))
    }

    /// All who ask at once see what the last of them sees.
    fn tell_status(
        &mut self,
        calls: Vec<(Call, Box<View>)>,
        figures: Vec<(metrics_server::Question, Box<View>)>,
    ) {
        let views = calls.iter().map(|(_, view)| view).chain(figures.iter().map(|(_, view)| view));
        let Some(view) = views.last().cloned() else { return };
        let status = self.reader.read(&view.wanted()).map(|counted| view.status(&counted));
        if !figures.is_empty() {
            let dropped = status.as_ref().map(metrics::dropped).unwrap_or_default();
            let text = view.figures(&dropped);
            figures.into_iter().for_each(|(question, _)| drop(question.send(text.clone())));
        }
        if calls.is_empty() {
            return;
        }
        let json = status.map_err(|error| Error::internal(error.to_string())).and_then(|status| {
            serde_json::to_string(&status).map_err(|error| Error::internal(error.to_string()))
        });
        for (call, view) in calls {
            self.reply(call, &view, json.clone().map(Reply::Json));
        }
    }
}

impl View {
    fn context(&self) -> Context {
        Context { now: self.now, fresh: Uuid::nil() }
    }

    fn look(&self, request: &Request) -> Result<Reply, Error> {
        self.state.request(request, self.context()).map(|change| change.reply)
    }

    /// What binding an interface would change; nothing is.
    fn plan(&self, xml: &str) -> Result<Reply, Error> {
        let request = Request::Apply { xml: xml.to_owned() };
        let change = self.state.request(&request, self.context())?;
        let [old, new] = [&self.state, &change.next].map(|state| state.firewall().ruleset());
        Ok(Reply::Text(plan(&old, &new).to_string()))
    }

    fn wanted(&self) -> Wanted {
        let ipsets = self.ipsets.iter().filter_map(|(family, name)| match SetName::parse(name)? {
            SetName::Ipset(_, kind) => Some((*family, name.clone(), ipset::empty(kind).kind())),
            _ => None,
        });
        Wanted {
            sets: self.state.counted().into_iter().chain(ipsets).collect(),
            chains: self.state.counting_chains(),
        }
    }

    fn status(&self, counted: &Observed) -> Status {
        let mut status = self.state.status(counted);
        for interface in &mut status.interfaces {
            interface.missed = interface.index.and_then(|index| self.missed.get(&index).copied());
        }
        status
    }

    fn figures(&self, dropped: &[metrics::Dropped]) -> String {
        let named =
            |(index, missed): (&u32, &BypassCount)| Some((self.state.link_at(*index)?.name.clone(), *missed));
        let missed: Vec<_> = self.missed.iter().filter_map(named).collect();
        self.counters.text(&self.state.census(), dropped, &missed)
    }
}

/// The sets that hold the addresses of a name.
pub(super) fn ipset_sets(name: &str) -> Wanted {
    let sets = ipset::TABLES.into_iter().flat_map(|family| {
        let set = |kind| Name::from(SetName::Ipset(name.into(), kind));
        ipset::FAMILIES.map(|kind| (family, set(kind), ipset::empty(kind).kind()))
    });
    Wanted { sets: sets.collect(), chains: Vec::new() }
}

/// What a client hears of a bad name or address.
pub(super) fn bad_ipset(fault: &ipset::IpsetError) -> Error {
    error(&[Diagnostic::error(diag::Code::INVALID_ARG, fault.to_string())])
}
