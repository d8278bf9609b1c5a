//! The systemd units as systemd itself reads them, and what they promise.

mod tool;

use nwfilter::kernel::checksum::PIN;
use nwfilter::service::config::Config;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tool::{InTime, available};

const UNITS: [&str; 3] = ["nwfilterd.service", "nwfilterd.socket", "nwfilterd-ro.socket"];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn value<'a>(unit: &'a str, key: &str) -> &'a str {
    let line = unit.lines().rev().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key}"))
}

/// All words of a key, over all its lines.
fn values<'a>(unit: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace)
}

/// The units, copied to where an executable stands for the daemon, and the tool that reads them, if it is there.
fn analyze(arguments: &[&str]) -> Option<Output> {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name);
    for name in UNITS {
        fs::write(place(name), unit(name).replace("/usr/sbin/nwfilterd", "/bin/true")).unwrap();
    }
    let units: Vec<PathBuf> = UNITS.map(place).into();
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).args(if arguments[0] == "verify" { &units[..] } else { &units[..1] });
    let path = format!("{}:", directory.path().display());
    command.env("SYSTEMD_UNIT_PATH", path).env("SYSTEMD_LOG_LEVEL", "warning");
    available("systemd-analyze", "--tests").then(|| command.output_in_time().unwrap())
}

#[test]
fn systemd_understands_every_line() {
    let Some(output) = analyze(&["verify", "--man=no"]) else { return };
    let text = String::from_utf8(output.stderr).unwrap();
    let ours: Vec<_> = text.lines().filter(|line| line.contains("nwfilterd")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(output.status.success(), "{text}");
}

/// What the generator makes for a version of systemd, as `systemctl --version` says it.
fn generated(version: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let systemctl = directory.path().join("systemctl");
    fs::write(&systemctl, format!("#!/bin/sh\necho 'systemd {version}'\necho +PAM +AUDIT 999\n")).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/nwfilterd-generator");
    let out = directory.path().join("normal");
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap());
    let status = Command::new(generator).args([&out, &out, &out]).env("PATH", path).status_in_time().unwrap();
    assert!(status.success());
    fs::read_to_string(out.join("nwfilterd.service.d/notify-reload.conf")).ok()
}

#[test]
fn a_reload_is_followed_to_its_end_where_systemd_can() {
    let service = unit("nwfilterd.service");
    assert_eq!(
        (value(&service, "Type"), value(&service, "ExecReload")),
        ("notify", "/bin/sh -c 'kill -HUP $$MAINPID'")
    );
    for old in ["249", "252 (252.39-1~deb12u2)", "252~rc1"] {
        assert_eq!(generated(old), None, "{old}");
    }
    for new in ["253 (253.1)", "257 (257.13-1~deb13u1)", "261~rc2"] {
        let drop_in = generated(new).unwrap_or_else(|| panic!("{new}"));
        assert_eq!((value(&drop_in, "Type"), value(&drop_in, "ExecReload")), ("notify-reload", ""), "{new}");
    }
}

#[test]
fn only_what_listens_on_the_same_sockets_is_stopped() {
    for name in UNITS {
        let unit = unit(name);
        assert_eq!(value(&unit, "Conflicts"), name.replace("nwfilterd", "virtnwfilterd"));
    }
}

/// Of these points 2 are for ProtectKernelTunables=, whose paths are named instead, and 3 for the right to drop capabilities.
#[test]
fn the_sandbox_leaves_little_exposed() {
    let threshold = "25";
    let Some(output) = analyze(&["security", "--offline=true", "--threshold", threshold]) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "exposure above {threshold} of 100: {text}");
    println!("{}", text.lines().rfind(|line| line.contains("exposure")).unwrap_or_default());
}

#[test]
fn sockets_are_where_libvirt_looks_and_only_root_writes() {
    let runtime = Config::default().runtime_dir;
    let (socket, read_only) = (unit("nwfilterd.socket"), unit("nwfilterd-ro.socket"));
    assert_eq!(Path::new(value(&socket, "ListenStream")), runtime.join("virtnwfilterd-sock"));
    assert_eq!(Path::new(value(&read_only, "ListenStream")), runtime.join("virtnwfilterd-sock-ro"));
    let mode = |unit: &str| u32::from_str_radix(value(unit, "SocketMode"), 8).unwrap();
    assert_eq!(mode(&socket), Config::default().socket_mode.0);
    assert_eq!(mode(&read_only), Config::default().socket_ro_mode.0);
}

#[test]
fn the_service_may_write_where_the_daemon_does() {
    let (service, config) = (unit("nwfilterd.service"), Config::default());
    let under = |root: &str, key: &str| Path::new(root).join(value(&service, key));
    assert_eq!(under("/etc", "ConfigurationDirectory"), config.filter_dir);
    // The checksum guard is kept in the BPF file system, where there is one.
    let pinned = format!("-{}", Path::new(PIN).parent().unwrap().display());
    let paths: Vec<&str> = values(&service, "ReadWritePaths").collect();
    assert_eq!(paths, [config.filter_dir.to_str().unwrap(), &pinned]);
    assert_eq!(under("/var/lib", "StateDirectory"), config.state_dir);
    assert_eq!(under("/run", "RuntimeDirectory"), config.runtime_dir);
    assert_eq!(value(&service, "RuntimeDirectoryPreserve"), "yes", "others' sockets stay");
    assert_eq!(
        value(&service, "CapabilityBoundingSet"),
        "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF CAP_PERFMON CAP_SETPCAP"
    );
}

/// Of two modes of one path systemd takes the stricter, and `ProtectKernelTunables=` names /sys/fs/bpf itself.
#[test]
fn kernel_files_are_read_only_except_the_guards_pin() {
    let service = unit("nwfilterd.service");
    assert_eq!(values(&service, "ProtectKernelTunables").count(), 0);
    let read_only: Vec<&str> = values(&service, "ReadOnlyPaths").collect();
    assert!(["/sys", "-/proc/sys", "-/proc/sysrq-trigger"].iter().all(|path| read_only.contains(path)));
    let pinned = Path::new(PIN).parent().unwrap();
    assert!(values(&service, "ReadWritePaths").any(|path| Path::new(path.trim_start_matches('-')) == pinned));
}

/// The calls of a group of systemd's, groups in it included.
fn group(name: &str, listing: &str) -> Vec<String> {
    let of_group =
        listing.lines().skip_while(|line| *line != name).skip(1).take_while(|line| line.starts_with(' '));
    let members = of_group.map(str::trim).filter(|line| !line.starts_with('#'));
    let calls =
        |member: &str| if member.starts_with('@') { group(member, listing) } else { vec![member.into()] };
    members.flat_map(calls).collect()
}

#[test]
fn the_units_filter_lets_through_what_the_daemons_own_does() {
    if !available("systemd-analyze", "--tests") {
        return;
    }
    let output = Command::new("systemd-analyze").arg("syscall-filter").output_in_time().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let mut allowed = Vec::new();
    for filter in unit("nwfilterd.service").lines().filter_map(|line| line.strip_prefix("SystemCallFilter="))
    {
        let (minus, names) = filter.strip_prefix('~').map_or((false, filter), |names| (true, names));
        let calls = names.split(' ').flat_map(|name| match name.starts_with('@') {
            true => group(name, &listing),
            false => vec![name.to_owned()],
        });
        let calls: Vec<String> = calls.collect();
        assert!(calls.len() > 1, "{filter}");
        if minus { allowed.retain(|call| !calls.contains(call)) } else { allowed.extend(calls) }
    }
    let source = include_str!("../src/service/confine/calls.rs");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let ours: Vec<&str> =
        source.split("SYS_").skip(1).filter_map(|rest| rest.split(|c| !is_name(c)).next()).collect();
    assert!(ours.len() > 100);
    let missing: Vec<_> =
        ours.iter().filter(|call| !allowed.iter().any(|allowed| allowed == *call)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
