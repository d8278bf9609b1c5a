"""Judges a domain's life: after every step the right interfaces are bound, and no spoofed frame passed. Prints a row a step."""
import json
import pathlib
import re
import sys

OUT = pathlib.Path(sys.argv[1])
FIRST, SECOND, THIRD = "clean-traffic", "no-ip-spoofing", "no-mac-spoofing"
# Step, whether it must succeed, and the filters of the interfaces that are bound at its end. The guest has no system that
# would release a device when asked: what was detached goes at the next reset, as it did with virtnwfilterd.
LIFE = [
    ("define", True, []),
    ("start", True, [FIRST]),
    ("attach-bridge", True, [FIRST, SECOND]),
    ("update-filter", True, [FIRST, FIRST]),
    ("update-param", True, [FIRST, FIRST]),
    ("link-down", True, [FIRST, FIRST]),
    ("attach-ethernet", True, [FIRST, FIRST, THIRD]),
    ("detach-ethernet", True, [FIRST, FIRST, THIRD]),
    ("detach-bridge", True, [FIRST, FIRST, THIRD]),
    ("suspend", True, [FIRST, FIRST, THIRD]),
    ("resume", True, [FIRST, FIRST, THIRD]),
    ("list", True, [FIRST, FIRST, THIRD]),    # after the restart of the qemu daemon
    ("save", True, []),
    ("restore", True, [FIRST, FIRST, THIRD]),
    ("reboot", True, [FIRST, FIRST, THIRD]),
    ("reset", True, [FIRST]),
    ("destroy", True, []),
    ("start2", True, [FIRST]),
    ("define-badfilter", True, []),           # after the guest's process has ended by itself
    ("start-badfilter", False, []),
    ("undefine", True, []),
]


def took(log):
    """Milliseconds that our daemon took, by step and call."""
    step, sent, calls = "", {}, {}
    for line in log.splitlines():
        if line.startswith("#### "):
            step = line[5:].split(":")[0]
        found = re.match(r"\[(c\d+) t=([\d.]+)\] (>>|<<) (?:REMOTE v1 )?proc=\d+ (\S+) type=(\S+) serial=(\d+)", line)
        if found:
            connection, when, way, name, _, serial = found.groups()
            if way == ">>":
                sent[connection, serial] = float(when)
            elif (connection, serial) in sent and "BINDING" in name:
                short = name.removeprefix("NWFILTER_BINDING_").lower()
                calls.setdefault(step, []).append(f"{short} {1000 * (float(when) - sent[connection, serial]):.1f}")
    return calls


def main():
    watch = json.loads((OUT / "watch.json").read_text())
    log = (OUT / "qemu-nwfilter-rpc.log").read_text()
    calls, faults = took(log), []
    print(f"{'step':27} {'rc':>2}  {'bound':58} calls, ms")
    for step, succeeds, filters in LIFE:
        sample = watch["samples"].get(step, {"rc": -1, "bindings": []})
        bound = sorted(binding[1] for binding in sample["bindings"])
        fine = (sample["rc"] == 0) == succeeds and bound == sorted(filters)
        faults += [] if fine else [f"{step}: wanted {sorted(filters)}"]
        shown = " ".join(":".join(binding) for binding in sample["bindings"])
        print(f"{step:27} {sample['rc']:>2}  {shown:58} {', '.join(calls.get(step, []))}{'' if fine else '  WRONG'}")
    if "referenced filter 'no-such-filter' is missing" not in log:
        faults.append("start-badfilter: the reason is not reported in libvirt's words")
    for step, count in watch["frames"].items():
        print(f"{step}: " + ", ".join(f"{name} {number}" for name, number in count.items()))
        if count["spoofed passed"] or not count["spoofed sent"]:
            faults.append(f"{step}: spoofed frames passed, or none was sent")
    if not watch["frames"]["update-filter"]["honest passed"]:
        faults.append("no honest frame was heard: the attack proves nothing")
    print("\n".join(faults) or "qemu-test: all is well")
    sys.exit(bool(faults))


main()
