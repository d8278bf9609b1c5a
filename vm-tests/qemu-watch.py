"""Watches a domain's life from beside it: samples the bindings at every step, and attacks while update-device runs.

The frames of the attack are written to the guest's own tap, through a copy of qemu's descriptor, so that they come from
the guest as any of its frames do. A port of the bridge hears what passes. Writes WORK/out/watch.json at the end.
"""
import ctypes
import fcntl
import glob
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

WORK = pathlib.Path(sys.argv[1])
LOG = WORK / "out/qemu-nwfilter-rpc.log"
TUNGETIFF, TUNSETIFF, TUNGETVNETHDRSZ, IFF_VNET_HDR = 0x800454D2, 0x400454CA, 0x800454D7, 0x4000
SYS_PIDFD_GETFD = 438
GUEST, BROADCAST = bytes.fromhex("525400123457"), b"\xff" * 6
# What no filter of the run lets out, and what each does as long as the guest's address is the first.
SPOOFED, HONEST = bytes([10, 66, 6, 6]), bytes([10, 0, 0, 78])
ATTACK = ("update-filter", "update-param")


def frame(source):
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 46, 1, 0, 64, 17, 0, source, bytes([10, 255, 255, 255]))
    total = sum(struct.unpack(">10H", head))
    check = ~(total + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack(">H", check) + head[12:]
    return BROADCAST + GUEST + b"\x08\x00" + head + struct.pack(">HHHH", 9, 9, 26, 0) + bytes(18)


def qemu_taps():
    """(name, own descriptor, length of the header before each frame) of every tap that a qemu of the run holds."""
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if not os.readlink(link).endswith("/net/tun"):
                continue
            pid, fd = int(link.split("/")[2]), int(link.split("/")[4])
            if b"qemu-system" not in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                continue
            own = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, os.pidfd_open(pid), fd, 0)
            if own < 0:
                continue
            answer = fcntl.ioctl(own, TUNGETIFF, bytes(40))
            flags = struct.unpack_from("H", answer, 16)[0]
            header = struct.unpack("i", fcntl.ioctl(own, TUNGETVNETHDRSZ, bytes(4)))[0] if flags & IFF_VNET_HDR else 0
            yield answer[:16].rstrip(b"\0").decode(), own, header
        except (OSError, ValueError):
            continue


def ours(name):
    """Whether the interface is in this namespace and has the MAC address of the guest's second interface."""
    try:
        return pathlib.Path(f"/sys/class/net/{name}/address").read_text().strip() == "fe:54:00:12:34:57"
    except OSError:
        return False


class Watch:
    def __init__(self):
        self.step, self.steps, self.samples, self.bindings = "before", [], {}, []
        self.counts = {step: {"spoofed sent": 0, "spoofed passed": 0, "honest sent": 0, "honest passed": 0} for step in ATTACK}
        self.over = False

    def follow(self):
        """Keeps up with the log of the run, a step at a time."""
        place = 0
        while not self.over:
            time.sleep(0.02)
            try:
                text = LOG.read_text()
            except OSError:
                continue
            for line in text[place:text.rfind("\n") + 1].splitlines():
                if line.startswith("#### "):
                    self.step = line[5:].split(":")[0]
                    self.steps.append(self.step)
                elif line.startswith("#  rc="):
                    # The line is written a moment after the step was done: the last sample is of its end.
                    self.samples[self.step] = {"rc": int(line[6:]), "bindings": self.bindings}
            place = text.rfind("\n") + 1

    def sample(self):
        uri = f"nwfilter+unix:///system?socket={WORK}/run/virtnwfilterd-sock"
        while not self.over:
            words = subprocess.run(["virsh", "-c", uri, "nwfilter-binding-list"], capture_output=True, text=True)
            if words.returncode == 0:
                self.bindings = sorted(line.split() for line in words.stdout.splitlines()[2:] if line.strip())
            time.sleep(0.1)

    def attack(self):
        # bytes of a frame by where it came from
        frames = {"spoofed": frame(SPOOFED), "honest": frame(HONEST)}
        while not self.over:
            target = next(((fd, header) for name, fd, header in qemu_taps() if ours(name)), None) if self.step in ATTACK else None
            if target is None:
                time.sleep(0.01)
                continue
            fd, header = target
            while self.step in ATTACK and not self.over:
                counts = self.counts[self.step]
                for kind in ["spoofed"] * 15 + ["honest"]:
                    try:
                        os.write(fd, bytes(header) + frames[kind])
                        counts[f"{kind} sent"] += 1
                    except BlockingIOError:
                        pass
            os.close(fd)

    def hear(self):
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", b"witness", 0x1002))
        for words in ("link set witness master br0", "link set witness up"):
            subprocess.run(["ip", *words.split()], check=True)
        while not self.over:
            data = os.read(tap, 4096)
            for kind, source in (("spoofed", SPOOFED), ("honest", HONEST)):
                if data[6:12] == GUEST and data[26:30] == source:
                    step = self.step if self.step in self.counts else ATTACK[-1]
                    self.counts[step][f"{kind} passed"] += 1

    def end(self, *_):
        self.over = True
        (WORK / "out/watch.json").write_text(json.dumps({"samples": self.samples, "frames": self.counts}, indent=1))
        os._exit(0)


watch = Watch()
signal.signal(signal.SIGTERM, watch.end)
for work in (watch.follow, watch.sample, watch.attack, watch.hear):
    threading.Thread(target=work, daemon=True).start()
while True:
    time.sleep(1)
