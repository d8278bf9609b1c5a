//! A change is on the disk, in the kernel and in the daemon, or in none of them: killed or refused at every step between, and with
//! disks that are full or read-only and come back.

use crate::boundary::{Boundaries, Fate};
use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use nwfilter::guest::lease::file;
use nwfilter::program::ir::observed::ObservedTable;
use nwfilter::report::status::Status;
use nwfilter::service::rpc::client::Failure;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// All that a daemon keeps or puts in force, without what differs from run to run.
#[derive(Debug, PartialEq)]
struct Snapshot {
    filters: BTreeMap<String, String>,
    bindings: BTreeMap<String, String>,
    addresses: Vec<String>,
    reported: Vec<(String, String)>,
    rules: ObservedTable,
}

impl Snapshot {
    fn of(host: &Host, daemon: &Daemon) -> Snapshot {
        Snapshot {
            filters: host.files("filters"),
            bindings: host.files("run/nwfilter-binding"),
            addresses: addresses_on_disk(host),
            reported: daemon.connect().bindings().unwrap(),
            rules: daemon.rules(),
        }
    }
}

/// The addresses of all guests, as a restart would find them.
fn addresses_on_disk(host: &Host) -> Vec<String> {
    let journal = host.files("state").remove("addresses").unwrap_or_default();
    let (book, skipped) = file::read(&journal, Duration::ZERO, 64);
    assert!(skipped.is_empty(), "{journal}");
    let lines = book.0.iter().flat_map(|((guest, index), table)| {
        table.iter().map(move |(address, learned)| format!("{guest} {index} {address} {:?}", learned.how))
    });
    lines.collect()
}

/// What is read there: what lies aside for a change is not.
fn documents(host: &Host, directory: &str) -> BTreeMap<String, String> {
    host.files(directory).into_iter().filter(|(name, _)| !name.starts_with('.')).collect()
}

/// One change of each kind, and a frame that only those pass who have it, where it opens.
struct Case {
    name: &'static str,
    prepare: fn(&Network, &mut Conn),
    change: fn(&Network, &mut Conn) -> Result<(), Failure>,
    opens: Option<fn() -> Vec<u8>>,
}

fn honest() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).into()
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

fn open(name: &str) -> String {
    format!(
        "<filter name='{name}'><uuid>{}</uuid><rule action='accept' direction='inout'/></filter>",
        uuid(name)
    )
}

/// Lets a guest use its own address alone, which has to be learned.
fn own() -> String {
    format!(
        "<filter name='own'><uuid>{}</uuid>\
         <rule action='drop' direction='out' priority='-900'><mac match='no' srcmacaddr='$MAC'/></rule>\
         <rule action='accept' direction='out'><ip srcipaddr='$IP'/></rule>\
         <rule action='accept' direction='out'><arp arpsrcipaddr='$IP'/></rule>\
         <rule action='drop' direction='inout' priority='1000'><mac/></rule></filter>",
        uuid("own")
    )
}

fn guarded(_: &Network, conn: &mut Conn) {
    conn.define(&guard("g", 0)).unwrap();
    conn.create("vnet0", "g").unwrap();
}

fn learns(_: &Network, conn: &mut Conn) {
    conn.define(&own()).unwrap();
    conn.create("vnet0", "own").unwrap();
}

fn announce(network: &Network) {
    network.guest.send(&Vec::from(arp_request(GUEST_IP, PEER_IP).frame())).unwrap();
}

fn addresses(conn: &mut Conn) -> Result<usize, Failure> {
    let status: Status = serde_json::from_str(&conn.0.status()?).unwrap();
    let learning = status.interfaces.into_iter().filter_map(|interface| interface.learning);
    Ok(learning.map(|learning| learning.addresses.len()).sum())
}

/// Announces itself until its address is known, or the daemon is gone.
fn is_learned(network: &Network, conn: &mut Conn) -> Result<(), Failure> {
    let mut known = Ok(0);
    eventually("the address", || {
        announce(network);
        known = addresses(conn);
        !matches!(known, Ok(0))
    });
    known.map(drop)
}

fn learned(network: &Network, conn: &mut Conn) {
    learns(network, conn);
    is_learned(network, conn).unwrap();
}

const CASES: [Case; 9] = [
    Case {
        name: "a broader redefinition",
        prepare: guarded,
        change: |_, conn| conn.define(&open("g")).map(drop),
        opens: Some(forged),
    },
    Case {
        name: "a narrower redefinition",
        prepare: |_, conn| {
            conn.define(&open("g")).unwrap();
            conn.create("vnet0", "g").unwrap();
        },
        change: |_, conn| conn.define(&guard("g", 0)).map(drop),
        opens: None,
    },
    Case {
        name: "a new filter",
        prepare: guarded,
        change: |_, conn| conn.define(&open("h")).map(drop),
        opens: None,
    },
    Case {
        name: "a filter deleted",
        prepare: |_, conn| drop(conn.define(&open("h")).unwrap()),
        change: |_, conn| conn.undefine("h"),
        opens: None,
    },
    Case {
        name: "a binding",
        prepare: |_, conn| drop(conn.define(&guard("g", 0)).unwrap()),
        change: |_, conn| conn.create("vnet0", "g"),
        opens: None,
    },
    Case {
        name: "a binding deleted",
        prepare: guarded,
        change: |_, conn| conn.delete("vnet0"),
        opens: Some(forged),
    },
    Case {
        name: "a binding with an address deleted",
        prepare: learned,
        change: |_, conn| conn.delete("vnet0"),
        opens: Some(forged),
    },
    Case {
        name: "an address no longer needed",
        prepare: learned,
        change: |_, conn| conn.define(&open("own")).map(drop),
        opens: Some(forged),
    },
    Case { name: "an address learned", prepare: learns, change: is_learned, opens: Some(honest) },
];

/// A daemon with a case's state, and the steps of the daemon watched from there.
fn prepared(case: &Case, network: &Network) -> (Host, Boundaries, Daemon, Conn) {
    let host = Host::new();
    host.configure("grace = 0\n");
    let (boundaries, daemon) = Boundaries::start(&host);
    let mut conn = daemon.connect();
    (case.prepare)(network, &mut conn);
    // What is put off is done.
    conn.0.status().unwrap();
    (host, boundaries, daemon, conn)
}

/// What a restart finds before and after the change.
fn before_and_after(case: &Case) -> [Snapshot; 2] {
    [false, true].map(|changes| {
        in_fresh_netns(|| {
            let network = Network::new();
            let (host, _boundaries, daemon, mut conn) = prepared(case, &network);
            if changes {
                (case.change)(&network, &mut conn).unwrap();
            }
            daemon.kill();
            Snapshot::of(&host, &host.start())
        })
    })
}

/// More steps than any change has.
const STEPS: u32 = 60;

fn killed_at(case: &Case, step: u32, [before, after]: &[Snapshot; 2]) -> bool {
    in_fresh_netns(|| {
        let network = Network::new();
        let (host, boundaries, mut daemon, mut conn) = prepared(case, &network);
        boundaries.at(step, Fate::Dies);
        let answer = (case.change)(&network, &mut conn);
        let met = boundaries.was_met();
        if met {
            daemon.wait();
        }
        daemon.kill();
        let opened = case.opens.is_some_and(|frame| network.passes(Way::FromGuest, frame()));
        let daemon = host.start();
        let found = Snapshot::of(&host, &daemon);
        let name = case.name;
        assert!(found == *before || found == *after, "{name}, killed at step {step}: a mixture: {found:#?}");
        assert!(answer.is_err() || found == *after, "{name}, killed at step {step}: acknowledged and lost");
        assert!(!opened || found == *after, "{name}, killed at step {step}: open before it is written");
        met
    })
}

// P-11
#[test]
fn a_kill_at_any_step_leaves_a_whole_change_or_none() {
    for case in &CASES {
        let both = before_and_after(case);
        let steps = (1..STEPS).take_while(|step| killed_at(case, *step, &both)).count();
        println!("{}: {steps} steps", case.name);
        assert!((1..STEPS as usize - 1).contains(&steps), "{}: {steps} steps", case.name);
    }
}

/// A change at whose step the disk fails: refused, it has not happened; and whatever it answers, a restart finds the same.
fn fails_at(case: &Case, step: u32, fate: Fate, [before, after]: &[Snapshot; 2]) -> bool {
    in_fresh_netns(|| {
        let network = Network::new();
        let (host, boundaries, daemon, mut conn) = prepared(case, &network);
        let name = format!("{}, {fate:?} at step {step}", case.name);
        boundaries.at(step, fate);
        // A guest says again what was not learned; no client does.
        let learning = case.name == "an address learned";
        let answer = match learning {
            true => (0..3).try_for_each(|_| {
                announce(&network);
                addresses(&mut conn).map(drop)
            }),
            false => (case.change)(&network, &mut conn),
        };
        let met = boundaries.was_met();
        let opened = case.opens.is_some_and(|frame| network.passes(Way::FromGuest, frame()));
        if answer.is_err() {
            assert!(!opened, "{name}: refused, and yet in force");
        }
        boundaries.come_back();
        let expected = if answer.is_ok() { after } else { before };
        if learning {
            is_learned(&network, &mut conn).unwrap();
        }
        eventually(&format!("{name}: documents and addresses as they must be"), || {
            let found = [documents(&host, "filters"), documents(&host, "run/nwfilter-binding")];
            let written = [expected.filters.clone(), expected.bindings.clone()];
            found == written && addresses_on_disk(&host) == expected.addresses
        });
        daemon.kill();
        let found = Snapshot::of(&host, &host.start());
        assert!(found == *expected, "{name}: {answer:?}, and a restart finds another state: {found:#?}");
        met
    })
}

// P-10
#[test]
fn on_a_failing_disk_only_a_refused_change_is_absent() {
    // What fails from some step on takes a second to be put back. With NWFILTER_DISKS=9 all of it is tried, else a part.
    let lasting = usize::try_from(rounds("NWFILTER_DISKS", 1)).unwrap();
    let stride = if lasting == CASES.len() { 1 } else { 2 };
    for (fate, cases) in [(Fate::Fails(libc::ENOSPC), 9), (Fate::FailsFromOn(libc::EROFS), lasting)] {
        for case in CASES.iter().rev().skip(2).chain(CASES.iter().rev().take(2)).take(cases) {
            let both = before_and_after(case);
            let steps =
                (1..STEPS).step_by(stride).take_while(|step| fails_at(case, *step, fate, &both)).count();
            assert!((1..STEPS as usize / stride).contains(&steps), "{}: {steps} steps", case.name);
        }
    }
}

/// A small file system in memory, in this thread's own view of the tree.
struct Disk {
    path: CString,
    filling: Option<fs::File>,
}

impl Disk {
    fn mount(path: &Path) -> Disk {
        fs::create_dir_all(path).unwrap();
        let disk = Disk { path: CString::new(path.to_str().unwrap()).unwrap(), filling: None };
        disk.mount_with(0);
        disk
    }

    fn mount_with(&self, flags: libc::c_ulong) {
        let (kind, options) = (c"tmpfs", c"size=256k,mode=700");
        let path = self.path.as_ptr();
        // SAFETY: the strings end in NUL.
        let answer =
            unsafe { libc::mount(kind.as_ptr(), path, kind.as_ptr(), flags, options.as_ptr().cast()) };
        assert_eq!(answer, 0, "{:?}: {}", self.path, std::io::Error::last_os_error());
    }

    /// No process may have a file open for writing.
    fn set_read_only(&self, read_only: bool) {
        self.mount_with(libc::MS_REMOUNT | if read_only { libc::MS_RDONLY } else { 0 });
    }

    /// Takes all pages that are left.
    fn fill(&mut self) {
        let directory = Path::new(self.path.to_str().unwrap());
        let mut file = fs::File::create(directory.join("filling")).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        self.filling = Some(file);
    }

    fn empty(&mut self) {
        self.filling.take().unwrap().set_len(0).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: the string ends in NUL.
        unsafe { libc::umount2(self.path.as_ptr(), libc::MNT_DETACH) };
    }
}

/// A journal of a whole page of lines that say nothing new, so that the next line needs another page.
fn whole_page(host: &Host) {
    let line = |index: &str| format!("0 {}-52:54:00:00:00:99 10.9.9.9 0.0.0.0 arp 0 {index}\n", uuid("gone"));
    let short = line("7");
    let many = 4096 / short.len() - 1;
    let digits = 4096 - many * short.len() - short.len() + 1;
    let last = line(&format!("{:0>digits$}", 7));
    let text = short.repeat(many) + &last;
    assert_eq!(text.len(), 4096);
    fs::write(host.path("state/addresses"), text).unwrap();
}

/// Three file systems of which one takes no more: what needs it is refused, whatever was written to the others, and done when
/// there is room.
// P-10
#[test]
fn a_disk_that_is_full_refuses_a_change_as_a_whole() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let [mut filters, mut bindings, mut state] =
            ["filters", "run/nwfilter-binding", "state"].map(|name| Disk::mount(&host.path(name)));
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        learned(&network, &mut conn);
        conn.define(&open("h")).unwrap();
        let large = open("own")
            .replace("<rule", &format!("{}<rule", "<rule action='accept' direction='inout'/>".repeat(300)));
        let found = |daemon: &Daemon| {
            let [mut filters, mut bindings] =
                ["filters", "run/nwfilter-binding"].map(|name| documents(&host, name));
            [&mut filters, &mut bindings].into_iter().for_each(|files| drop(files.remove("filling")));
            (filters, bindings, daemon.rules())
        };
        let before = found(&daemon);
        let unchanged = |what: &str, answer: Result<(), Failure>| {
            assert!(answer.is_err(), "{what}");
            assert!(found(&daemon) == before, "{what}: refused, and yet there");
            assert!(!network.passes(Way::FromGuest, forged()), "{what}: refused, and yet in force");
        };
        filters.fill();
        unchanged("a redefinition, filters full", conn.define(&large).map(drop));
        unchanged("a new filter, filters full", conn.define(&open("new")).map(drop));
        filters.empty();
        bindings.fill();
        unchanged("a binding, bindings full", conn.create("peer0", "h"));
        bindings.empty();
        // The page of the journal has room, which is taken by a line that nothing reads.
        state.fill();
        let path = host.path("state/addresses");
        let used = fs::metadata(&path).unwrap().len() as usize % 4096;
        let room = "#".repeat(4095 - used) + "\n";
        fs::File::options().append(true).open(path).unwrap().write_all(room.as_bytes()).unwrap();
        unchanged("a binding with an address deleted, state full", conn.delete("vnet0"));
        unchanged("a redefinition that needs no address, state full", conn.define(&open("own")).map(drop));
        drop(daemon);
        let daemon = host.start();
        assert!(found(&daemon) == before, "a restart finds the refused changes");
        state.empty();
        daemon.connect().define(&large).unwrap();
        assert!(network.passes(Way::FromGuest, forged()), "there is room again");
    });
}

/// What cannot be written to is as it was, also for a daemon that starts then; it is written to when it can be.
// P-10
#[test]
fn directories_that_are_read_only_refuse_a_change_as_a_whole() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let disks = ["filters", "run/nwfilter-binding"].map(|name| Disk::mount(&host.path(name)));
        host.configure("grace = 0\n");
        let daemon = host.start();
        let mut conn = daemon.connect();
        guarded(&network, &mut conn);
        conn.define(&open("h")).unwrap();
        let found = |daemon: &Daemon| {
            (documents(&host, "filters"), documents(&host, "run/nwfilter-binding"), daemon.rules())
        };
        let before = found(&daemon);
        disks.iter().for_each(|disk| disk.set_read_only(true));
        let answers = [
            ("define", conn.define(&open("new")).map(drop)),
            ("redefine", conn.define(&open("g")).map(drop)),
            ("undefine", conn.undefine("h")),
            ("create", conn.create("peer0", "h")),
            ("delete", conn.delete("vnet0")),
        ];
        for (change, answer) in answers {
            assert!(answer.is_err(), "{change}");
        }
        assert!(found(&daemon) == before, "refused changes are there");
        assert!(!network.passes(Way::FromGuest, forged()));
        drop(daemon);
        let daemon = host.start();
        assert!(found(&daemon) == before, "a daemon that starts with read-only disks");
        disks.iter().for_each(|disk| disk.set_read_only(false));
        daemon.connect().delete("vnet0").unwrap();
        assert!(network.passes(Way::FromGuest, forged()), "the disks are back");
    });
}

/// What cannot be stored is not in force, is tried seldom, and reported once.
// P-29
#[test]
fn an_address_that_cannot_be_stored_is_never_in_force() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut disk = Disk::mount(&host.path("state"));
        whole_page(&host);
        let (boundaries, daemon) = Boundaries::start(&host);
        let mut conn = daemon.connect();
        learns(&network, &mut conn);
        disk.fill();
        // A try that fails is cut off and synced.
        let began = Instant::now();
        let tried_before = boundaries.on_disk();
        let tries = || u64::from(boundaries.on_disk() - tried_before) / 2;
        let complaints =
            || daemon.log().lines().filter(|line| line.contains("ERROR") || line.contains("WARN")).count();
        let before = complaints();
        let announces: Vec<u8> = arp_request(GUEST_IP, PEER_IP).frame().into();
        let (flood, ()) = network.flood(Way::FromGuest, announces, honest(), || {
            eventually("a third try", || tries() >= 3);
        });
        assert_eq!(flood.forbidden_arrived, 0, "{flood:?}");
        assert!(tries() <= began.elapsed().as_secs() + 1, "{} tries in {:?}", tries(), began.elapsed());
        assert_eq!(complaints() - before, 1, "{}", daemon.log());
        disk.empty();
        is_learned(&network, &mut conn).unwrap();
        assert!(network.passes(Way::FromGuest, honest()));
        daemon.logs("written down again");
        daemon.kill();
        assert_eq!(addresses(&mut host.start().connect()).unwrap(), 1);
    });
}

/// What takes away never waits for the disk, and is written when it is back.
#[test]
fn a_vanished_interface_is_let_go_without_any_write() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let (boundaries, daemon) = Boundaries::start(&host);
        let mut conn = daemon.connect();
        learned(&network, &mut conn);
        let known = || {
            let (book, _) = file::read(&host.files("state")["addresses"], Duration::ZERO, 64);
            book.0.values().map(nwfilter::guest::lease::GuestLeases::len).sum::<usize>()
        };
        assert_eq!(known(), 1);
        boundaries.at(1, Fate::FailsFromOn(libc::EROFS));
        network.guest.link.delete();
        eventually("the interface without rules", || bound().is_empty());
        boundaries.come_back();
        eventually("the end of its address in the journal", || known() == 0);
    });
}

/// Guests that learn need a descriptor each: those without one wait, and all others are served.
#[test]
fn few_descriptors_suffice_for_bindings_and_clients() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut command = host.command();
        let few = libc::rlimit { rlim_cur: 48, rlim_max: 48 };
        // SAFETY: the call reads one limit.
        unsafe {
            command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &few) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let daemon = host.run(command);
        let mut conn = daemon.connect();
        learns(&network, &mut conn);
        let guests: Vec<_> = (0..40).map(|guest| network.add_port(&format!("guest{guest}"))).collect();
        for guest in 0..guests.len() {
            conn.create(&format!("guest{guest}"), "own").unwrap();
        }
        let others: Vec<Conn> = (0..4).map(|_| daemon.connect()).collect();
        for guest in &guests {
            drop(network.peer.drain());
            guest.send(&honest()).unwrap();
            assert!(network.peer.drain().is_empty(), "it waits");
        }
        assert_eq!(daemon.log().lines().filter(|line| line.contains("ERROR")).count(), 1, "{}", daemon.log());
        // Each that has its address gives its descriptor to another.
        eventually("an address for each", || {
            let announces = Vec::from(arp_request(GUEST_IP, PEER_IP).frame());
            guests.iter().for_each(|guest| guest.send(&announces).unwrap());
            addresses(&mut conn).unwrap() == guests.len()
        });
        drop(others);
    });
}

/// An interface with rules and no document of a binding is blocked until it is bound or removed; one whose binding was deleted is let go.
#[test]
fn documents_of_bindings_that_are_lost_open_no_interface() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        host.configure("grace = 600\n");
        let daemon = host.start();
        guarded(&network, &mut daemon.connect());
        daemon.kill();
        fs::remove_dir_all(host.path("run/nwfilter-binding")).unwrap();
        let daemon = host.start();
        assert!(!network.passes(Way::FromGuest, forged()) && !network.passes(Way::FromGuest, honest()));
        assert!(daemon.log().contains("it has rules and no binding"), "{}", daemon.log());
        daemon.kill();
        let daemon = host.start();
        assert!(!network.passes(Way::FromGuest, honest()), "still");
        daemon.connect().create("vnet0", "g").unwrap();
        assert!(network.passes(Way::FromGuest, honest()) && !network.passes(Way::FromGuest, forged()));
        daemon.connect().delete("vnet0").unwrap();
        assert!(!network.passes(Way::FromGuest, forged()), "its grace");
        assert!(documents(&host, "run/nwfilter-binding").is_empty());
        daemon.kill();
        drop(host.start());
        assert!(network.passes(Way::FromGuest, forged()), "its binding was deleted");
    });
}

/// Neither a disk that is read-only at the start nor what lies in the journal's place keeps a daemon from filtering.
#[test]
fn a_daemon_starts_whatever_its_journal_is() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let path = host.path("state/addresses");
        let daemon = host.start();
        learned(&network, &mut daemon.connect());
        daemon.kill();
        let junk = "never x 10.0.0.1 0.0.0.0\n".repeat(20_000);
        let odd: [(&str, &dyn Fn()); 5] = [
            ("a directory", &|| fs::create_dir(&path).unwrap()),
            ("a link", &|| std::os::unix::fs::symlink("/etc/passwd", &path).unwrap()),
            ("a fifo", &|| {
                let name = CString::new(path.to_str().unwrap()).unwrap();
                // SAFETY: the string ends in NUL.
                assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            }),
            ("junk", &|| fs::write(&path, &junk).unwrap()),
            ("no text", &|| fs::write(&path, [0xff, b'\n'].repeat(5000)).unwrap()),
        ];
        for (what, make) in odd {
            let _ = fs::remove_file(&path);
            let logged = fs::read_to_string(host.path("log")).unwrap_or_default().len();
            make();
            let daemon = host.start();
            assert!(!network.passes(Way::FromGuest, forged()), "{what}");
            assert!(
                daemon.log().len() < logged + 4000,
                "{what}: {} bytes of log",
                daemon.log().len() - logged
            );
            is_learned(&network, &mut daemon.connect()).unwrap();
            daemon.kill();
            assert_eq!(
                addresses(&mut host.start().connect()).unwrap(),
                1,
                "{what}: learned again and written"
            );
        }
        let disk = Disk::mount(&host.path("state"));
        disk.set_read_only(true);
        let daemon = host.start();
        assert!(!network.passes(Way::FromGuest, honest()), "it waits");
        disk.set_read_only(false);
        is_learned(&network, &mut daemon.connect()).unwrap();
    });
}

/// Guests whose addresses got lost are blocked, and nothing else would say why.
#[test]
fn a_start_without_addresses_is_logged_where_guests_learn() {
    const LOST: &str = "no learned address is on record";
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        learned(&network, &mut daemon.connect());
        daemon.kill();
        let daemon = host.start();
        assert!(!daemon.log().contains(LOST), "it is on record: {}", daemon.log());
        daemon.kill();
        let path = host.path("state/addresses");
        let lose: [fn(&Path); 2] =
            [|path| fs::write(path, "").unwrap(), |path| fs::remove_file(path).unwrap()];
        for (times, lose) in lose.into_iter().enumerate() {
            lose(&path);
            let daemon = host.start();
            assert_eq!(daemon.log().matches(LOST).count(), times + 1, "{}", daemon.log());
            assert!(!network.passes(Way::FromGuest, honest()), "it waits");
            daemon.kill();
        }
    });
}
