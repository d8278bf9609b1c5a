"""Engines that judge frames, each in a network namespace of its own: our daemon, and libvirt's.

libvirt is this host's or that of a chroot, which may be newer and have two back ends. `take` runs one engine on one filter
and answers its verdicts, or the reason why it would not have the filter.
"""
import collections
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ORACLE = pathlib.Path(os.environ["NWFILTER_ORACLE"]).resolve()
FILTERS = pathlib.Path(os.environ["NWFILTER_LIBVIRT_DATA"]).resolve() / "filters"
STANDARD = pathlib.Path("filters").resolve()
# The parameters that the written-down verdicts were taken with.
PARAMETERS = ["IP=10.1.2.3", "IPSETNAME=tck_test", "A=1.1.1.1", "A=2.2.2.2", "A=3.3.3.3", "B=80", "B=90", "B=100",
              "C=1080", "C=1090", "C=1100"]
# What is in the set that PARAMETERS and the filter ipset name: addresses of frames, others are not in it.
MEMBERS = ["10.1.2.3", "1.1.1.1", "10.9.9.9"]
# How long a frame may take, in seconds; a busy host or an emulated one needs more than the frame does.
PATIENCE = float(os.environ.get("NWFILTER_ORACLE_PATIENCE", "0.002"))
DRIVERS = "usr/lib/x86_64-linux-gnu/libvirt/connection-driver"
# libvirtd sees folders of its own instead of those of its root, and one driver.
ISOLATED = """home=$0 root=$1 drivers=$2
mount --make-rprivate /
if [ "$root" != / ]; then
    for part in dev proc sys; do mount --rbind /$part "$root/$part"; done
fi
mount --bind "$home/run" "$root/run"
mount --bind "$home/etc" "$root/etc/libvirt"
mount --bind "$home/lib" "$root/var/lib/libvirt"
mount --bind "$home/drivers" "$root/$drivers"
exec chroot "$root" sh -ec "$3"
"""
# Each rule of the nftables back end is a process, which starts much faster from memory where the disk is slow.
FROM_MEMORY = """if nft=$(command -v nft); then
    mkdir -p /run/fast/lib
    cp "$nft" /run/fast/
    ldd "$nft" | sed -n 's/.*=> \\(.*\\) (.*/\\1/p' | xargs cp -t /run/fast/lib
    export PATH=/run/fast:$PATH LD_LIBRARY_PATH=/run/fast/lib
fi
exec libvirtd"""

# Where a libvirtd is, and its back end.
Libvirt = collections.namedtuple("Libvirt", "root backend")
HOST = Libvirt(pathlib.Path("/"), "iptables")


class Refused(Exception):
    """The engine would not have the filter."""


class Engine:
    """A daemon that runs in a namespace while the `with` block does."""

    def __init__(self, name, libvirt):
        self.netns = f"oracle-{os.getpid()}-{name}"[:40]
        self.name, self.libvirt = name, libvirt

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="oracle-"))
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        command = self.reference() if self.libvirt else self.ours()
        self.log = open(self.home / "log", "wb")
        self.daemon = subprocess.Popen(["ip", "netns", "exec", self.netns, *command], stdout=self.log, stderr=self.log)
        try:
            self.wait_for_socket()
            if "ipset" in (FILTERS / f"{self.name}.xml").read_text():
                self.fill("tck_test")
        except (TimeoutError, subprocess.CalledProcessError):
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(10)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        shutil.rmtree(self.home, ignore_errors=True)

    def ours(self):
        for part in ("state", "run"):
            (self.home / part).mkdir()
        shutil.copytree(STANDARD, self.home / "filters")
        self.socket = self.home / "run/virtnwfilterd-sock"
        return [os.environ["NWFILTERD"], "--filter-dir", self.home / "filters", "--state-dir", self.home / "state",
                "--runtime-dir", self.home / "run"]

    def reference(self):
        root, backend = self.libvirt
        for part in ("run/libvirt", "etc", "lib", "drivers"):
            (self.home / part).mkdir(parents=True)
        shutil.copytree(root / "usr/share/libvirt/nwfilter", self.home / "etc/nwfilter")
        shutil.copy(driver(root), self.home / "drivers")
        (self.home / "etc/nwfilter.conf").write_text(f'firewall_backend = "{backend}"\n')
        self.socket = self.home / "run/libvirt/libvirt-sock"
        start = FROM_MEMORY if backend == "nftables" else "exec libvirtd"
        return ["unshare", "-m", "sh", "-ec", ISOLATED, self.home, root, DRIVERS, start]

    def wait_for_socket(self):
        for _ in range(2400):
            if self.socket.exists():
                return
            if self.daemon.poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError(f"no socket: {(self.home / 'log').read_text()}")


    def fill(self, name):
        """Puts the addresses into the set. libvirt has the sets of `ipset`, we our own."""
        if not self.libvirt:
            command = pathlib.Path(os.environ["NWFILTERD"]).with_name("nwfilter")
            run(command, "ipset", "add", name, *MEMBERS, env=os.environ | {"NWFILTER_RUNTIME_DIR": str(self.home / "run")})
        elif shutil.which("ipset"):
            lines = [f"create {name} hash:ip", *(f"add {name} {member}" for member in MEMBERS)]
            run("ip", "netns", "exec", self.netns, "ipset", "restore", input="\n".join(lines) + "\n", text=True)


def driver(root):
    return root / DRIVERS / "libvirt_driver_nwfilter.so"


def is_there(libvirt):
    daemons = [libvirt.root / folder / "libvirtd" for folder in ("usr/sbin", "usr/bin")]
    return any(daemon.exists() for daemon in daemons) and driver(libvirt.root).exists()


def take(name, seed, frames, libvirt=None, without=()):
    """The verdicts on the frames of one filter, libvirt's or ours; frames that are to be left out are never sent."""
    with Engine(name, libvirt) as engine:
        out, words = engine.home / "verdicts.json", engine.home / "words"
        arguments = ["verdicts.py", "--netns", engine.netns, "--filter", str(FILTERS / f"{name}.xml"), "--close",
                     "--uri", f"nwfilter+unix:///system?socket={engine.socket}", "--frames", str(frames),
                     "--seed", str(seed), "--out", str(out)]
        arguments += [word for parameter in PARAMETERS for word in ("--param", parameter)]
        arguments += ["--br-netfilter"] if libvirt and libvirt.backend == "iptables" else []
        if child(arguments, words, frozenset(without)) != 0 or not out.exists():
            raise Refused(words.read_text().strip())
        return json.loads(out.read_text())["rows"]


def child(arguments, words, without):
    """Runs verdicts.py in a child, which saves importing scapy again."""
    sys.path.insert(0, str(ORACLE)) if str(ORACLE) not in sys.path else None
    import verdicts
    import frames  # noqa: F401
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        sys.stdout = sys.stderr = open(words, "w", buffering=1)
        sys.argv = arguments
        sender = Sender(without)
        verdicts.send = sender.send
        verdicts.main()
        sender.amend(pathlib.Path(arguments[arguments.index("--out") + 1]))
        code = 0
    except SystemExit as end:
        print(end.code or "")
        code = 0 if end.code in (None, 0) else 1
    except BaseException as fault:
        print(repr(fault))
    finally:
        sys.stdout.flush()
        os._exit(code)


class Sender:
    """Sends frames and knows them again even if they are late, as they may be on a busy host or an emulated one."""

    def __init__(self, without):
        self.without, self.sent = without, []

    def send(self, fds, way, data, wait=PATIENCE):
        here, there = (fds["vnet0"], fds["net0"]) if way == "out" else (fds["net0"], fds["vnet0"])
        this = {"there": there, "data": data, "verdict": "drop"}
        self.sent.append(this)
        if (way, data.hex()) in self.without:
            return "drop"
        os.write(here, data)
        end = time.monotonic() + wait
        while this["verdict"] == "drop":
            ready, _, _ = select.select([there, here], [], [], max(0, end - time.monotonic()))
            if not ready:
                break
            if not self.arrived(ready[0], os.read(ready[0], 65536)) and ready[0] == here:
                this["verdict"] = "reject"
        return this["verdict"]

    def arrived(self, at, got):
        """Whether this is one of the last frames that were sent."""
        for sent in reversed(self.sent[-8:]):
            if sent["there"] == at and sent["verdict"] == "drop" and sent["data"][:34] == got[:34]:
                sent["verdict"] = "accept"
                return True
        return False

    def amend(self, path):
        """Late frames were written down as dropped."""
        found = json.loads(path.read_text())
        judged = [row for row in found["rows"] if row["verdict"] != "undeliverable"]
        for row, sent in zip(judged, self.sent[len(self.sent) - len(judged):]):
            row["verdict"] = sent["verdict"]
        path.write_text(json.dumps(found))


def run(*command, **how):
    subprocess.run([str(word) for word in command], check=True, **how)
