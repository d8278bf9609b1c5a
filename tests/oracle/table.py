"""The table that is printed: a row for each filter and seed as it comes, and a line of what they add up to."""
import collections

NOT_EXPLAINED = "NOT EXPLAINED"


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
