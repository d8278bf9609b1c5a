//! From start to end: what is restored, reloaded, healed and reported to the service manager, and what is given up.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use crate::tool::InTime;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

fn honest() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).into()
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

fn filtered(network: &Network) -> bool {
    assert!(network.passes(Way::FromGuest, honest()), "honest frames pass");
    !network.passes(Way::FromGuest, forged())
}

// P-8
#[test]
fn a_restart_restores_the_rules_and_leaks_nothing() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        daemon.connect().create("later", "g").unwrap();
        assert!(filtered(&network));
        let (before, files) = (daemon.rules(), host.files("run/nwfilter-binding"));
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forged(), || {
            assert!(daemon.stop().success());
            assert_eq!(rules(), before, "an orderly end");
            let daemon = host.start();
            assert_eq!(daemon.rules(), before, "the start after it");
            daemon.kill();
            assert_eq!(rules(), before, "a crash");
            let daemon = host.start();
            assert_eq!(daemon.rules(), before, "the start after that");
            let all = ["later", "vnet0"].map(|port| (port.to_owned(), "g".to_owned()));
            assert_eq!(daemon.connect().bindings().unwrap(), all);
        });
        assert!(flood.forbidden_sent > 1000);
        assert_eq!((flood.forbidden_arrived, flood.lost()), (0, 0), "{flood:?}");
        assert_eq!(host.files("run/nwfilter-binding"), files);
    });
}

// P-15
#[test]
fn a_reload_takes_changes_and_survives_broken_files() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        host.write_filter(
            "g",
            "<filter name='g'><rule action='accept' direction='inout'><all/></rule></filter>",
        );
        host.write_filter("gone", &guard("gone", 0));
        host.write_filter("broken", &guard("broken", 0));
        let mut daemon = host.start();
        let id =
            host.files("filters")["g.xml"].split("uuid>").nth(1).unwrap().trim_end_matches("</").to_owned();
        daemon.connect().create("vnet0", "g").unwrap();
        assert!(!filtered(&network));
        let replaced = guard("g", 0).replace(&uuid("g").to_string(), &id);
        host.write_filter("g", &replaced);
        host.write_filter("new", &guard("new", 0));
        host.write_filter("broken", "<filter name='broken'><rule");
        host.write_filter("misnamed", &guard("other", 0));
        fs::remove_file(host.path("filters/gone.xml")).unwrap();
        daemon.reload();
        assert!(filtered(&network));
        assert_eq!(daemon.connect().filters().unwrap(), ["broken", "g", "gone", "new"]);
        assert!(daemon.connect().filter_xml("broken").unwrap().contains("0x9000"), "the old one stays");
        let log = daemon.log();
        assert!(log.contains("broken") && log.contains("misnamed"), "{log}");

        // A definition that a bound interface cannot take leaves the old one in force, and hinders no other.
        let before = daemon.rules();
        host.write_filter("g", &replaced.replace("$MAC", "$OTHER"));
        host.write_filter("new", &guard("new", 1));
        daemon.reload();
        assert_eq!(rules(), before);
        assert!(daemon.connect().filter_xml("new").unwrap().contains("0x9001"));
        let log = daemon.log();
        assert!(log.contains("vnet0: "), "{log}");
        // Nor does a file without its UUID, which keeps the one that is known.
        let known = daemon.connect().filter_xml("new").unwrap();
        let without = guard("new", 2).replace(&format!("<uuid>{}</uuid>", uuid("new")), "");
        host.write_filter("new", &without);
        daemon.reload();
        let taken = daemon.connect().filter_xml("new").unwrap();
        assert!(taken.contains("0x9002") && taken == known.replace("0x9001", "0x9002"), "{taken}");
        let log = daemon.log();
        for reported in [
            "filters reloaded: 1 defined, 1 redefined, 2 unchanged, 2 refused",
            "defined filter=\"new\"",
            "bound interface=\"vnet0\" filter=\"g\"",
        ] {
            assert!(log.contains(reported), "{reported:?} is missing in\n{log}");
        }
    });
}

#[test]
fn the_service_manager_hears_of_start_reload_life_and_end() {
    in_fresh_netns(|| {
        let host = Host::new();
        let mut command = host.command();
        command.env("WATCHDOG_USEC", "200000");
        let mut daemon = host.run(command);
        daemon.hears("WATCHDOG=1");
        daemon.hears("WATCHDOG=1");
        let before = monotonic();
        daemon.signal(libc::SIGHUP);
        let reloading = daemon.hears("RELOADING=1");
        let time: u64 = reloading.split("MONOTONIC_USEC=").nth(1).unwrap().trim().parse().unwrap();
        assert!((before..=monotonic()).contains(&time));
        daemon.hears("READY=1");
        daemon.signal(libc::SIGTERM);
        daemon.hears("STOPPING=1");
        assert!(daemon.wait().success());
    });
}

fn monotonic() -> u64 {
    // SAFETY: a timespec of zeroes is valid.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: writes one timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) }, 0);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

#[test]
fn an_idle_daemon_ends_and_a_busy_one_does_not() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut command = host.command();
        // The watchdog ticks faster than the time runs out.
        command.args(["--timeout", "1"]).env("WATCHDOG_USEC", "200000");
        let mut daemon = host.run(command);
        let mut conn = daemon.connect();
        conn.define(&guard("g", 0)).unwrap();
        conn.create("vnet0", "g").unwrap();
        // They are a tenth of a second apart, which is more than the time.
        (0..15).for_each(|_| drop(daemon.hears("WATCHDOG=1")));
        assert!(daemon.child.try_wait().unwrap().is_none(), "a client is connected");
        drop(conn);
        let left = Instant::now();
        assert!(daemon.wait().success());
        let stayed = left.elapsed();
        assert!(stayed > Duration::from_millis(900), "{stayed:?}");
        assert!(filtered(&network), "the rules stay");
    });
}

#[test]
fn a_second_daemon_is_refused_and_disturbs_nothing() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let mut command = host.command();
        command.env_remove("NOTIFY_SOCKET");
        assert!(!command.status_in_time().unwrap().success());
        daemon.logs("another");
        assert!(filtered(&network));
        assert_eq!(daemon.connect().filters().unwrap(), ["g"]);
    });
}

const HARM: [&str; 8] = [
    "flush ruleset",
    "delete table bridge nwfilter",
    "flush chain bridge nwfilter prerouting",
    "flush set bridge nwfilter bound",
    "insert rule bridge nwfilter drop-iif accept",
    "add element bridge nwfilter from-guest { 1 : accept }",
    "add chain bridge nwfilter prerouting { policy drop; }",
    "add table bridge nwfilter { flags dormant; }",
];

/// A daemon with a bound guest, and what was done to its table.
fn harmed(harm: &str, owned: bool) {
    let (network, host) = (Network::new(), Host::new());
    if !owned {
        // A table that exists without an owner cannot be given one.
        nft("add table bridge nwfilter");
    }
    let daemon = host.start();
    daemon.connect().define(&guard("g", 0)).unwrap();
    daemon.connect().create("vnet0", "g").unwrap();
    if owned && !table().owner {
        return println!("skipped: this kernel has no owned tables");
    }
    assert_eq!(table().owner, owned);
    assert!(filtered(&network));
    let before = daemon.rules();
    let done = Command::new("nft").arg(harm).output_in_time().unwrap().status.success();
    assert!(!owned || !done || harm == "flush ruleset", "{harm} was done to an owned table");
    if owned {
        assert_eq!(rules(), before, "{harm}");
    } else {
        eventually(harm, || rules() == before);
        daemon.logs("rules were changed by another program and are restored");
        println!("{harm}: healed in {}", healing(&daemon.log()));
    }
    assert!(filtered(&network), "{harm}");
    daemon.connect().create("another", "g").unwrap();
}

#[test]
fn others_cannot_harm_an_owned_table() {
    HARM.iter().for_each(|harm| in_fresh_netns(|| harmed(harm, true)));
}

// W-6
#[test]
fn what_others_do_to_a_table_without_an_owner_is_healed() {
    HARM.iter().for_each(|harm| in_fresh_netns(|| harmed(harm, false)));
}

/// The times it took, as the log has them.
fn healing(log: &str) -> String {
    let times = log.lines().filter_map(|line| line.split("took=").nth(1)?.split(' ').next());
    times.collect::<Vec<_>>().join(", ")
}

fn nft(command: &str) {
    let output = Command::new("nft").arg(command).output_in_time().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn sockets_of_the_service_manager_are_served_and_kept() {
    in_fresh_netns(|| {
        use std::os::fd::AsFd;
        let host = Host::new();
        fs::create_dir(host.runtime()).unwrap();
        let path = host.runtime().join("virtnwfilterd-sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let daemon = host.command();
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""]);
        shell.arg(daemon.get_program()).args(daemon.get_args()).env("NOTIFY_SOCKET", host.path("notify"));
        shell.stdin(listener.as_fd().try_clone_to_owned().unwrap());
        shell.stderr(fs::File::create(host.path("log")).unwrap());
        let daemon = host.run(shell);
        daemon.connect().define(&guard("g", 0)).unwrap();
        assert!(!host.runtime().join("virtnwfilterd-sock-ro").exists(), "only what was handed over");
        assert!(daemon.stop().success());
        assert!(path.exists(), "the socket is not ours to remove");
    });
}

#[test]
fn sockets_of_its_own_have_the_configured_modes_and_go_with_it() {
    in_fresh_netns(|| {
        let host = Host::new();
        host.configure("socket_mode = \"0640\"\nsocket_ro_mode = \"0600\"\n");
        let daemon = host.start();
        let mode = |name: &str| fs::metadata(host.runtime().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("virtnwfilterd-sock"), mode("virtnwfilterd-sock-ro")), (0o640, 0o600));
        assert!(daemon.stop().success());
        assert!(!host.runtime().join("virtnwfilterd-sock").exists());
    });
}

#[test]
fn it_may_open_as_many_files_as_the_system_allows() {
    in_fresh_netns(|| {
        let host = Host::new();
        let mut command = host.command();
        let few = || {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: both calls are given a limit that outlives them.
            let outcome = unsafe {
                libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
                limit.rlim_cur = 64;
                libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
            };
            if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: it makes two system calls.
        unsafe { command.pre_exec(few) };
        let daemon = host.run(command);
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3], words[4], "{line}");
        assert_ne!(words[3], "64");
    });
}

#[test]
fn a_process_number_is_written_where_it_is_asked_for() {
    in_fresh_netns(|| {
        let host = Host::new();
        let mut command = host.command();
        command.arg("--pid-file").arg(host.path("pid"));
        let daemon = host.run(command);
        let written = fs::read_to_string(host.path("pid")).unwrap();
        assert_eq!(written.trim().parse(), Ok(daemon.child.id()));
    });
}

// P-12
#[test]
fn a_confined_daemon_executes_nothing() {
    in_fresh_netns(|| {
        let (_network, host) = (Network::new(), Host::new());
        let inner = host.command();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", "trace=execve,execveat", "-o"]).arg(host.path("trace"));
        strace.arg(inner.get_program()).args(inner.get_args()).env("NOTIFY_SOCKET", host.path("notify"));
        strace.stderr(fs::File::create(host.path("log")).unwrap());
        let daemon = host.run(strace);
        let mut conn = daemon.connect();
        conn.define(&guard("g", 0)).unwrap();
        conn.create("vnet0", "g").unwrap();
        conn.define(&guard("g", 1)).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", daemon.child.id());
        let process = fs::read_to_string(children).unwrap().trim().to_owned();
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!((field("NoNewPrivs:"), field("Seccomp:")), ("1".into(), "2".into()));
        let rights = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        let (net_admin, net_raw) = (1 << 12, 1 << 13);
        assert_eq!(rights & !(net_admin | net_raw), 0, "{rights:x}");
        conn.delete("vnet0").unwrap();
        // SAFETY: the number is that of our own grandchild.
        unsafe { libc::kill(process.parse().unwrap(), libc::SIGTERM) };
        let mut daemon = daemon;
        daemon.wait();
        let trace = fs::read_to_string(host.path("trace")).unwrap();
        assert_eq!(trace.matches("execve").count(), 1, "only the start itself: {trace}");
    });
}

#[test]
fn trace_reports_bound_interfaces_and_changes_no_verdict() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        host.configure("trace = true\n");
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let mut nft = Command::new("nft");
        nft.args(["monitor", "trace"]).stdout(fs::File::create(host.path("trace")).unwrap());
        let mut monitor = nft.spawn().expect("nft is installed (scripts/setup)");
        let reported = || fs::read_to_string(host.path("trace")).unwrap().contains("verdict drop");
        eventually("a trace of a forged frame", || {
            assert!(filtered(&network));
            reported()
        });
        monitor.kill().unwrap();
        monitor.status_in_time().unwrap();
        assert!(daemon.stop().success());
        host.configure("");
        let daemon = host.start();
        assert!(!daemon.rules().chains.keys().any(|name| name.starts_with("trace-")));
        assert!(filtered(&network));
    });
}

// P-6
#[test]
fn a_link_renamed_while_bound_is_not_open_after_a_restart() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&guard("g", 0)).unwrap();
        daemon.connect().create("vnet0", "g").unwrap();
        let guest = network.guest.link;
        guest.down();
        guest.rename("other");
        guest.up();
        assert!(filtered(&network), "a renamed link keeps its rules");
        daemon.kill();
        let daemon = host.start();
        assert!(!network.passes(Way::FromGuest, forged()), "nothing forged passes after the restart");
        daemon.connect().create("other", "g").unwrap();
        assert!(filtered(&network), "bound under its new name");
        daemon.connect().delete("other").unwrap();
        daemon.connect().delete("vnet0").unwrap();
        eventually("it is let go", || network.passes(Way::FromGuest, forged()));
    });
}

// P-6
#[test]
fn an_unreadable_binding_is_closed_and_not_opened() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let file = host.path("run/nwfilter-binding/vnet0.xml");
        let of_another = |text: String| text.replace("vnet0", "other");
        let spoilt: [&dyn Fn(String) -> String; 2] = [&|_| "<filterbindingstatus>".into(), &of_another];
        for spoil in spoilt {
            let daemon = host.start();
            daemon.connect().define(&guard("g", 0)).unwrap();
            daemon.connect().create("vnet0", "g").unwrap();
            daemon.kill();
            fs::write(&file, spoil(fs::read_to_string(&file).unwrap())).unwrap();
            let daemon = host.start();
            assert!(!network.passes(Way::FromGuest, forged()), "nothing forged passes after the restart");
            daemon.connect().create("vnet0", "g").unwrap();
            assert!(filtered(&network), "bound again");
            daemon.connect().delete("vnet0").unwrap();
            daemon.kill();
        }
    });
}
