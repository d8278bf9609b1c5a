//! What others do to the host's firewall: by nft, by systemd's unit for nftables, by firewalld.

use crate::guest::{forbidden, healed, honest, nft, with_guest};
use crate::lab::{Verdict, Way};
use crate::place::Place;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_flush_by_others_is_undone_or_never_happens_to_us() {
    with_guest(|network, _, owned| {
        let mut times: Vec<Duration> =
            (0..20).map(|_| healed(network, || nft(&["flush", "ruleset"]))).collect();
        times.sort();
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        match owned {
            true => {
                let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
                    (0..20).for_each(|_| nft(&["flush", "ruleset"]));
                });
                assert_eq!((flood.forbidden_arrived, flood.lost()), (0, 0), "{flood:?}");
                println!(
                    "measured: tables are owned; 20 flushes under traffic, {} spoofed frames sent, none passed",
                    flood.forbidden_sent
                );
            }
            false => println!(
                "measured: tables have no owner; filtered again {median:?} after a flush, {worst:?} at worst of 20"
            ),
        }
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_restart_of_the_nftables_service_leaves_guests_filtered() {
    with_guest(|network, daemon, owned| {
        // What Debian's unit does on start, reload and stop.
        let rules = daemon.directory.path().join("nftables.conf");
        let text = "flush ruleset\ntable inet filter {\n chain input { type filter hook input priority filter; }\n}\n";
        std::fs::write(&rules, text).unwrap();
        let rules = rules.to_str().unwrap();
        for command in [&["-f", rules][..], &["-f", rules], &["flush", "ruleset"], &["-f", rules]] {
            let took = healed(network, || nft(command));
            assert!(!owned || took < Duration::from_millis(500), "an owned table was touched: {took:?}");
        }
        nft(&["list", "table", "inet", "filter"]);
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

#[test]
fn a_table_deleted_by_name_or_emptied_is_restored() {
    with_guest(|network, _, owned| {
        if owned {
            return; // Nobody else may.
        }
        let took = healed(network, || nft(&["delete", "table", "bridge", "nwfilter"]));
        println!("measured: filtered again {took:?} after the table was deleted");
        healed(network, || nft(&["flush", "table", "bridge", "nwfilter"]));
        healed(network, || nft(&["flush", "chain", "bridge", "nwfilter", "prerouting"]));
        healed(network, || nft(&["flush", "set", "bridge", "nwfilter", "bound"]));
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

/// The unit of Debian's package alone, beside targets that it names.
const SYSTEMD: &str = r#"mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/units
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for target in idle shutdown network-pre sysinit; do
    printf '[Unit]\nDefaultDependencies=no\n' >/run/units/$target.target
done
ln -s /lib/systemd/system/nftables.service /run/units/
export container=other SYSTEMD_UNIT_PATH=/run/units"#;

#[test]
fn systemctl_restarts_nftables_and_guests_stay_filtered() {
    const UNIT: &str = "/lib/systemd/system/nftables.service";
    if !["/lib/systemd/systemd", UNIT].iter().all(|path| Path::new(path).exists()) {
        println!("skipped: no systemd, or no unit of nftables");
        return;
    }
    with_guest(|network, _, owned| {
        let mut host = Place::new(SYSTEMD, "/lib/systemd/systemd --system --unit=idle.target");
        host.waits_for("systemctl is-system-running");
        host.succeeds("systemctl start nftables");
        let began = Instant::now();
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
            for _ in 0..5 {
                nft(&["add", "table", "bridge", "bystander"]);
                host.succeeds("systemctl reset-failed nftables; systemctl restart nftables");
                host.succeeds("! nft list table bridge bystander");
            }
        });
        let took = began.elapsed();
        if owned {
            assert_eq!(flood.forbidden_arrived, 0, "{flood:?}");
        }
        println!(
            "measured: 5 times systemctl restart nftables in {took:.1?}: {} of {} spoofed frames passed, about {:.2?} in all",
            flood.forbidden_arrived,
            flood.forbidden_sent,
            took.mul_f64(flood.forbidden_arrived as f64 / flood.forbidden_sent as f64)
        );
        assert_eq!((flood.lost(), flood.strange), (0, 0), "{flood:?}");
        healed(network, || {});
        assert_eq!(network.verdict(Way::FromGuest, honest()), Verdict::Accept);
    });
}

/// firewalld as its unit starts it, on a message bus of its own; installed, or unpacked by scripts/setup.
const FIREWALLD: &str = r#"if [ -d "$UNPACKED" ]; then
    for part in usr etc; do mount -t overlay overlay -o "lowerdir=$UNPACKED/$part:/$part" /$part; done
fi
cat >"$PLACE/bus.conf" <<END
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=$PLACE/bus</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>
END
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$PLACE/bus
dbus-daemon --config-file="$PLACE/bus.conf" --fork"#;

#[test]
fn firewalld_starts_and_reloads_and_guests_stay_filtered() {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/vm-tools/firewalld");
    if !unpacked.exists() && !Path::new("/usr/sbin/firewalld").exists() {
        println!("skipped: no firewalld (scripts/setup --vm)");
        return;
    }
    with_guest(|network, _, _| {
        let (flood, ()) = network.flood(Way::FromGuest, honest(), forbidden(), || {
            let prepare = format!("UNPACKED='{}'\n{FIREWALLD}", unpacked.display());
            let mut host = Place::new(&prepare, "firewalld --nofork --nopid");
            host.waits_for("firewall-cmd --state");
            host.succeeds("nft list table inet firewalld");
            host.succeeds("firewall-cmd --reload");
            host.succeeds("firewall-cmd --complete-reload");
            host.succeeds("kill -TERM 1; while nft list table inet firewalld; do sleep 0.1; done");
        });
        assert_eq!((flood.forbidden_arrived, flood.lost(), flood.strange), (0, 0, 0), "{flood:?}");
        println!(
            "measured: firewalld started, reloaded twice, ended; {} spoofed frames sent, none passed, none of {} honest lost",
            flood.forbidden_sent, flood.honest_sent
        );
    });
}
