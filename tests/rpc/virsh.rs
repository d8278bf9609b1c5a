//! libvirt's own `virsh` against the server.

use crate::engine::{BINDING, XML};
use crate::served::Served;
use crate::tool::{InTime, available};
use nwfilter::service::rpc::listen::{NAME, NAME_READ_ONLY};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

struct Virsh {
    served: Served,
    socket: &'static str,
    options: &'static [&'static str],
}

impl Virsh {
    fn new() -> Option<Virsh> {
        available("virsh", "--tests").then(|| Virsh { served: Served::new(), socket: NAME, options: &[] })
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.served.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What virsh prints, its messages included.
    fn run(&self, arguments: &[&str]) -> String {
        let uri = format!("nwfilter+unix:///system?socket={}", self.served.path(self.socket).display());
        let output = Command::new("virsh")
            .args(["-c", &uri])
            .args(self.options)
            .args(arguments)
            .env("LC_ALL", "C")
            .output_in_time()
            .unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        (out + &err).replace(self.served.path("").to_str().unwrap(), "")
    }

    fn check(&self, arguments: &[&str], expected: &str) {
        assert_eq!(self.run(arguments).trim(), expected.trim(), "virsh {arguments:?}");
    }
}

#[test]
fn virsh_defines_lists_shows_and_undefines_filters() {
    let Some(virsh) = Virsh::new() else { return };
    let file = &virsh.file("f.xml", XML);
    virsh.check(&["nwfilter-define", file], "Network filter cap-test defined from f.xml");
    virsh.check(&["nwfilter-define", "--validate", file], "Network filter cap-test defined from f.xml");
    virsh.check(&["nwfilter-dumpxml", "cap-test"], XML);
    virsh.check(&["nwfilter-dumpxml", "11111111-2222-3333-4444-555555555555"], XML);
    virsh.check(
        &["nwfilter-list"],
        " UUID                                   Name\n\
         --------------------------------------------------\n \
         11111111-2222-3333-4444-555555555555   cap-test",
    );
    virsh.check(
        &["nwfilter-dumpxml", "nosuchfilter"],
        "error: failed to get nwfilter 'nosuchfilter'\n\
         error: Network filter not found: no nwfilter with matching name 'nosuchfilter'",
    );
    virsh.check(&["nwfilter-undefine", "cap-test"], "Network filter cap-test undefined");
    virsh.check(
        &["nwfilter-undefine", "cap-test"],
        "error: failed to get nwfilter 'cap-test'\n\
         error: Network filter not found: no nwfilter with matching name 'cap-test'",
    );
}

#[test]
fn virsh_edits_a_filter() {
    let Some(virsh) = Virsh::new() else { return };
    virsh.run(&["nwfilter-define", &virsh.file("f.xml", XML)]);
    let uri = format!("nwfilter+unix:///system?socket={}", virsh.served.path(NAME).display());
    let edit = |editor: &str| {
        let output = Command::new("virsh")
            .args(["-c", &uri, "nwfilter-edit", "cap-test"])
            .env("EDITOR", editor)
            .stdin(Stdio::null())
            .output_in_time();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(edit("true").contains("not changed"));
    let script = virsh.file("editor", "#!/bin/sh\nsed -i 's/<uuid>/<!--new--><uuid>/' \"$1\"\n");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(edit(&script).contains("edited"));
    assert!(virsh.run(&["nwfilter-dumpxml", "cap-test"]).contains("<!--new-->"));
}

#[test]
fn virsh_binds_lists_shows_and_releases_interfaces() {
    let Some(virsh) = Virsh::new() else { return };
    virsh.run(&["nwfilter-define", &virsh.file("f.xml", XML)]);
    let file = &virsh.file("b.xml", BINDING);
    virsh.check(&["nwfilter-binding-create", file], "Network filter binding on tap7 created from b.xml");
    virsh.check(
        &["nwfilter-binding-create", file],
        "error: Failed to create network filter from b.xml\n\
         error: operation failed: binding 'tap7' already exists",
    );
    virsh.check(&["nwfilter-binding-dumpxml", "tap7"], BINDING);
    virsh.check(
        &["nwfilter-binding-list"],
        " Port Dev   Filter\n----------------------\n tap7       cap-test",
    );
    virsh.check(
        &["nwfilter-undefine", "cap-test"],
        "error: Failed to undefine network filter cap-test\n\
         error: Requested operation is not valid: nwfilter is in use",
    );
    virsh.check(&["nwfilter-binding-delete", "tap7"], "Network filter binding on tap7 deleted");
    virsh.check(
        &["nwfilter-binding-dumpxml", "tap7"],
        "error: failed to get nwfilter binding 'tap7'\n\
         error: Network filter binding not found: no nwfilter binding for port dev 'tap7'",
    );
}

#[test]
fn virsh_hears_what_this_daemon_is_not() {
    let Some(virsh) = Virsh::new() else { return };
    let unsupported = "error: this function is not supported by the connection driver: ";
    virsh.check(&["hostname"], &format!("error: failed to get hostname\n{unsupported}virConnectGetHostname"));
    virsh.check(
        &["capabilities"],
        &format!("error: failed to get capabilities\n{unsupported}virConnectGetCapabilities"),
    );
    virsh.check(
        &["list", "--all"],
        &format!("error: Failed to list active domains\n{unsupported}virConnectNumOfDomains"),
    );
    virsh.check(
        &["net-list"],
        &format!("error: Failed to get the number of active networks\n{unsupported}virConnectNumOfNetworks"),
    );
    assert!(virsh.run(&["version"]).contains("\nUsing API: nwfilter "));
}

#[test]
fn virsh_on_the_read_only_socket_reads_and_cannot_write() {
    let Some(mut virsh) = Virsh::new() else { return };
    virsh.run(&["nwfilter-define", &virsh.file("f.xml", XML)]);
    let refused =
        |function: &str| format!("error: operation forbidden: read only access prevents {function}");
    // Refused by the client itself first, and by the server where the client does not know.
    for (options, socket) in [(&["-r"][..], NAME_READ_ONLY), (&["-r"], NAME), (&[], NAME_READ_ONLY)] {
        (virsh.options, virsh.socket) = (options, socket);
        virsh.check(&["nwfilter-dumpxml", "cap-test"], XML);
        assert!(virsh.run(&["nwfilter-list"]).contains("cap-test"));
        let write = |arguments: &[&str], function| {
            let printed = virsh.run(arguments);
            assert!(printed.contains(&refused(function)), "{socket} {options:?}: {printed}");
        };
        write(&["nwfilter-define", &virsh.file("f.xml", XML)], "virNWFilterDefineXML");
        write(&["nwfilter-undefine", "cap-test"], "virNWFilterUndefine");
        write(&["nwfilter-binding-create", &virsh.file("b.xml", BINDING)], "virNWFilterBindingCreateXML");
    }
}

#[test]
fn virsh_keeps_an_idle_connection_alive() {
    let Some(virsh) = Virsh::new() else { return };
    let uri = format!("nwfilter+unix:///system?socket={}", virsh.served.path(NAME).display());
    let mut shell = Command::new("virsh")
        .args(["-k", "1", "-K", "1", "-c", &uri])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"nwfilter-list\n");
    said.unwrap();
    virsh.served.wait_for_clients(1);
    let long_enough = Instant::now() + Duration::from_secs(4);
    while Instant::now() < long_enough {
        assert_eq!(*virsh.served.connected.borrow(), 1, "virsh gave the connection up");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::io::Write::write_all(shell.stdin.as_mut().unwrap(), b"nwfilter-binding-list\nquit\n").unwrap();
    let output = shell.output_in_time().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("Port Dev") && output.stderr.is_empty(), "{printed}");
    virsh.served.wait_for_clients(0);
}
