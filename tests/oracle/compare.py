"""Frames of many filters through our daemon and through libvirt; every difference must have its reason.

Prints a row a filter: frames judged by both, how many agree and differ, and which decision explains the differences.
Ends with an error where a difference has no reason, or where the frames of the two sides are not the same.
"""
import argparse
import collections
import gzip
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import engine
import explain

KERNEL_LACKS = ("refused by the kernel", "kernel")


def written_down(name):
    path = engine.ORACLE / "reference" / f"{name}.json.gz"
    return json.loads(gzip.decompress(path.read_bytes()))["rows"] if path.exists() else None


def taken(options, name, seed, libvirtd):
    """Verdicts, or the words with which the engine refused the filter."""
    try:
        return engine.take(name, seed, options.frames, libvirtd)
    except (engine.Refused, TimeoutError) as words:
        return str(words)


def take_all(options, folder, wanted):
    for name, seed in wanted:
        (folder / f"{name}.{seed}.json").write_text(json.dumps(taken(options, name, seed, False)))


def take_in_machine(options, wanted):
    """Ours under the kernel of a distribution, one boot for all; the verdicts come back through a folder."""
    kernel = sorted(pathlib.Path("/boot").glob("vmlinuz-*"))
    vng = pathlib.Path("target/vm-tools/bin/vng").resolve()
    if not kernel or not vng.exists():
        print("skipped: no machine to boot (scripts/setup --vm makes one)")
        return {}
    folder = pathlib.Path(tempfile.mkdtemp(prefix="oracle-vm-", dir="target")).resolve()
    script = folder / "inside"
    words = " ".join(f"{name}:{seed}" for name, seed in wanted)
    script.write_text(f"""#!/bin/bash
. {pathlib.Path("vm-tests/prepare").resolve()}
strip -o /run/fast/nwfilterd {pathlib.Path(os.environ["NWFILTERD"]).resolve()}
export NWFILTERD=/run/fast/nwfilterd
export NWFILTER_ORACLE={engine.ORACLE} NWFILTER_LIBVIRT_DATA={engine.FILTERS.parent} NWFILTER_ORACLE_PATIENCE=0.03
cd {pathlib.Path.cwd()}
tests/oracle/run --frames {options.frames} --take {folder} {words} >{folder}/log 2>&1
""")
    script.chmod(0o755)
    environment = os.environ | {"PATH": f"{vng.parent}:{os.environ['PATH']}"}
    done = subprocess.run([vng, "--disable-kvm", "-r", kernel[-1], "--memory", "1G", f"--rwdir={folder}", "--", script],
                          env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=options.patience)
    answers = {}
    for name, seed in wanted:
        path = folder / f"{name}.{seed}.json"
        if path.exists():
            answers[name, seed] = json.loads(path.read_text())
    if len(answers) < len(wanted):
        log = folder / "log"
        words = log.read_text() if log.exists() else done.stderr
        print(f"the machine answered {len(answers)} of {len(wanted)}: {words[-2000:]}")
    else:
        shutil.rmtree(folder)
    return answers


def judge(options, name, seed, wanted, seen):
    """One row of the table, and whether all is well."""
    if [known(row) for row in wanted] != [known(row) for row in seen]:
        return f"{len(wanted):>6} the two sides did not see the same frames", False
    both = [at for at, pair in enumerate(zip(wanted, seen)) if all(row["verdict"] != "undeliverable" for row in pair)]
    differ = [at for at in both if wanted[at]["verdict"] != seen[at]["verdict"]]
    found = reasons(options, name, seed, wanted, seen, differ)
    unexplained = [at for at in differ if not found[at]]
    counts = collections.Counter(found[at] or "NOT EXPLAINED" for at in differ)
    told = ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items()))
    rows = [f"{len(both):>6} {len(both) - len(differ):>6} {len(differ):>6}  {told}"]
    for at in unexplained[:options.show]:
        row = wanted[at]
        rows.append(f"    wanted {row['verdict']}, seen {seen[at]['verdict']}: {row['label']} {row['frame']}")
    return "\n".join(rows), not unexplained


def known(row):
    """What tells a frame from others: all but the end of ICMP messages, some of which carry the time of day."""
    frame = bytes.fromhex(row["frame"])
    tag = 4 if frame[12:14] in (b"\x81\x00", b"\x88\xa8") else 0
    icmp = frame[12 + tag:14 + tag] == b"\x08\x00" and frame[23 + tag] == 1
    return row["way"], frame[:36 + tag] if icmp else frame


def reasons(options, name, seed, wanted, seen, differ):
    """Why each of the frames was judged differently; None where there is no reason."""
    rules = explain.rules(engine.FILTERS / f"{name}.xml", engine.PARAMETERS)
    found = {at: explain.reason(rules, wanted, at, seen) for at in differ}
    if all(found.values()) or options.libvirtd or not engine.has_libvirtd():
        return found
    # The verdicts were written down one filter after the other, and connections live longer than a filter: what the
    # record alone says, a libvirtd that begins afresh may not say.
    afresh = taken(options, name, seed, True)
    for at in [at for at in differ if not found[at] and not isinstance(afresh, str)]:
        if afresh[at]["verdict"] == seen[at]["verdict"] or explain.reason(rules, afresh, at, seen):
            found[at] = "only in the record (a libvirtd begun afresh is with us)"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--libvirtd", action="store_true", help="libvirt's verdicts are taken now")
    parser.add_argument("--vm", action="store_true", help="what this kernel can not hold is tried in a machine")
    parser.add_argument("--patience", type=int, default=3600, help="seconds that the machine may take")
    parser.add_argument("--show", type=int, default=8, help="unexplained frames to show, a filter")
    parser.add_argument("--take", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("filters", nargs="*")
    options = parser.parse_args()
    if options.take:
        return take_all(options, options.take, [word.split(":") for word in options.filters])
    if options.seed and set(options.seed) != {7} and not options.libvirtd:
        sys.exit("only the verdicts of seed 7 are written down; other seeds need --libvirtd")
    names = options.filters or sorted(path.stem for path in engine.FILTERS.glob("*.xml"))
    pairs = [(name, seed) for seed in options.seed or [7] for name in names]
    seen = {pair: taken(options, *pair, False) for pair in pairs}
    lacking = [pair for pair in pairs if isinstance(seen[pair], str) and any(word in seen[pair] for word in KERNEL_LACKS)]
    machine = set()
    if options.vm and lacking:
        answers = take_in_machine(options, lacking)
        machine = set(answers)
        seen.update(answers)
    well = True
    print(f"{'filter':16} {'seed':>4} {'kernel':7} {'frames':>6} {'agree':>6} {'differ':>6}  explained by")
    for name, seed in pairs:
        wanted = taken(options, name, seed, True) if options.libvirtd else written_down(name)
        ours = seen[name, seed]
        if wanted is None:
            row, fine = "     - no verdicts of libvirt", True
        elif isinstance(wanted, str):
            row, fine = f"     - libvirt refused: {wanted[-120:]!r}", True
        elif isinstance(ours, str) and (name, seed) in lacking and (name, seed) not in machine:
            row, fine = "     - this kernel lacks what it needs", True
        elif isinstance(ours, str):
            row, fine = f"     - WE REFUSED: {ours[-300:]!r}", False
        else:
            row, fine = judge(options, name, seed, wanted, ours)
        well &= fine
        print(f"{name:16} {seed:>4} {'machine' if (name, seed) in machine else 'here':7} {row}", flush=True)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
