//! The thread that owns the netfilter socket: plans in, outcomes out.
//!
//! One thread, one socket, one commit at a time: owned tables belong to a socket, and `sendmsg` takes as long as the
//! commit. A plan's *prepare* and *switch* are each one datagram, all or nothing; where the switch is refused, what
//! prepare made is swept, so that the kernel is as it was. *Retire* is sent when no packet is left that may still read
//! what it takes away. Needs no async runtime; answers can be awaited in any.
#![allow(unsafe_code, reason = "socket options, the descriptor of mnl's socket, membarrier")]

use crate::ir::Family;
use crate::ir::observed::Observed;
use crate::nft::probe::{self, Features};
use crate::nft::read::{self, Dump, Request};
use crate::nft::reply::{self, Fault, Received, Refusal};
use crate::nft::{Encoded, Ownership, Sealed, encode};
use crate::plan::{Change, Plan, Step};
use rustix::net::{RecvFlags, recv, sockopt};
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;

/// A handle on the thread. The thread ends, and its tables lose their owner, when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Kernel {
    jobs: mpsc::Sender<Job>,
    port: u32,
}

/// When a plan's retire is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retire {
    /// Before the answer, which then tells of its refusals.
    BeforeAnswer,
    /// After the answer and before anything else; its refusals are told with the next answer.
    AfterAnswer,
}

/// A plan that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What could not be taken away: litter, but no failure.
    pub litter: Vec<Refusal>,
}

/// A plan that is not in force: the kernel is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// In which batch.
    pub stage: Stage,
    /// Everything that was refused.
    pub refusals: Vec<Refusal>,
    /// What prepare had made and could not be swept.
    pub litter: Vec<Refusal>,
}

/// The batches that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What no packet can reach.
    Prepare,
    /// What leads there.
    Switch,
}

#[derive(Debug)]
enum Job {
    Apply(Plan, Retire, oneshot::Sender<Result<Applied, Refused>>),
    Observe(oneshot::Sender<io::Result<Observed>>),
    Features(oneshot::Sender<Features>),
}

impl Kernel {
    /// Opens a socket in the calling thread's network namespace. With [`Ownership::OwnedAndKept`], tables are made ours
    /// where the kernel can, and orphans of an earlier run are adopted.
    pub fn open(wanted: Ownership) -> io::Result<Kernel> {
        let (jobs, queue) = mpsc::channel();
        let (ready, opened) = mpsc::channel();
        // A new thread is born in the network namespace of the one that makes it.
        thread::Builder::new().name("nftables".into()).spawn(move || match Worker::open(wanted) {
            Ok(mut worker) => {
                let _ = ready.send(Ok(worker.link.socket.portid()));
                worker.run(&queue);
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        })?;
        let port = opened.recv().map_err(|_| gone())??;
        Ok(Kernel { jobs, port })
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
        let (answer, outcome) = oneshot::channel();
        let _ = self.jobs.send(Job::Features(answer));
        outcome.blocking_recv().unwrap_or_default()
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the netfilter thread has ended")
}

/// How often a commit is sent again that the kernel itself asks to repeat.
const ATTEMPTS: usize = 32;
/// How long is waited for packets under way where the kernel has no membarrier to wait with.
const GRACE: Duration = Duration::from_millis(100);
/// Bytes that are read at once, and that may wait to be read.
const BUFFER: usize = 1 << 18;
const WAITING: usize = 1 << 22;

/// What the thread owns.
struct Worker {
    link: Link,
    features: Features,
    wanted: Ownership,
    litter: Vec<Refusal>,
}

impl Worker {
    fn open(wanted: Ownership) -> io::Result<Worker> {
        let link = Link::open()?;
        let questions = probe::questions();
        let refusals = link.commit(&questions.encoded, &questions.steps);
        let features = questions.answers(&refusals);
        Ok(Worker { link, features, wanted, litter: Vec::new() })
    }

    fn run(&mut self, queue: &mpsc::Receiver<Job>) {
        for job in queue {
            match job {
                Job::Apply(plan, retire, answer) => self.answer(plan, retire, answer),
                Job::Observe(answer) => {
                    let _ = answer.send(read::observe(&mut self.link));
                }
                Job::Features(answer) => {
                    let _ = answer.send(self.features);
                }
            }
        }
    }

    fn answer(&mut self, plan: Plan, retire: Retire, answer: oneshot::Sender<Result<Applied, Refused>>) {
        if let Err(refused) = self.put_in_force(&plan) {
            let _ = answer.send(Err(refused));
            return;
        }
        if retire == Retire::BeforeAnswer {
            self.retire(&plan.retire);
        }
        let _ = answer.send(Ok(Applied { litter: std::mem::take(&mut self.litter) }));
        if retire == Retire::AfterAnswer {
            self.retire(&plan.retire);
        }
    }

    fn put_in_force(&mut self, plan: &Plan) -> Result<(), Refused> {
        let ownership = self.ownership(plan);
        let refused = |stage, refusals, litter| Refused { stage, refusals, litter };
        // Both are encoded before either is sent: what can not be told is refused while nothing has happened.
        let prepare = encode(&plan.prepare, &ownership).map_err(|r| refused(Stage::Prepare, r, vec![]))?;
        let switch = encode(&plan.switch, &ownership).map_err(|r| refused(Stage::Switch, r, vec![]))?;
        let refusals = self.link.commit(&prepare, &plan.prepare);
        if !refusals.is_empty() {
            return Err(refused(Stage::Prepare, refusals, vec![]));
        }
        let refusals = self.link.commit(&switch, &plan.switch);
        if !refusals.is_empty() {
            let litter = self.send(&sweep(&plan.prepare));
            return Err(refused(Stage::Switch, refusals, litter));
        }
        Ok(())
    }

    fn retire(&mut self, steps: &[Step]) {
        if !steps.is_empty() {
            wait_for_packets_under_way();
            let refusals = self.send(steps);
            self.litter.extend(refusals);
        }
    }

    fn send(&mut self, steps: &[Step]) -> Vec<Refusal> {
        match encode(steps, |_| Ownership::Shared) {
            Ok(encoded) => self.link.commit(&encoded, steps),
            Err(refusals) => refusals,
        }
    }

    /// A table that exists keeps the kind it has: an owner can not be added to it. A new one is made as wanted.
    fn ownership(&mut self, plan: &Plan) -> impl Fn(Family) -> Ownership + use<> {
        let new = match self.features.owner_persist.is_yes() {
            true => self.wanted,
            false => Ownership::Shared,
        };
        let makes_table = |step: &Step| step.change == Change::AddTable;
        let there = match plan.prepare.iter().chain(&plan.switch).any(makes_table) {
            true => read::tables(&mut self.link).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        move |family| match there.get(&family) {
            Some(table) if table.owner => Ownership::OwnedAndKept,
            Some(_) => Ownership::Shared,
            None => new,
        }
    }
}

/// What takes away the chains and sets that steps made, in an order in which nothing is still referred to.
fn sweep(made: &[Step]) -> Vec<Step> {
    let inverse = |pick: fn(&Change) -> Option<Change>| {
        made.iter().filter_map(move |step| Some(Step { family: step.family, change: pick(&step.change)? }))
    };
    let flush = inverse(|change| match change {
        Change::AddChain(name, _) => Some(Change::FlushChain(name.clone())),
        _ => None,
    });
    let sets = inverse(|change| match change {
        Change::AddSet(name, _) => Some(Change::DeleteSet(name.clone())),
        _ => None,
    });
    let chains = inverse(|change| match change {
        Change::AddChain(name, _) => Some(Change::DeleteChain(name.clone())),
        _ => None,
    });
    flush.chain(sets).chain(chains).collect()
}

/// Packets walk the rules inside of an RCU read section; membarrier waits for all that have begun.
fn wait_for_packets_under_way() {
    // SAFETY: membarrier takes two integers and touches no memory of ours.
    let outcome = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0) };
    if outcome != 0 {
        thread::sleep(GRACE);
    }
}

/// The socket, and how it is spoken to.
struct Link {
    socket: mnl::Socket,
    sequence: u32,
}

impl Link {
    fn open() -> io::Result<Link> {
        let socket = mnl::Socket::new(mnl::Bus::Netfilter)?;
        let link = Link { socket, sequence: 0 };
        // Without these the kernel says less, which is no reason to refuse it.
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            link.set_option(option);
        }
        let _ = sockopt::set_socket_recv_buffer_size_force(link.fd(), WAITING);
        Ok(link)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket keeps its descriptor open as long as it lives, and `self` borrows it.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }

    fn set_option(&self, option: i32) {
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        // SAFETY: the pointer and length are those of `on`, which outlives the call.
        unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                length,
            );
        }
    }

    /// Sends a batch as one datagram and says what was refused of it; nothing refused means that it is in force.
    fn commit(&self, encoded: &Encoded, steps: &[Step]) -> Vec<Refusal> {
        if encoded.is_empty() {
            return Vec::new();
        }
        let mut refusals = Vec::new();
        for _ in 0..ATTEMPTS {
            let sealed = encoded.seal();
            refusals = match self.transact(&sealed) {
                Ok(replies) => {
                    replies.iter().flat_map(|bytes| reply::refusals(bytes, &sealed, steps)).collect()
                }
                Err(error) => vec![unsent(encoded.length(), &error)],
            };
            // Another commit came between, or a module had to be loaded: the same batch may pass now.
            let again = |refusal: &Refusal| matches!(refusal.errno(), Some(libc::EAGAIN | libc::EINTR));
            if !refusals.iter().any(again) {
                break;
            }
        }
        refusals
    }

    /// Commit or abort has happened when `sendmsg` returns, and all answers are waiting.
    fn transact(&self, sealed: &Sealed) -> io::Result<Vec<Vec<u8>>> {
        let pages: Vec<IoSlice<'_>> = sealed.pages().map(IoSlice::new).collect();
        let total: usize = pages.iter().map(|page| page.len()).sum();
        self.make_room(total);
        let descriptor = self.fd();
        let socket = socket2::SockRef::from(&descriptor);
        while let Err(error) = socket.send_vectored(&pages) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        self.drain()
    }

    /// In a user namespace only the smaller limit can be had; too small a buffer shows in the sending.
    fn make_room(&self, bytes: usize) {
        let bytes = bytes + 4096;
        if sockopt::set_socket_send_buffer_size_force(self.fd(), bytes).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(self.fd(), bytes);
        }
    }

    fn drain(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut replies = Vec::new();
        let mut lost = None;
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = Some(error),
                Err(error) => return Err(error),
            }
        }
        // More answers than there was room for: what arrived names refusals, or else nothing is known.
        let refused =
            |bytes: &Vec<u8>| reply::messages(bytes).any(|message| reply::error(&message).is_some());
        match lost {
            Some(error) if !replies.iter().any(refused) => Err(error),
            _ => Ok(replies),
        }
    }

    /// One datagram; none where it was too long to be read whole.
    fn receive(&self, flags: RecvFlags) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; BUFFER];
        loop {
            match recv(self.fd(), buffer.as_mut_slice(), flags | RecvFlags::TRUNC).map_err(io::Error::from) {
                Ok((_, length)) if length > buffer.len() => return Ok(None),
                Ok((_, length)) => {
                    buffer.truncate(length);
                    return Ok(Some(buffer));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks and collects the datagrams of the answer; none where the answer is not of one moment.
    fn ask(&mut self, request: &Request) -> io::Result<Option<Vec<Vec<u8>>>> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        self.socket.send(&request.bytes(self.sequence))?;
        let mut answer = Vec::new();
        let mut torn = false;
        loop {
            let Some(datagram) = self.receive(RecvFlags::empty())? else {
                torn = true;
                continue;
            };
            let mine = |message: &Received<'_>| message.sequence == self.sequence;
            let mut ended = false;
            for message in reply::messages(&datagram).filter(mine) {
                torn |= message.flags & libc::NLM_F_DUMP_INTR as u16 != 0;
                ended |= matches!(i32::from(message.kind), libc::NLMSG_DONE | libc::NLMSG_ERROR);
                if let Some(Fault::Kernel { errno, .. }) = reply::error(&message).map(|error| error.fault) {
                    return Err(io::Error::from_raw_os_error(errno));
                }
            }
            answer.push(datagram);
            if ended {
                return Ok(if torn { None } else { Some(answer) });
            }
        }
    }
}

impl Dump for Link {
    fn dump(&mut self, request: &Request, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            match self.ask(request) {
                Ok(Some(answer)) => {
                    let messages = answer.iter().flat_map(|datagram| reply::messages(datagram));
                    let content = messages.filter(|message| i32::from(message.kind) >= libc::NLMSG_MIN_TYPE);
                    content
                        .filter(|message| message.sequence == self.sequence)
                        .for_each(|message| each(&message));
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the rule set does not stop changing"))
    }
}

fn unsent(bytes: usize, error: &io::Error) -> Refusal {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let text = match errno {
        libc::EMSGSIZE => Some("the batch is larger than the send buffer of the socket may be".into()),
        _ => None,
    };
    let fault = Fault::Kernel { errno, text, offset: None };
    Refusal { step: None, what: format!("a batch of {bytes} bytes"), origin: None, fault }
}

impl Refused {
    fn gone() -> Refused {
        let fault = Fault::Unencodable(gone().to_string());
        let refusal = Refusal { step: None, what: "the batch".into(), origin: None, fault };
        Refused { stage: Stage::Prepare, refusals: vec![refusal], litter: Vec::new() }
    }
}

impl Display for Refused {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refused {}
