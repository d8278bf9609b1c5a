"""The verdicts of both sides, each taken once: here where this kernel can hold the filter, else in a machine.

A side is our daemon, the record of what libvirt did, this host's libvirtd, or a back end of the libvirtd of a chroot.
"""
import gzip
import json
import os
import pathlib
import signal
import subprocess
import threading

import engine

OURS, RECORD, LIBVIRT = "ours", "record", "libvirt"
KERNEL_LACKS = ("refused by the kernel", "kernel")


class Folder:
    """Verdicts, or the words of a refusal: a file for each side, filter and seed."""

    def __init__(self, path, options):
        self.path, self.options = path.resolve(), options

    def file(self, side, name, seed):
        return self.path / f"{name}.{seed}.{self.options.frames}.{side}.json"

    def get(self, side, name, seed):
        path = self.file(side, name, seed)
        return json.loads(path.read_text()) if path.exists() else (None, None)

    def put(self, side, name, seed, place, answer):
        path = self.file(side, name, seed)
        path.with_suffix(".new").write_text(json.dumps((place, answer)))
        path.with_suffix(".new").rename(path)

    def take(self, side, name, seed, place):
        """What the side says, which is not asked again where an answer is kept."""
        found, answer = self.get(side, name, seed)
        if not found:
            answer = taken(self.options, side, name, seed)
            self.put(side, name, seed, place, answer)
        return answer


def taken(options, side, name, seed):
    if side == RECORD:
        path = engine.ORACLE / "reference" / f"{name}.json.gz"
        rows = json.loads(gzip.decompress(path.read_bytes()))["rows"] if path.exists() else None
        return rows[:options.frames] if rows else "no verdicts of libvirt"
    try:
        return engine.take(name, seed, options.frames, None if side == OURS else reference(options, side))
    except (engine.Refused, TimeoutError) as words:
        return str(words)


def reference(options, side):
    return engine.HOST if side == LIBVIRT else engine.Libvirt(options.libvirt, side.removeprefix(f"{LIBVIRT}-"))


def side_of(options):
    if options.libvirt:
        return f"{LIBVIRT}-{options.backend}"
    return LIBVIRT if options.libvirtd else RECORD


def lacks(answer):
    return isinstance(answer, str) and any(word in answer for word in KERNEL_LACKS)


def held_here(name):
    """Whether this kernel can hold a filter, which one frame tells as well as many."""
    try:
        engine.take(name, 0, 1)
    except (engine.Refused, TimeoutError) as words:
        return not lacks(str(words))
    return True


def take_in_machine(options, folder, wanted):
    """Verdicts under the kernel of a distribution, one boot for all; they come back through the folder."""
    kernel = sorted(pathlib.Path("/boot").glob("vmlinuz-*"))
    vng = pathlib.Path("target/vm-tools/bin/vng").resolve()
    if not kernel or not vng.exists():
        print("skipped: no machine to boot (scripts/setup --vm makes one)")
        return
    script, log = folder.path / "inside", folder.path / "log"
    words = " ".join(":".join(map(str, one)) for one in wanted)
    chroot = f"--libvirt {options.libvirt} --backend {options.backend}" if options.libvirt else ""
    script.write_text(f"""#!/bin/bash
. {pathlib.Path("vm-tests/prepare").resolve()}
for program in nwfilter nwfilterd; do
    strip -o /run/fast/$program {pathlib.Path(os.environ["NWFILTERD"]).resolve().parent}/$program
done
export NWFILTERD=/run/fast/nwfilterd
export NWFILTER_ORACLE={engine.ORACLE} NWFILTER_LIBVIRT_DATA={engine.FILTERS.parent} NWFILTER_ORACLE_PATIENCE=0.01
cd {pathlib.Path.cwd()}
tests/oracle/run --frames {options.frames} {chroot} --take {folder.path} {words} >{log} 2>&1
""")
    script.chmod(0o755)
    command = [vng, "--disable-kvm", "-r", kernel[-1], "--memory", "1G", f"--rwdir={folder.path}"]
    command += [f"--rodir={options.libvirt}"] if options.libvirt else []
    machine = subprocess.Popen([*command, "--", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, start_new_session=True,
                               env=os.environ | {"PATH": f"{vng.parent}:{os.environ['PATH']}"})
    try:
        answered, _ = machine.communicate(timeout=options.patience)
    except subprocess.TimeoutExpired:
        os.killpg(machine.pid, signal.SIGKILL)
        answered = "out of patience"
    silent = [one for one in wanted if not folder.get(*one)[0]]
    if silent:
        said = log.read_text() if log.exists() else ""
        print(f"the machine did not answer {len(silent)} of {len(wanted)}: {(said + answered)[-2000:]}")


def take_all(options, folder, pairs):
    """Verdicts of both sides on all pairs of a filter and a seed, as far as a kernel is there that can hold the filter."""
    side = side_of(options)
    held = {name for name in {name for name, _ in pairs} if held_here(name)}
    lacking = [pair for pair in pairs if pair[0] not in held]
    # The iptables back end has its connections from br_netfilter, which any kernel has; rules of a bridge have not.
    apart = lacking if options.backend == "nftables" else []
    asked = [(OURS, *pair) for pair in lacking] + [(side, *pair) for pair in apart]
    asked = [one for one in asked if not folder.get(*one)[0]]
    machine = threading.Thread(target=take_in_machine, args=(options, folder, asked))
    if options.vm and asked:
        machine.start()
    for pair in pairs:
        if pair not in lacking:
            folder.take(OURS, *pair, "here")
        if pair not in apart:
            folder.take(side, *pair, "here")
    if machine.is_alive():
        machine.join()
