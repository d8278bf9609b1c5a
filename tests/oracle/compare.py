"""Frames of many filters through our daemon and through libvirt; every difference must have its reason.

Prints a row a filter: frames judged by both, how many agree and differ, and why the others differ; and one line of all
filters at the end. Fails where a difference has no reason, or where the frames of the two sides are not the same.
"""
import argparse
import collections
import pathlib
import sys
import tempfile

import case
import engine
import explain
from sides import LIBVIRT, OURS, RECORD, Folder, lacks, reference, side_of, take_all
from table import NOT_EXPLAINED, Table


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
    parser.add_argument("--backend", choices=("iptables", "nftables"), default="iptables", help="of that libvirtd")
    parser.add_argument("--vm", action="store_true", help="what this kernel cannot hold is tried in a machine")
    parser.add_argument("--keep", type=pathlib.Path, help="folder of verdicts, none of which is taken twice")
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
    if options.backend == "nftables" and not options.libvirt:
        sys.exit("--backend is of the libvirtd that --libvirt names")
    if side_of(options) == RECORD and set(options.seed) != {7}:
        sys.exit("only seed 7 is written down; other seeds need --libvirtd or --libvirt")
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
