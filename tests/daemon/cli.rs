//! The command `nwfilter` while a daemon runs, and while another program has its socket.

use crate::host::*;
use crate::lab::frames::*;
use crate::lab::{Network, Way, in_fresh_netns};
use std::path::Path;
use std::process::Command;

fn nwfilter(runtime: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    let output = command.args(arguments).env("NWFILTER_RUNTIME_DIR", runtime).output().unwrap();
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
        assert_eq!(run(&APPLY), (true, String::new()));
        let all = daemon.connect().bindings().unwrap();
        assert_eq!(all, [("vnet0".to_owned(), "no-mac-spoofing".to_owned())]);
        assert!(!network.passes(Way::FromGuest, forged()));
        daemon.connect().create("later", "no-mac-spoofing").unwrap();
        let (_, status) = run(&["status"]);
        assert!(status.contains("vnet0") && status.contains("waits for its interface"), "{status}");
        assert_eq!(run(&["ipset", "add", "friends", "10.0.0.1", "fe80::1"]), (true, String::new()));
        assert_eq!(run(&["ipset", "list", "friends"]), (true, "10.0.0.1\nfe80::1\n".to_owned()));
        assert_eq!(run(&["remove", "--dev", "vnet0"]), (true, String::new()));
        assert!(network.passes(Way::FromGuest, forged()), "without a period of grace");
        let (done, why) = run(&["remove", "--dev", "vnet0"]);
        assert!(!done && why.contains("no nwfilter binding for port dev 'vnet0'"), "{why}");
    });
}

#[test]
fn explain_tells_what_the_daemon_enforces_now() {
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
        assert_eq!(nwfilter(&host.runtime(), &bind), (true, String::new()));
        let check = |arguments: &[&str], frame: Vec<u8>, passes: bool, place: &str| {
            let (done, told) = explain(arguments);
            let verdict = if passes { "accepted by" } else { "dropped by" };
            assert!(done && told.contains(verdict) && told.contains(place), "{told}");
            assert_eq!(network.passes(Way::FromGuest, frame), passes, "{told}");
        };
        let frame = |address: &str| arp_request(address, PEER_IP).frame().into();
        check(&honest, frame(GUEST_IP), true, "filter:2:1");
        check(&forged, frame(FOREIGN_IP), false, "filter:3:1");
        // A redefinition is explained from its answer on.
        daemon.connect().define(&filter(FOREIGN_IP)).unwrap();
        check(&honest, frame(GUEST_IP), false, "filter:3:1");
        check(&forged, frame(FOREIGN_IP), true, "filter:2:1");
    });
}

#[test]
fn drops_are_counted_over_redefinition_and_crash_and_name_their_line() {
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
        let told = format!("dropped by no-mac-spoofing:1 (filter:3:3): 3 frames, {} bytes\n", 3 * bytes);
        let found = status();
        assert!(
            found.contains(&told) && found.contains("sent: 4 frames") && found.contains("received: 0 frames"),
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
fn the_command_works_by_itself_where_the_socket_is_not_our_daemons() {
    in_fresh_netns(|| {
        let (network, host) = (Network::new(), Host::new());
        std::fs::create_dir(host.runtime()).unwrap();
        let _stranger = Stranger::serve(&host.runtime().join("virtnwfilterd-sock"));
        let run = |arguments: &[&str]| nwfilter(&host.runtime(), arguments);
        assert_eq!(run(&APPLY), (true, String::new()));
        assert!(!network.passes(Way::FromGuest, forged()));
        let (done, status) = run(&["status"]);
        assert!(done && status.contains("vnet0"), "{status}");
        assert!(run(&["ipset", "add", "friends", "10.0.0.1"]).0);
        assert_eq!(run(&["remove", "--dev", "vnet0"]), (true, String::new()));
        assert!(network.passes(Way::FromGuest, forged()));
    });
}

/// Answers every call as libvirt's own daemon answers a program it does not know.
struct Stranger;

impl Stranger {
    fn serve(path: &Path) -> Stranger {
        use nwfilter::rpc::Error;
        use nwfilter::rpc::proto::{HEADER, Header, kind, status};
        use nwfilter::rpc::xdr::{Reader, Writer};
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
                Error::rpc(format!("Cannot find program {} version 1", call.program)).write(&mut body);
                let head = Header { kind: kind::REPLY, status: status::ERROR, ..call };
                stream.write_all(&head.frame(&body.into_bytes())).unwrap();
            }
        });
        Stranger
    }
}
