//! The configuration as the administrator meets it: checked beforehand, read again at a reload, and what the daemon says when it
//! may not start.

use crate::host::Host;
use crate::lab::in_fresh_netns;
use crate::tool::InTime;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Numbers of capabilities.
const CAP_NET_ADMIN: libc::c_int = 12;
const CAP_NET_RAW: libc::c_int = 13;

/// The exit code and what was said.
fn outcome(mut command: Command) -> (Option<i32>, String) {
    let output = command.stderr(std::process::Stdio::piped()).output_in_time().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn check(host: &Host, text: &str) -> (Option<i32>, String) {
    host.configure(text);
    let mut command = host.command();
    command.arg("--check-config");
    outcome(command)
}

#[test]
fn a_configuration_is_checked_without_a_daemon() {
    let host = Host::new();
    assert_eq!(check(&host, "grace = 2\nsocket_mode = \"0660\""), (Some(0), String::new()));
    for (text, words) in [
        ("grace = 2\nsocket_mode = 0660", &["socket_mode = 0660", "quote it: socket_mode = \"0660\""][..]),
        ("max_clients = -1", &["a whole number from 0 to 4294967295"]),
        ("conters = true", &["unknown field `conters`"]),
        ("socket_group = \"no such group\"", &["socket_group", "no such group"]),
    ] {
        let (code, said) = check(&host, text);
        assert_eq!(code, Some(1), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "{word:?} is not in {said}"));
    }
    let (_, said) = check(&host, "grace = 2\n  fold_up_to = true");
    // The line that keeps standard filters out is the first.
    assert!(said.contains("/conf:3:16"), "{said}");
    assert!(host.files("state").is_empty() && !host.runtime().exists(), "a check makes nothing");
}

#[test]
fn a_reload_says_which_changed_keys_wait_for_a_restart() {
    in_fresh_netns(|| {
        let host = Host::new();
        let mut daemon = host.start();
        host.configure("grace = 3\nfold_up_to = 7\nlog_level = \"debug\"");
        daemon.reload();
        let log = daemon.log();
        assert!(log.contains("keys=\"fold_up_to, grace\""), "{log}");
        assert!(log.contains("restart"), "{log}");
        host.configure("log_level = \"debug\"");
        daemon.reload();
        assert_eq!(daemon.log().matches("fold_up_to").count(), 1, "{}", daemon.log());
        host.configure("log_level = debug");
        daemon.reload();
        daemon.logs("configuration not read");
        assert!(daemon.connect().filters().unwrap().is_empty(), "it works on");
    });
}

#[test]
fn without_the_rights_it_says_which_and_what_to_do() {
    let host = Host::new();
    host.configure("");
    let mut command = host.command();
    // SAFETY: prctl with numbers, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for right in [CAP_NET_ADMIN, CAP_NET_RAW] {
                libc::prctl(libc::PR_CAPBSET_DROP, right, 0, 0, 0);
            }
            Ok(())
        });
    }
    let (code, said) = outcome(command);
    assert_eq!(code, Some(1));
    for word in ["CAP_NET_ADMIN", "as root", "systemctl start nwfilterd"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
}

#[test]
fn what_cannot_be_created_is_named_with_the_reason() {
    let host = Host::new();
    std::fs::write(host.runtime(), "a file").unwrap();
    let (code, said) = outcome(host.command());
    assert_eq!(code, Some(1));
    assert!(said.contains("runtime directory") && said.contains("File exists"), "{said}");
}
