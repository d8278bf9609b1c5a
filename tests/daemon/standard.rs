//! The standard filters: in force without a file, and as the administrator left them after every restart.

use crate::boundary::{Boundaries, Fate};
use crate::host::{Conn, Daemon, Host, eventually, refused};
use crate::lab::in_fresh_netns;
use nwfilter::document::standard::{self, Found, PackagedCopy, RECORD, Record, STANDARD};
use nwfilter::service::rpc::client::Failure;
use rustix::fs::{CWD, Mode, mkfifoat};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use uuid::Uuid;

/// A host whose daemon has the standard filters.
fn host() -> Host {
    let host = Host::new();
    host.configure("standard_filters = true");
    host
}

fn has(conn: &mut Conn, name: &str) -> bool {
    conn.filters().unwrap().iter().any(|filter| filter == name)
}

fn uuid(name: &str) -> Uuid {
    standard::uuid(name).unwrap()
}

fn restarted(host: &Host, daemon: Daemon) -> (Daemon, Conn) {
    daemon.stop();
    let daemon = host.start();
    let conn = daemon.connect();
    (daemon, conn)
}

#[test]
fn they_are_there_without_a_file_and_no_file_is_written() {
    in_fresh_netns(|| {
        let host = host();
        let daemon = host.start();
        let names: Vec<&str> = STANDARD.iter().map(|(name, _)| *name).collect();
        assert_eq!(daemon.connect().filters().unwrap(), names);
        let (_daemon, mut conn) = restarted(&host, daemon);
        assert_eq!(conn.filters().unwrap(), names);
        assert!(conn.filter_xml_of(uuid("clean-traffic")).unwrap().contains("name='clean-traffic'"));
        assert!(host.files("filters").is_empty(), "the directory is the administrator's");
    });
}

#[test]
fn one_that_a_client_deletes_stays_deleted_until_it_is_defined() {
    in_fresh_netns(|| {
        let host = host();
        let daemon = host.start();
        let mut conn = daemon.connect();
        let xml = conn.filter_xml_of(uuid("allow-ipv6")).unwrap();
        conn.undefine_uuid(uuid("allow-ipv6")).unwrap();
        assert!(!has(&mut conn, "allow-ipv6"));
        let (daemon, mut conn) = restarted(&host, daemon);
        assert!(!has(&mut conn, "allow-ipv6") && has(&mut conn, "allow-ipv4"));
        conn.define(&xml).unwrap();
        let (_daemon, mut conn) = restarted(&host, daemon);
        assert!(has(&mut conn, "allow-ipv6"));
    });
}

#[test]
fn one_whose_file_is_deleted_by_hand_stays_deleted() {
    in_fresh_netns(|| {
        let host = host();
        let edited = "<filter name='allow-arp' chain='arp'><rule action='drop' direction='in'/></filter>";
        host.write_filter("allow-arp", edited);
        let daemon = host.start();
        assert!(daemon.connect().filter_xml_of(uuid("allow-arp")).unwrap().contains("drop"));
        fs::remove_file(host.path("filters/allow-arp.xml")).unwrap();
        let (daemon, mut conn) = restarted(&host, daemon);
        assert!(!has(&mut conn, "allow-arp"));
        let (_daemon, mut conn) = restarted(&host, daemon);
        assert!(!has(&mut conn, "allow-arp"));
    });
}

#[test]
fn a_faulty_file_is_not_replaced_by_the_standard_filter() {
    in_fresh_netns(|| {
        let host = host();
        host.write_filter("allow-arp", "<filter name='allow-arp'");
        let daemon = host.start();
        assert!(!has(&mut daemon.connect(), "allow-arp"));
    });
}

#[test]
fn a_deletion_that_cannot_be_recorded_is_refused() {
    in_fresh_netns(|| {
        let host = host();
        let daemon = host.start();
        let mut conn = daemon.connect();
        // Nothing can be renamed onto a directory.
        fs::remove_file(host.path("state").join(RECORD)).unwrap();
        fs::create_dir_all(host.path("state").join(RECORD).join("in the way")).unwrap();
        let refused = refused(conn.undefine_uuid(uuid("allow-ipv6")));
        assert!(refused.message.contains(RECORD), "{refused:?}");
        assert!(has(&mut conn, "allow-ipv6"));
    });
}

#[test]
fn one_that_a_package_took_away_is_in_force_as_it_was() {
    in_fresh_netns(|| {
        let host = host();
        let edited = "<filter name='allow-arp' chain='arp'><rule action='drop' direction='in'/></filter>";
        let mut record = Record::new(&host.path("filters"));
        record.settle("allow-arp", Found::Text(edited), Some(edited));
        fs::create_dir(host.path("state")).unwrap();
        fs::write(host.path("state").join(RECORD), record.write()).unwrap();
        let daemon = host.start();
        assert!(daemon.log().contains("went with libvirt's package"), "{}", daemon.log());
        let before = daemon.connect().filter_xml_of(uuid("allow-arp")).unwrap();
        assert!(before.contains("drop"), "{before}");
        let (_daemon, mut conn) = restarted(&host, daemon);
        assert_eq!(conn.filter_xml_of(uuid("allow-arp")).unwrap(), before);
    });
}

const EDITED: &str = "<filter name='allow-arp' chain='arp'><rule action='drop' direction='in'/></filter>";

/// What a host has of a standard filter: its file, and what was recorded.
type Had = (&'static str, fn(&Host));
/// What a client does about it.
type Change = (&'static str, fn(&mut Conn) -> Result<(), Failure>);

const HAD: [Had; 4] = [
    ("no file", |_| {}),
    ("an edited file", |host| host.write_filter("allow-arp", EDITED)),
    ("a package's file, passed over for an edited one", |host| passed_over(host, |_| {})),
    ("a package's file, passed over for a deletion", |host| {
        passed_over(host, |record| record.delete("allow-arp", PackagedCopy::Absent));
    }),
];

const CHANGES: [Change; 3] = [
    ("deleted", |conn| conn.undefine_uuid(uuid("allow-arp"))),
    ("defined", |conn| conn.define(&with_uuid("<rule action='accept' direction='in'/>")).map(drop)),
    ("defined as the package has it", |conn| conn.define(&shipped()).map(drop)),
];

fn shipped() -> String {
    STANDARD.iter().find(|(name, _)| *name == "allow-arp").unwrap().1.into()
}

fn with_uuid(rules: &str) -> String {
    format!("<filter name='allow-arp' chain='arp'><uuid>{}</uuid>{rules}</filter>", uuid("allow-arp"))
}

/// The file came with a package after an edit, or after what was chosen instead.
fn passed_over(host: &Host, choose: fn(&mut Record)) {
    let shipped = shipped();
    let mut record = Record::new(&host.path("filters"));
    record.settle("allow-arp", Found::Text(EDITED), None);
    choose(&mut record);
    record.settle("allow-arp", Found::Text(&shipped), Some(&shipped));
    host.write_filter("allow-arp", &shipped);
    fs::create_dir(host.path("state")).unwrap();
    fs::write(host.path("state").join(RECORD), record.write()).unwrap();
}

/// What a daemon that starts then has of the filter.
fn found(host: &Host) -> Option<String> {
    host.start().connect().filter_xml_of(uuid("allow-arp")).ok()
}

/// What a restart finds before and after the change.
fn before_and_after((_, prepare): Had, (_, change): Change) -> [Option<String>; 2] {
    [false, true].map(|changes| {
        in_fresh_netns(|| {
            let host = host();
            prepare(&host);
            let daemon = host.start();
            // What is not there cannot be deleted.
            let _ = changes.then(|| change(&mut daemon.connect()));
            daemon.kill();
            found(&host)
        })
    })
}

/// Whether the change has so many steps.
fn killed_at(
    step: u32,
    (had, prepare): Had,
    (done, change): Change,
    [before, after]: &[Option<String>; 2],
) -> bool {
    in_fresh_netns(|| {
        let host = host();
        prepare(&host);
        let (boundaries, mut daemon) = Boundaries::start(&host);
        let mut conn = daemon.connect();
        boundaries.at(step, Fate::Dies);
        let answer = change(&mut conn);
        let met = boundaries.was_met();
        if met {
            daemon.wait();
        }
        daemon.kill();
        let found = found(&host);
        let what = format!("{had}, {done}, killed at step {step}: {answer:?}");
        assert!(found == *before || found == *after, "{what}: a third filter: {found:?}");
        assert!(answer.is_err() || found == *after, "{what}: acknowledged and lost");
        met
    })
}

/// Its file and the record of it are two files in two directories.
#[test]
fn a_kill_at_any_step_leaves_the_old_or_the_new_filter() {
    for had in HAD {
        for change in CHANGES {
            let both = before_and_after(had, change);
            let steps = (1..40).take_while(|step| killed_at(*step, had, change, &both)).count();
            let nothing_to_do = both == [None, None];
            assert!(steps < 39 && (steps > 2 || nothing_to_do), "{}, {}: {steps} steps", had.0, change.0);
        }
    }
}

/// What is recorded is compared with at the next look, so that what cannot be recorded now is found then.
#[test]
fn a_choice_that_cannot_be_recorded_is_in_force() {
    in_fresh_netns(|| {
        let host = host();
        let (boundaries, daemon) = Boundaries::start(&host);
        host.write_filter("allow-arp", &with_uuid("<rule action='drop' direction='in'/>"));
        boundaries.at(1, Fate::FailsFromOn(libc::EROFS));
        daemon.signal(libc::SIGHUP);
        daemon.logs("not recorded which standard filters");
        let mut conn = daemon.connect();
        eventually("the edited filter", || conn.filter_xml_of(uuid("allow-arp")).unwrap().contains("drop"));
        boundaries.come_back();
        daemon.kill();
        assert!(found(&host).unwrap().contains("drop"));
    });
}

/// What can lie in the place of a file, and how it gets there.
type Odd = (&'static str, fn(&Path));

const ODD: [Odd; 3] = [
    ("a directory", |path| fs::create_dir_all(path.join("within")).unwrap()),
    ("a link", |path| symlink("/etc/passwd", path).unwrap()),
    ("a pipe", |path| mkfifoat(CWD, path, Mode::RWXU).unwrap()),
];

#[test]
fn without_a_readable_record_no_standard_filter_comes_back() {
    let large = |path: &Path| fs::write(path, " ".repeat((4 << 20) + 1)).unwrap();
    let other = |path: &Path| fs::write(path, "{\"filters\": 7}").unwrap();
    for (what, make) in
        ODD.into_iter().chain([("a large file", large as fn(&Path)), ("other content", other)])
    {
        in_fresh_netns(|| {
            let host = host();
            let daemon = host.start();
            daemon.connect().undefine_uuid(uuid("allow-ipv6")).unwrap();
            daemon.stop();
            let record = host.path("state").join(RECORD);
            fs::remove_file(&record).unwrap();
            make(&record);
            let daemon = host.start();
            assert!(daemon.log().contains("an interface that needs another is blocked"), "{what}");
            let mut conn = daemon.connect();
            assert!(!has(&mut conn, "allow-ipv6") && !has(&mut conn, "allow-ipv4"), "{what}");
            assert!(record.symlink_metadata().is_ok(), "{what}");
        });
    }
}

/// What the daemon opens by a fixed name before it serves, and what it then says.
const PLACES: [(&str, &str); 4] = [
    ("run/nwfilterd.lock", "delete it and start nwfilterd again"),
    ("pid", "not a regular file"),
    ("conf", "not a regular file"),
    ("run/virtnwfilterd-sock", "in the way, and not a socket"),
];

#[test]
fn a_daemon_that_finds_no_file_in_its_place_ends_and_names_it() {
    for (place, message) in PLACES {
        for (what, make) in ODD.into_iter().filter(|(what, _)| (place, *what) != ("conf", "a link")) {
            in_fresh_netns(|| {
                let host = host();
                let path = host.path(place);
                let _ = fs::remove_file(&path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                make(&path);
                let mut command = host.command();
                command.arg("--pid-file").arg(host.path("pid"));
                let mut daemon = host.spawn(command);
                assert!(!daemon.wait().success(), "{place}: {what}");
                let log = daemon.log();
                assert!(log.contains(message) && log.contains(path.to_str().unwrap()), "{what}: {log}");
            });
        }
    }
}

#[test]
fn a_pipe_among_files_only_looked_at_holds_up_no_start() {
    for place in ["run/network/nwfilter.leases", "run/nwfilter/driver.pid", "filters/allow-arp.xml"] {
        in_fresh_netns(|| {
            let host = host();
            let path = host.path(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::set_permissions(path.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
                .unwrap();
            mkfifoat(CWD, &path, Mode::RWXU).unwrap();
            assert!(has(&mut host.start().connect(), "allow-ipv4"), "{place}");
        });
    }
}
