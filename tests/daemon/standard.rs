//! The standard filters: in force without a file, and as the administrator left them after every restart.

use crate::host::{Conn, Daemon, Host, refused};
use crate::lab::in_fresh_netns;
use nwfilter::standard::{self, RECORD, STANDARD};
use std::fs;
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
fn a_deletion_that_can_not_be_recorded_is_refused() {
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
        let mut record = standard::Record::new(&host.path("filters"));
        record.settle("allow-arp", standard::Found::Text(edited), Some(edited));
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
