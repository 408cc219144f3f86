"""What happens to which node when: made up front from a seed, so that a seed names a history (as far as processes repeat themselves).

A history is a number of rounds. In a round, faults overlap; at its end they stop, and the cluster has to become whole and show
everything. What may be asked of a cluster of five with two copies (DESIGN 3) is kept to here:

- at most one disk is lost, in part or whole, between two times that the cluster was whole;
- at most two nodes are down or frozen at a time, so that `minCopies` are left whatever the network does;
- one cut of the network at a time.

A change (flag, expunge) is acknowledged when one disk has it, as long as its other replica is away (docs/decisions/simulator.md
keeps that question open), so a disk is lost only when all nodes have had a moment to tell each other what they know.
"""

import itertools
from dataclasses import dataclass, field

ROUND_SECONDS = 16.0
_AWAY = 2

#: How often, of all.
_KINDS = {"kill": 5, "stop": 2, "freeze": 4, "cut off": 3, "split": 2, "cut one way": 3}
_LOSSES = {"wipe": 3, "truncate log": 2, "truncate index": 1}
PROCESS = {"kill", "stop", "freeze", *_LOSSES}


@dataclass(frozen=True)
class Fault:
    begin: float
    end: float
    kind: str
    #: Index of the node it happens to; of a cut: none.
    node: int | None = None
    #: (from, to), of a cut.
    pairs: frozenset = field(default=frozenset())
    #: In 0..1, for what is chosen when it happens: where a file ends.
    fraction: float = 0.0

    def overlaps(self, other, before=0.0):
        return self.begin - before < other.end and other.begin < self.end

    def __str__(self):
        where = f"node-{self.node + 1}" if self.node is not None else _cut_text(self.pairs)
        return f"{self.kind} {where} for {self.end - self.begin:.1f} s"


def _cut_text(pairs):
    return ", ".join(f"{source + 1}>{target + 1}" for source, target in sorted(pairs))


def make_round(random, nodes, seconds=ROUND_SECONDS):
    """The faults of a round, by their beginning."""
    faults = []
    if random.random() < 0.7:
        kind = random.choices([*_LOSSES], [*_LOSSES.values()])[0]
        begin = random.uniform(0.2, 0.6) * seconds
        faults.append(Fault(begin, begin + random.uniform(0.2, 5), kind, random.randrange(nodes), fraction=random.random()))
    for _ in range(40):
        fault = _draw(random, nodes, seconds)
        if len(faults) < 7 and _is_allowed(fault, faults):
            faults.append(fault)
    return sorted(faults, key=lambda fault: fault.begin)


def _draw(random, nodes, seconds):
    kind = random.choices([*_KINDS], [*_KINDS.values()])[0]
    begin = random.uniform(0.5, seconds - 2)
    end = min(begin + random.choice((random.uniform(0.3, 2), random.uniform(2, 9))), seconds)
    if kind in PROCESS:
        return Fault(begin, end, kind, random.randrange(nodes))
    order = random.sample(range(nodes), nodes)
    one, rest = order[:1], order[1:]
    if kind == "split":
        half = random.randrange(2, nodes - 1)
        one, rest = order[:half], order[half:]
    if kind == "cut one way" and random.random() < 0.5:
        rest = rest[:1]
    pairs = set(itertools.product(one, rest))
    if kind != "cut one way":
        pairs |= {(target, source) for source, target in pairs}
    elif random.random() < 0.5:
        pairs = {(target, source) for source, target in pairs}
    return Fault(begin, end, kind, pairs=frozenset(pairs))


def _is_allowed(fault, faults):
    away = [other for other in faults if other.kind in PROCESS and fault.overlaps(other)]
    if any(other.kind in _LOSSES and fault.begin < other.begin and fault.overlaps(other, before=0.0) for other in faults):
        return False
    if fault.kind in PROCESS:
        return len(away) < _AWAY and all(other.node != fault.node for other in away)
    return not any(other.pairs and fault.overlaps(other) for other in faults)
