//! The command `nwfilter` while a daemon runs, and while another program has its socket.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use crate::tool::InTime;
use std::path::Path;
use std::process::Command;

fn nwfilter(runtime: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    let output = command.args(arguments).env("NWFILTER_RUNTIME_DIR", runtime).output_in_time().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.success(), text)
}

fn forged() -> Vec<u8> {
    udp(ip(GUEST_IP, PEER_IP), 1, 2).from(FOREIGN_MAC).into()
}

const APPLY: [&str; 7] =
    ["apply", "--filter", "no-mac-spoofing", "--dev", "vnet0", "--mac", "52:54:00:00:00:01"];

#[test]
fn the_command_goes_through_the_daemon() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        daemon.connect().define(&guard("no-mac-spoofing", 0)).unwrap();
        assert_eq!(run(&APPLY), (true, "vnet0: filtered by no-mac-spoofing\n".into()));
        let all = daemon.connect().bindings().unwrap();
        assert_eq!(all, [("vnet0".to_owned(), "no-mac-spoofing".to_owned())]);
        assert!(!network.passes(Way::FromGuest, forged()));
        daemon.connect().create("later", "no-mac-spoofing").unwrap();
        let (_, status) = run(&["status"]);
        assert!(status.contains("vnet0") && status.contains("waits for its interface"), "{status}");
        assert_eq!(run(&["ipset", "add", "friends", "10.0.0.1", "fe80::1"]), (true, String::new()));
        assert_eq!(run(&["ipset", "list", "friends"]), (true, "10.0.0.1\nfe80::1\n".to_owned()));
        assert_eq!(run(&["remove", "--dev", "vnet0"]), (true, "vnet0: no longer filtered\n".into()));
        assert!(network.passes(Way::FromGuest, forged()), "without a period of grace");
        let (done, why) = run(&["remove", "--dev", "vnet0"]);
        assert!(!done && why.contains("no nwfilter binding for port dev 'vnet0'"), "{why}");
    });
}

#[test]
fn a_plan_is_that_of_the_daemon_while_it_runs() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        let plan = || [&["plan"], &APPLY[1..]].concat();
        daemon.connect().define(&guard("no-mac-spoofing", 0)).unwrap();
        let before = rules();
        let (done, text) = run(&plan());
        assert!(done && text.contains("no-mac-spoofing"), "{text}");
        assert_eq!(rules(), before, "nothing is done");
        assert!(daemon.connect().bindings().unwrap().is_empty());
        assert_eq!(run(&APPLY), (true, "vnet0: filtered by no-mac-spoofing\n".into()));
        assert_eq!(run(&plan()), (true, String::new()), "it is in force");
        assert!(!network.passes(Way::FromGuest, forged()));
        for verb in [APPLY.to_vec(), plan()] {
            let (done, why) = run(&[&verb[..], &["--counters"]].concat());
            assert!(!done && why.contains("--counters") && why.contains("counters = true"), "{why}");
        }
        let (done, why) =
            run(&["plan", "--filter", "unknown", "--dev", "vnet0", "--mac", "52:54:00:00:00:01"]);
        assert!(!done && why.contains("unknown"), "{why}");
    });
}

/// The exit code and what is said on the standard error.
fn code(runtime: &Path, filters: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    command.args(arguments).env("NWFILTER_RUNTIME_DIR", runtime);
    if ["apply", "plan"].contains(&arguments[0]) {
        command.arg("--dir").arg(filters);
    }
    let output = command.output_in_time().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

// P-16
#[test]
fn a_refusal_is_the_same_with_and_without_the_daemon() {
    let rule = |inner: &str| format!("  <rule action='accept' direction='out'>\n    {inner}\n  </rule>\n");
    let filter = |name: &str, rules: &[&str]| {
        let rules: String = rules.iter().map(|inner| rule(inner)).collect();
        format!("<filter name='{name}' chain='root'>\n  <uuid>{}</uuid>\n{rules}</filter>\n", uuid(name))
    };
    let filters = [
        ("mac-as-ip", filter("mac-as-ip", &["<ip srcipaddr='$MAC'/>", "<arp arpsrcipaddr='$MAC'/>"])),
        ("lists", filter("lists", &["<tcp srcipaddr='$A[@1]' dstportstart='$B[@1]'/>"])),
        ("lost", filter("lost", &["<ip/>"]).replace("</filter>", "<filterref filter='nowhere'/></filter>")),
        ("icmp-half", filter("icmp-half", &["<tcp dstportend='80'/>"])),
        ("stateful", filter("stateful", &["<tcp dstportstart='80'/>", "<udp dstportstart='53'/>"])),
    ];
    let bind = |filter: &'static str, more: &[&'static str]| {
        let fixed = ["apply", "--dev", "vnet0", "--mac", "52:54:00:00:00:01", "--filter", filter];
        [&fixed[..], more].concat()
    };
    let lists = ["--param", "A=10.0.0.1", "--param", "A=10.0.0.2", "--param", "B=1"];
    let cases = [
        (bind("mac-as-ip", &[]), 1, &["mac-as-ip.xml:3:", "mac-as-ip.xml:6:", "^^^^"][..]),
        (bind("lists", &lists), 1, &["Cardinality"]),
        (bind("lost", &[]), 1, &["nowhere", "lost.xml:", "define that filter first"]),
        (bind("icmp-half", &[]), 1, &["icmp-half.xml:"]),
        (bind("unheard-of", &[]), 1, &["referenced filter 'unheard-of' is missing"]),
        (bind("mac-as-ip", &["--param", "MAC=nonsense"]), 1, &["nonsense"]),
        (bind("lost", &["--param", "IP=10.0.0.5/24"]), 1, &["10.0.0.5/24", "--param IP=10.0.0.5"]),
        (vec!["ipset", "list", "nosuch"], 1, &["there is no set 'nosuch'", "nwfilter ipset add"]),
        (vec!["ipset", "del", "nosuch", "10.0.0.1"], 1, &["there is no set 'nosuch'"]),
        (vec!["ipset", "add", "x", "10.0.0.300"], 1, &["10.0.0.300"]),
        (vec!["ipset", "add", "a/b", "10.0.0.3"], 1, &["a/b"]),
    ];
    in_fresh_netns(|| {
        let (_network, host) = (Network::new(), Host::new());
        filters.iter().for_each(|(name, text)| host.write_filter(name, text));
        let asked = |arguments: &[&str]| code(&host.runtime(), &host.path("filters"), arguments);
        let alone: Vec<_> = cases.iter().map(|(arguments, ..)| asked(arguments)).collect();
        let stateful = asked(&bind("stateful", &[]));
        let daemon = host.start();
        for ((arguments, exit, words), alone) in cases.iter().zip(alone) {
            let through = asked(arguments);
            assert_eq!(through, alone, "{arguments:?}");
            assert_eq!(through.0, Some(*exit), "{through:?}");
            words
                .iter()
                .for_each(|word| assert!(through.1.contains(word), "{word:?} is missing in\n{}", through.1));
        }
        match stateful.0 {
            Some(0) => println!("skipped: this kernel tracks connections of bridges"),
            _ => {
                let through = asked(&bind("stateful", &[]));
                assert!(
                    through.1.contains("stateful.xml:3:") && through.1.contains("stateful.xml:6:"),
                    "{through:?}"
                );
                assert_eq!(through, stateful);
                let error = refused(daemon.connect().create("vnet0", "stateful"));
                for word in
                    ["CONFIG_NF_CONNTRACK_BRIDGE", "rule 1", "rule 2", "stateful.xml:3:", "statematch"]
                {
                    assert!(error.message.contains(word), "{error}");
                }
                assert!(!error.message.contains('\n'), "{error}");
            }
        }
        assert_eq!(daemon.connect().bindings().unwrap(), []);
    });
}

// P-34
#[test]
fn an_interface_is_bound_under_its_own_name_alone() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        network.guest.link.add_name("alias0");
        let apply = APPLY.map(|word| if word == "vnet0" { "alias0" } else { word });
        let (done, why) = nwfilter(&host.runtime(), &apply);
        assert!(!done && why.contains("alias0: another name of interface vnet0"), "{why}");
        let daemon = host.start();
        daemon.connect().define(&guard("no-mac-spoofing", 0)).unwrap();
        let (done, why) = nwfilter(&host.runtime(), &apply);
        assert!(!done && why.contains("'alias0' is another name of interface 'vnet0'"), "{why}");
        let error = refused(daemon.connect().create("alias0", "no-mac-spoofing"));
        assert!(error.message.contains("bind 'vnet0'"), "{}", error.message);
        assert_eq!(daemon.connect().bindings().unwrap(), []);
        daemon.connect().create("vnet0", "no-mac-spoofing").unwrap();
        assert!(!network.passes(Way::FromGuest, forged()));
    });
}

#[test]
fn what_the_daemon_did_is_said() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let mut daemon = host.start();
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        let file = |name: &str, text: &str| {
            std::fs::write(host.path(name), text).unwrap();
            host.path(name).to_str().unwrap().to_owned()
        };
        let honest = |text: &str| {
            format!(
                "<filter name='honest'>\n{text}<rule action='drop' direction='out'>\
                <ip match='no' srcipaddr='$IP'/></rule></filter>"
            )
        };
        let first = file("first.xml", &honest(""));
        assert_eq!(run(&["define", &first]), (true, "honest: defined, no guest uses it\n".into()));
        let bind = |dev: &'static str, more: &[&'static str]| {
            let fixed = ["apply", "--dev", dev, "--mac", "52:54:00:00:00:01", "--filter", "honest"];
            run(&[&fixed[..], more].concat())
        };
        let waits = "vnet9 is not there; the binding to honest waits for it\n";
        assert_eq!(bind("vnet9", &["--param", "IP=10.0.0.9"]), (true, waits.into()));
        let (done, learns) = bind("vnet0", &["--param", "CTRL_IP_LEARNING=dhcp"]);
        assert!(
            done && learns.starts_with("vnet0: bound to honest; its address is learned first"),
            "{learns}"
        );
        let (_, status) = run(&["status"]);
        assert!(status.contains("honest (learning: dhcp)") && !status.contains("does not run"), "{status}");
        assert!(bind("vnet0", &["--param", "IP=10.0.0.1"]).1 == "vnet0: filtered by honest\n");

        let second = file("second.xml", &honest("<rule action='drop' direction='out'><arp/></rule>\n"));
        assert_eq!(run(&["define", &second]), (true, "honest: redefined, 2 guests use it\n".into()));
        let bad =
            file("bad.xml", &honest("<rule action='drop' direction='out'><ip srcipaddr='$OTHER'/></rule>\n"));
        let (done, why) = run(&["define", &bad]);
        assert!(!done && why.contains("vnet0: ") && why.contains("OTHER"), "{why}");
        let (done, why) = run(&["undefine", "honest"]);
        assert!(!done && why.contains("in use by vnet0, vnet9"), "{why}");
        assert!(!network.passes(Way::FromGuest, udp(ip(FOREIGN_IP, PEER_IP), 1, 2)));

        // A guest that is blocked says why, wherever one looks.
        std::fs::remove_file(host.path("filters/honest.xml")).unwrap();
        daemon.kill();
        daemon = host.start();
        let (_, status) = run(&["status"]);
        let line =
            "vnet0 is blocked, nothing passes: internal error: referenced filter 'honest' is missing\n";
        assert!(status.contains(line), "{status}");
        let (done, why) = run(&["explain", "--dev", "vnet0", "--icmp", "10.0.0.1>10.0.0.2"]);
        assert!(
            !done && why.contains("vnet0: blocked, nothing passes: ") && why.contains("'honest' is missing"),
            "{why}"
        );
        let log = daemon.log();
        let warning =
            log.lines().find(|line| line.contains("WARN") && line.contains("vnet0")).unwrap_or_default();
        for word in ["blocked", "'honest' is missing", "SIGHUP"] {
            assert!(warning.contains(word), "{word:?} is missing in {warning:?}\n{log}");
        }
        for reported in [
            "defined filter=\"honest\"",
            "redefined filter=\"honest\"",
            "bound interface=\"vnet0\" filter=\"honest\"",
        ] {
            assert!(log.contains(reported), "{reported:?} is missing in\n{log}");
        }
        let removed = "vnet0: no longer filtered\nvnet9: no longer filtered\n";
        assert_eq!(run(&["remove", "--all"]), (true, removed.into()));
        daemon.logs("unbound interface=\"vnet0\"");
    });
}

// P-37
#[test]
fn missing_sets_and_sets_of_the_host_are_refused_with_a_hint() {
    let filter = format!(
        "<filter name='by-set'><uuid>{}</uuid>\n<rule action='drop' direction='out' statematch='0'>\
         <all ipset='blocked' ipsetflags='dst'/></rule></filter>",
        uuid("by-set")
    );
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        daemon.connect().define(&filter).unwrap();
        let error = refused(daemon.connect().create("vnet0", "by-set"));
        for word in [
            "<defined>/by-set.xml:2:1",
            "ipset 'blocked'",
            "it does not exist",
            "nwfilter ipset add blocked",
            "ipset flush blocked",
        ] {
            assert!(error.message.contains(word), "{word:?} is missing in {error}");
        }
        let made = Command::new("ipset").args(["create", "blocked", "hash:net"]).output_in_time();
        if made.is_ok_and(|output| output.status.success()) {
            let error = refused(daemon.connect().create("vnet0", "by-set"));
            assert!(error.message.contains("the host's own set"), "{error}");
        } else {
            println!("skipped: no ipset command, or a kernel without ip_set");
        }
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        assert!(run(&["ipset", "flush", "blocked"]).0, "an empty set, which exists");
        daemon.connect().create("vnet0", "by-set").unwrap();
        let frame = || udp(ip(GUEST_IP, PEER_IP), 1, 2);
        assert!(network.passes(Way::FromGuest, frame()));
        assert!(run(&["ipset", "add", "blocked", PEER_IP]).0);
        assert!(!network.passes(Way::FromGuest, frame()));

        // After a start of the host no set is there. A guest that needs one is blocked until it is created.
        daemon.kill();
        assert!(Command::new("nft").args(["flush", "ruleset"]).status_in_time().unwrap().success());
        assert!(Command::new("nft").args(["delete", "table", "bridge", "nwfilter"]).output_in_time().is_ok());
        let daemon = host.start();
        let (_, status) = run(&["status"]);
        assert!(
            status.contains("vnet0 is blocked") && status.contains("nwfilter ipset add blocked"),
            "{status}"
        );
        assert!(!network.passes(Way::FromGuest, frame()));
        assert!(run(&["ipset", "add", "blocked", FOREIGN_IP]).0);
        assert!(network.passes(Way::FromGuest, frame()), "{}", daemon.log());
        let (_, status) = run(&["status"]);
        assert!(!status.contains("blocked, nothing"), "{status}\n{}", daemon.log());
    });
}

#[test]
fn explain_shows_what_the_daemon_enforces_now() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        let daemon = host.start();
        let explain = |arguments: &[&str]| {
            nwfilter(&host.runtime(), &[&["explain", "--dev", "vnet0"], arguments].concat())
        };
        let (forged, honest) =
            (["--arp", "who-has 10.0.0.2 tell 10.0.0.9"], ["--arp", "who-has 10.0.0.2 tell 10.0.0.1"]);
        let filter = |address: &str| {
            format!(
                "<filter name='f'><uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>\n\
                <rule action='accept' direction='out' priority='1'><arp arpsrcipaddr='{address}'/></rule>\n\
                <rule action='drop' direction='out' priority='2'/>\n</filter>"
            )
        };
        let (found, why) = explain(&honest);
        assert!(!found && why.contains("vnet0"), "{why}");
        daemon.connect().define(&filter("$IP")).unwrap();
        let bind = [
            "apply",
            "--dev",
            "vnet0",
            "--mac",
            "52:54:00:00:00:01",
            "--filter",
            "f",
            "--param",
            "IP=10.0.0.1",
        ];
        assert_eq!(nwfilter(&host.runtime(), &bind), (true, "vnet0: filtered by f\n".into()));
        let check = |arguments: &[&str], frame: Vec<u8>, passes: bool, place: &str| {
            let (done, reported) = explain(arguments);
            let verdict = if passes { "accepted by" } else { "dropped by" };
            assert!(done && reported.contains(verdict) && reported.contains(place), "{reported}");
            assert_eq!(network.passes(Way::FromGuest, frame), passes, "{reported}");
        };
        let frame = |address: &str| arp_request(address, PEER_IP).frame().into();
        check(&honest, frame(GUEST_IP), true, "<defined>/f.xml:2:1");
        check(&forged, frame(FOREIGN_IP), false, "<defined>/f.xml:3:1");
        // A redefinition is explained from its answer on.
        daemon.connect().define(&filter(FOREIGN_IP)).unwrap();
        check(&honest, frame(GUEST_IP), false, "<defined>/f.xml:3:1");
        check(&forged, frame(FOREIGN_IP), true, "<defined>/f.xml:2:1");
    });
}

#[test]
fn drop_counts_survive_a_crash_and_name_their_line() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        host.configure("traffic = true\n");
        let daemon = host.start();
        let status = || nwfilter(&host.runtime(), &["status", "--dev", "vnet0"]).1;
        daemon.connect().define(&guard("no-mac-spoofing", 0)).unwrap();
        daemon.connect().create("vnet0", "no-mac-spoofing").unwrap();
        (0..3).for_each(|_| assert!(!network.passes(Way::FromGuest, forged())));
        assert!(network.passes(Way::FromGuest, udp(ip(GUEST_IP, PEER_IP), 1, 2)));
        let bytes = forged().len() - 14;
        let reported = format!(
            "dropped by filter 'no-mac-spoofing' rule 1 (<defined>/no-mac-spoofing.xml:3:3): 3 frames, {} bytes\n",
            3 * bytes
        );
        let found = status();
        assert!(
            found.contains(&reported)
                && found.contains("sent: 4 frames")
                && found.contains("received: 0 frames"),
            "{found}"
        );
        daemon.connect().define(&guard("no-mac-spoofing", 7)).unwrap();
        assert!(!network.passes(Way::FromGuest, forged()));
        daemon.kill();
        assert!(!network.passes(Way::FromGuest, forged()), "counted without a daemon, too");
        let daemon = host.start();
        let found = status();
        assert!(found.contains("no-mac-spoofing.xml:") && found.contains("): 5 frames"), "{found}");
        assert!(found.contains("sent: 6 frames"), "{found}");
        drop(daemon);
    });
}

#[test]
fn the_command_works_alone_at_a_foreign_socket() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        std::fs::create_dir(host.runtime()).unwrap();
        let _stranger = Stranger::serve(&host.runtime().join("virtnwfilterd-sock"));
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        assert!(run(&APPLY).0);
        assert!(!network.passes(Way::FromGuest, forged()));
        let (done, status) = run(&["status"]);
        assert!(done && status.contains("vnet0"), "{status}");
        assert!(run(&["ipset", "add", "friends", "10.0.0.1"]).0);
        assert_eq!(run(&["remove", "--dev", "vnet0"]), (true, "vnet0: no longer filtered\n".into()));
        assert!(network.passes(Way::FromGuest, forged()));
    });
}

/// Answers every call as libvirt's own daemon answers a program it does not know.
struct Stranger;

impl Stranger {
    fn serve(path: &Path) -> Stranger {
        use nwfilter::engine::error::Error;
        use nwfilter::service::rpc::proto::{HEADER, Header, kind, status};
        use nwfilter::service::rpc::wire_error;
        use nwfilter::service::rpc::xdr::{Reader, Writer};
        use std::io::{Read, Write};
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut start = [0; HEADER];
                if stream.read_exact(&mut start).is_err() {
                    continue;
                }
                let mut from = Reader::new(&start);
                let length = from.u32().unwrap() as usize;
                let call = Header::read(&mut from).unwrap();
                stream.read_exact(&mut vec![0; length - HEADER]).unwrap();
                let mut body = Writer::default();
                let error = Error::rpc(format!("Cannot find program {} version 1", call.program));
                wire_error::write(&error, &mut body);
                let head = Header { kind: kind::REPLY, status: status::ERROR, ..call };
                stream.write_all(&head.frame(&body.into_bytes())).unwrap();
            }
        });
        Stranger
    }
}
