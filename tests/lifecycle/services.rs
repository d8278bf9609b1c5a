//! Services that rule the host's firewall, run for real: systemd with its unit of nftables, and firewalld.

use crate::guest::{forbidden, healed, honest, nft, with_guest};
use crate::lab::{Network, Verdict, Way};
use crate::place::Place;
use crate::tool::{InTime, skipped};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// What became of frames, one honest and one spoofed in turn.
#[derive(Debug, Default)]
struct Seen {
    sent: u32,
    passed: u32,
    lost: u32,
}

/// Sends while the work lasts, slowly enough that an emulated machine gets on with it.
fn trickle(network: &Network, work: impl FnOnce() + Send) -> Seen {
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let work = scope.spawn(work);
        while !work.is_finished() {
            seen.sent += 1;
            seen.lost += u32::from(!network.passes(Way::FromGuest, honest()));
            seen.passed += u32::from(network.passes(Way::FromGuest, forbidden()));
            std::thread::sleep(Duration::from_millis(1));
        }
        work.join().expect("the work is done");
    });
    seen
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
    const ROUNDS: u32 = 4;
    const UNIT: &str = "/lib/systemd/system/nftables.service";
    if !["/lib/systemd/systemd", UNIT].iter().all(|path| Path::new(path).exists()) {
        skipped("no systemd, or no unit of nftables (scripts/setup --tests)");
        return;
    }
    with_guest(|network, _, owned| {
        let mut host = Place::new(SYSTEMD, "/lib/systemd/systemd --system --unit=idle.target");
        host.waits_for("systemctl is-system-running");
        host.succeeds("systemctl start nftables");
        let began = Instant::now();
        let seen = trickle(network, || {
            for _ in 0..ROUNDS {
                nft(&["add", "table", "bridge", "bystander"]);
                host.succeeds("systemctl reset-failed nftables; systemctl restart nftables");
                host.succeeds("! nft list table bridge bystander");
            }
        });
        let took = began.elapsed();
        // Where others may flush our rules, what comes before they are whole again passes, or is lost.
        assert!(!owned || (seen.passed, seen.lost) == (0, 0), "{seen:?}");
        println!(
            "measured: {ROUNDS} times systemctl restart nftables in {took:.1?}: {} of {} spoofed frames passed, about {:.2?} in all",
            seen.passed,
            seen.sent,
            took.mul_f64(f64::from(seen.passed) / f64::from(seen.sent))
        );
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
        let seen = trickle(network, || {
            let prepare = format!("UNPACKED='{}'\n{FIREWALLD}", unpacked.display());
            let mut host = Place::new(&prepare, "firewalld --nofork --nopid");
            host.waits_for("firewall-cmd --state");
            host.succeeds("nft list table inet firewalld");
            for reload in ["--reload", "--complete-reload"] {
                // It may take longer than its client waits for an answer: a chain that it does not know says when it is done.
                host.succeeds("nft add chain inet firewalld before");
                host.succeeds(&format!("firewall-cmd {reload} || true"));
                host.waits_for("nft list table inet firewalld && ! nft list chain inet firewalld before");
            }
            host.ends("kill -TERM 1");
            let left = Command::new("nft").args(["list", "tables"]).output_in_time().unwrap();
            assert!(!String::from_utf8_lossy(&left.stdout).contains("firewalld"), "{left:?}");
        });
        assert_eq!((seen.passed, seen.lost), (0, 0), "{seen:?}");
        println!(
            "measured: firewalld started, reloaded twice, ended; {} spoofed frames sent, none passed",
            seen.sent
        );
    });
}
