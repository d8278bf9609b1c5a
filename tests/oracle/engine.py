"""Engines that judge frames, each in a network namespace of its own: our daemon, and Debian's libvirtd.

`take` runs one engine on one filter and answers its verdicts, or the reason why it would not have the filter.
"""
import json
import os
import pathlib
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
DRIVERS = pathlib.Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver")
# libvirtd sees folders of its own instead of the machine's, and one driver.
ISOLATED = """mount --make-rprivate /
mount --bind "$0/run" /run
mount --bind "$0/etc" /etc/libvirt
mount --bind "$0/lib" /var/lib/libvirt
mount --bind "$0/drivers" "$1"
exec libvirtd"""


class Refused(Exception):
    """The engine would not have the filter."""


class Engine:
    """A daemon that runs in a namespace while the `with` block does."""

    def __init__(self, name, libvirtd):
        self.netns = f"oracle-{os.getpid()}-{name}"[:40]
        self.libvirtd = libvirtd

    def __enter__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="oracle-"))
        run("ip", "netns", "add", self.netns)
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        command = self.reference() if self.libvirtd else self.ours()
        self.log = open(self.home / "log", "wb")
        self.daemon = subprocess.Popen(["ip", "netns", "exec", self.netns, *command], stdout=self.log, stderr=self.log)
        try:
            self.wait_for_socket()
        except TimeoutError:
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
        for part in ("run/libvirt", "etc", "lib", "drivers"):
            (self.home / part).mkdir(parents=True)
        shutil.copytree("/usr/share/libvirt/nwfilter", self.home / "etc/nwfilter")
        shutil.copy(DRIVERS / "libvirt_driver_nwfilter.so", self.home / "drivers")
        self.socket = self.home / "run/libvirt/libvirt-sock"
        return ["unshare", "-m", "sh", "-ec", ISOLATED, self.home, DRIVERS]

    def wait_for_socket(self):
        for _ in range(2400):
            if self.socket.exists():
                return
            if self.daemon.poll() is not None:
                break
            time.sleep(0.05)
        raise TimeoutError(f"no socket: {(self.home / 'log').read_text()}")


def has_libvirtd():
    return shutil.which("libvirtd") is not None and (DRIVERS / "libvirt_driver_nwfilter.so").exists()


def take(name, seed, frames, libvirtd=False):
    """The verdicts of one engine on the frames of one filter."""
    with Engine(name, libvirtd) as engine:
        out, words = engine.home / "verdicts.json", engine.home / "words"
        arguments = ["verdicts.py", "--netns", engine.netns, "--filter", str(FILTERS / f"{name}.xml"), "--close",
                     "--uri", f"nwfilter+unix:///system?socket={engine.socket}", "--frames", str(frames),
                     "--seed", str(seed), "--out", str(out)]
        arguments += [word for parameter in PARAMETERS for word in ("--param", parameter)]
        arguments += ["--br-netfilter"] if libvirtd else []
        if child(arguments, words) != 0 or not out.exists():
            raise Refused(words.read_text().strip())
        return json.loads(out.read_text())["rows"]


def child(arguments, words):
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
        verdicts.main()
        code = 0
    except SystemExit as end:
        print(end.code or "")
        code = 0 if end.code in (None, 0) else 1
    except BaseException as fault:
        print(repr(fault))
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(*command):
    subprocess.run([str(word) for word in command], check=True)
