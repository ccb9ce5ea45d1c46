"""The faults of a seed: what happens to whom, when, and for how long. Nothing here touches a cluster.

The generator's `random()` is the only thing used of Python's `random`, because its numbers are the same in every version.
"""

import random

# Never shorter than this between two faults, so that each is one and not the tail of the other.
GAP_S_MIN = 1.0
# Faults come in the first part of their slot and have ended in the second, so that no two overlap.
START_PART, END_PART = 0.3, 0.7

PLAIN = ("kill-worker", "kill-node", "stop-node")
NETNS = ("partition", "slow")


class Fault:
    """One fault. `last_s` is how long it lasts; 0 for what is over at once."""

    def __init__(self, at_s, kind, target, last_s=0.0, delay_ms=0, loss_percent=0.0):
        self.at_s, self.kind, self.target, self.last_s = at_s, kind, target, last_s
        self.delay_ms, self.loss_percent = delay_ms, loss_percent

    def __str__(self):
        words = f"{self.at_s:9.3f} s  {self.kind:<11}  {self.target}"
        if self.kind == "slow":
            words += f"  {self.delay_ms} ms there and back, {self.loss_percent:g} % lost"
        return words + (f"  for {self.last_s:.3f} s" if self.last_s else "")


class Chance:
    """Draws that come out the same in every version of Python."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def between(self, low, high):
        return low + (high - low) * self.random()

    def of(self, items):
        return items[min(int(self.random() * len(items)), len(items) - 1)]


def schedule(topology, seed, count, seconds, links):
    """`count` faults over `seconds`; `links` are pairs of nodes, empty where links cannot be disturbed."""
    chance = Chance(f"sensorium chaos {seed}")
    nodes = [node["name"] for node in topology["nodes"]]
    slot = seconds / count if count else seconds
    faults = []
    for number in range(count):
        kind = chance.of(PLAIN + NETNS if links else PLAIN)
        at_s = slot * (number + chance.between(0, START_PART))
        longest = slot * (number + END_PART) - at_s
        target = chance.of([f"{a}-{b}" for a, b in links]) if kind in NETNS else chance.of(nodes)
        fault = Fault(round(at_s, 3), kind, target)
        low, high = {"kill-worker": (0, 0), "kill-node": (0.2, 2), "stop-node": (0.3, 3), "partition": (0.3, 3), "slow": (1, 4)}[kind]
        fault.last_s = round(min(chance.between(low, high), longest), 3)
        if kind == "slow":
            fault.delay_ms = round(chance.between(20, 200))
            fault.loss_percent = round(chance.between(0, 5), 1)
        faults.append(fault)
    return faults
