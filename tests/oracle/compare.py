"""Frames of many filters through our daemon and through libvirt; every difference must have its reason.

Prints a row a filter: frames judged by both, how many agree and differ, and why the others differ; and one line of all
filters at the end. Fails where a difference has no reason, or where the frames of the two sides are not the same.
"""
import argparse
import collections
import gzip
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading

import case
import engine
import explain

OURS, RECORD, LIBVIRT = "ours", "record", "libvirt"
KERNEL_LACKS = ("refused by the kernel", "kernel")
NOT_EXPLAINED = "NOT EXPLAINED"


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
    except engine.Refused as words:
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
for program in nwfilter nwfilterd; do strip -o /run/fast/$program {pathlib.Path(os.environ["NWFILTERD"]).resolve().parent}/$program; done
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
        told, _ = machine.communicate(timeout=options.patience)
    except subprocess.TimeoutExpired:
        os.killpg(machine.pid, signal.SIGKILL)
        told = "out of patience"
    silent = [one for one in wanted if not folder.get(*one)[0]]
    if silent:
        said = log.read_text() if log.exists() else ""
        print(f"the machine did not answer {len(silent)} of {len(wanted)}: {(said + told)[-2000:]}")


def judge(options, folder, name, seed, wanted, seen):
    """How many frames were compared and why some differ, and the frames that differ for no reason."""
    if [known(row) for row in wanted] != [known(row) for row in seen]:
        return None
    both = [at for at, pair in enumerate(zip(wanted, seen)) if all(row["verdict"] != "undeliverable" for row in pair)]
    differ = [at for at in both if wanted[at]["verdict"] != seen[at]["verdict"]]
    found = reasons(options, folder, name, seed, wanted, seen, differ)
    counts = collections.Counter(found[at] or NOT_EXPLAINED for at in differ)
    shown = [at for at in differ if not found[at]][:options.show]
    return len(both), counts, [f"    wanted {wanted[at]['verdict']}, seen {seen[at]['verdict']}: frame {at}, "
                               f"{wanted[at]['label']} {wanted[at]['frame']}" for at in shown]


def known(row):
    """What tells a frame from others: all but the end of ICMP messages, some of which carry the time of day."""
    frame = bytes.fromhex(row["frame"])
    tag = 4 if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else 0
    icmp = frame[12 + tag:14 + tag] == b"\x08\x00" and frame[23 + tag] == 1
    return row["way"], frame[:36 + tag] if icmp else frame


def reasons(options, folder, name, seed, wanted, seen, differ):
    """Why each of the frames was judged differently; None where there is no reason."""
    rules = case.rules(engine.FILTERS / f"{name}.xml", engine.PARAMETERS)
    found = {at: explain.reason(rules, wanted, at, seen, options.backend) for at in differ}
    if options.backend == "nftables" and differ:
        other = folder.take(f"{LIBVIRT}-iptables", name, seed, "here")
        with_us = [at for at in differ if not isinstance(other, str) and explain.agrees(rules, other, at, seen)]
        return {at: found[at] if at in with_us else None for at in differ}
    if side_of(options) != RECORD:
        return proven(options, name, seed, wanted, seen, found)
    if all(found.values()) or not engine.is_there(engine.HOST):
        return found
    # The verdicts were written down one filter after the other, and connections live longer than a filter: what the
    # record alone says, a libvirtd that begins afresh may not say.
    afresh = folder.take(LIBVIRT, name, seed, "here")
    for at in [at for at in differ if not found[at] and not isinstance(afresh, str)]:
        if explain.agrees(rules, afresh, at, seen):
            found[at] = "only in the record (a libvirtd begun afresh is with us)"
    return found


def proven(options, name, seed, wanted, seen, found):
    """The reasons that stand. What is put down to the copies that the host got must be gone when it gets none."""
    blamed = [at for at in found if found[at] == explain.HEARD_BY_HOST]
    if not blamed:
        return found
    heard = {(row["way"], row["frame"]) for row, _ in case.heard(wanted) if row["verdict"] == "drop"}
    heard -= {(wanted[at]["way"], wanted[at]["frame"]) for at in blamed}
    calm = engine.take(name, seed, options.frames, reference(options, side_of(options)), heard)
    return found | {at: None for at in blamed if calm[at]["verdict"] != seen[at]["verdict"]}


class Table:
    """Rows as they come, and what they add up to."""

    def __init__(self):
        self.frames, self.counts, self.compared, self.left_out, self.well = 0, collections.Counter(), set(), set(), True
        print(f"{'filter':16} {'seed':>4} {'kernel':7} {'frames':>6} {'agree':>6} {'differ':>6}  explained by")

    def row(self, name, seed, place, words):
        print(f"{name:16} {seed:>4} {place:7} {words}", flush=True)

    def without(self, name, seed, place, words, well=True):
        self.left_out.add((name, seed))
        self.well &= well
        self.row(name, seed, place, f"     - {words}")

    def judged(self, name, seed, place, frames, counts, shown):
        differ = sum(counts.values())
        self.frames += frames
        self.counts += counts
        self.compared.add(name)
        self.well &= not counts[NOT_EXPLAINED]
        self.row(name, seed, place, f"{frames:>6} {frames - differ:>6} {differ:>6}  {listed(counts)}")
        print(*shown, sep="\n", end="\n" if shown else "")

    def summary(self, against, seeds):
        differ = sum(self.counts.values())
        explained = self.counts - collections.Counter({NOT_EXPLAINED: differ})
        names = sorted({name for name, _ in self.left_out})
        left_out = [name if all((name, seed) in self.left_out for seed in seeds) else
                    ":".join([name, *(str(seed) for seed in seeds if (name, seed) in self.left_out)]) for name in names]
        print(f"against {against}: {len(self.compared)} filters, seeds {', '.join(map(str, seeds))}, {self.frames} frames: "
              f"{self.frames - differ} agree, {differ} differ ({listed(explained) or 'none'}), "
              f"{self.counts[NOT_EXPLAINED]} not explained; not compared: {' '.join(left_out) or 'none'}")


def listed(counts):
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))


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


def tell(options, folder, pairs):
    side, table = side_of(options), Table()
    for pair in pairs:
        (place, ours), (_, theirs) = folder.get(OURS, *pair), folder.get(side, *pair)
        if not place or lacks(ours) or theirs is None:
            table.without(*pair, "here", "this kernel lacks what it needs")
        elif isinstance(theirs, str):
            table.without(*pair, place, f"libvirt refused: {theirs[-160:]!r}")
        elif isinstance(ours, str):
            table.without(*pair, place, f"WE REFUSED: {ours[-300:]!r}", False)
        elif judged := judge(options, folder, *pair, theirs, ours):
            table.judged(*pair, place, *judged)
        else:
            table.without(*pair, place, "the two sides did not see the same frames", False)
    table.summary(side, options.seed)
    return table.well


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--libvirtd", action="store_true", help="verdicts of this host's libvirtd are taken now")
    parser.add_argument("--libvirt", type=lambda path: pathlib.Path(path).resolve(), metavar="ROOT",
                        help="verdicts of the libvirtd in a chroot are taken now")
    parser.add_argument("--backend", choices=("iptables", "nftables"), default="iptables", help="of the libvirtd in the chroot")
    parser.add_argument("--vm", action="store_true", help="what this kernel can not hold is tried in a machine")
    parser.add_argument("--keep", type=pathlib.Path, help="folder of verdicts, which are not taken again where they are there")
    parser.add_argument("--patience", type=int, default=3600, help="seconds that the machine may take")
    parser.add_argument("--show", type=int, default=8, help="unexplained frames to show, a filter")
    parser.add_argument("--take", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("filters", nargs="*")
    options = parser.parse_args()
    if options.take:
        for side, name, seed in (word.split(":") for word in options.filters):
            Folder(options.take, options).take(side, name, seed, "machine")
        return
    options.seed = options.seed or [7]
    if side_of(options) == RECORD and (set(options.seed) != {7} or options.backend != "iptables"):
        sys.exit("only seed 7 of the iptables back end is written down; the rest needs --libvirtd or --libvirt")
    asked = options.libvirt or options.libvirtd
    if asked and not engine.is_there(reference(options, side_of(options))):
        sys.exit(f"no libvirtd with its nwfilter driver in {options.libvirt or '/'}")
    names = options.filters or sorted(path.stem for path in engine.FILTERS.glob("*.xml"))
    pairs = [(name, seed) for seed in options.seed for name in names]
    with tempfile.TemporaryDirectory(prefix="oracle-", dir="target") as passing:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        folder = Folder(options.keep or pathlib.Path(passing), options)
        take_all(options, folder, pairs)
        sys.exit(0 if tell(options, folder, pairs) else 1)


if __name__ == "__main__":
    main()
