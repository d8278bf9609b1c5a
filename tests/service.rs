//! What the program says to its surroundings: systemd's messages and sockets, and the log on standard error.
//!
//! Each case runs in a process of its own, since what it tests belongs to a whole process.

mod tool;

use nwfilter::service::config::LogLevel;
use nwfilter::service::logging;
use nwfilter::service::systemd::{self, State};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Output, Stdio};
use tool::{InTime, connect};
use tracing::Level;

const CHILD: &str = "NWFILTER_TEST_CHILD";

/// The command that runs one of the tests below alone, as the process that is tested.
fn child(test: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" --exact \"$@\" --nocapture"]);
    command.arg(std::env::current_exe().unwrap()).arg(test).env(CHILD, "1");
    for inherited in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_FDNAMES", "JOURNAL_STREAM", "WATCHDOG_USEC"] {
        command.env_remove(inherited);
    }
    command
}

fn done(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

#[test]
fn tells_its_states() {
    if is_child() {
        for state in [State::Reloading, State::Status("12 bindings\nREADY=0"), State::Ready, State::Alive] {
            systemd::tell(state);
        }
        systemd::tell(State::Stopping);
    }
}

#[test]
fn systemd_hears_every_state() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    done(child("tells_its_states").env("NOTIFY_SOCKET", &path).output_in_time().unwrap());
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 256];
    let messages: Vec<String> =
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()))
            .map(|bytes| String::from_utf8(bytes).unwrap())
            .collect();
    let (reloading, rest) = messages.split_first().unwrap();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(time.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(rest, ["STATUS=12 bindings\n", "READY=1\n", "WATCHDOG=1\n", "STOPPING=1\n"]);
    done(child("tells_its_states").output_in_time().unwrap());
}

#[test]
fn answers_on_the_sockets_it_was_given() {
    if is_child() {
        let sockets = systemd::sockets().unwrap();
        for (socket, name) in sockets {
            let (mut stream, _) = UnixListener::from(socket).accept().unwrap();
            std::io::Write::write_all(&mut stream, name.as_bytes()).unwrap();
        }
        assert!(systemd::sockets().unwrap().is_empty(), "the second time there are none");
    }
}

#[test]
fn a_socket_of_systemd_is_taken_over_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = child("answers_on_the_sockets_it_was_given");
    command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "nwfilterd.socket");
    let shell = "LISTEN_PID=$$ exec \"$0\" --exact \"$@\" --nocapture 3<&0";
    let mut arguments: Vec<_> = command.get_args().map(|argument| argument.to_owned()).collect();
    arguments[1] = shell.into();
    let mut with_socket = Command::new("sh");
    with_socket.args(arguments).envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    with_socket.stdin(listener.as_fd().try_clone_to_owned().unwrap()).stdout(Stdio::null());
    let mut running = with_socket.spawn().unwrap();
    let mut name = String::new();
    std::io::Read::read_to_string(&mut connect(&path), &mut name).unwrap();
    assert_eq!(name, "nwfilterd.socket");
    assert!(running.status_in_time().unwrap().success());
}

#[test]
fn logs_at_two_levels() {
    if is_child() {
        let level = logging::start(LogLevel::Info).unwrap();
        assert!(logging::start(LogLevel::Info).is_err(), "the log is started once");
        tracing::info!(guest = "vnet0", index = 7, "bound");
        tracing::debug!("before");
        level.set(LogLevel::Debug);
        tracing::debug!("after");
        assert!(tracing::enabled!(Level::DEBUG));
    }
}

#[test]
fn the_log_has_fields_and_its_level_can_change() {
    // The journal is named, but standard error is a pipe of ours.
    let text = done(child("logs_at_two_levels").env("JOURNAL_STREAM", "1:2").output_in_time().unwrap());
    assert!(text.contains("INFO bound guest=\"vnet0\" index=7\n"), "{text}");
    assert!(text.contains("DEBUG after") && !text.contains("before"), "{text}");
}

#[test]
fn uses_a_library_that_logs() {
    if is_child() {
        logging::start(LogLevel::Trace).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (connection, handle, messages) = rtnetlink::new_connection().unwrap();
            drop((handle, messages));
            connection.await;
        });
    }
}

#[test]
fn records_of_the_log_crate_are_taken_along() {
    let text = done(child("uses_a_library_that_logs").output_in_time().unwrap());
    assert!(text.contains("TRACE polling Connection"), "{text}");
}
