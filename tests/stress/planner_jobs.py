"""Random planners: every order, batching, remainder and world, aimed at the edges of each."""

from dataclasses import dataclass
from typing import Any

import numpy as np

import batchwright as bw
from batchwright.order import Pools

LONGEST = 60


@dataclass(frozen=True, eq=False)
class OwnOrder:
    """An order of a user's own: its epochs differ in sequence, in pools, or in their samples."""

    kind: str

    def __call__(self, lengths, *, seed, epoch):  # noqa: PLR0911 (a kind each)
        rng = np.random.default_rng([seed, epoch])
        size = lengths.size
        if self.kind == "sequence":
            return rng.permutation(size)
        if self.kind == "long and short in turn":  # now and then, which takes many batches
            ordered = np.argsort(lengths, kind="stable")
            if epoch % 3 != 1:
                return ordered
            turns = np.empty(size, dtype=np.int64)
            turns[::2], turns[1::2] = ordered[: -(-size // 2)], ordered[: -(-size // 2) - 1 : -1]
            return turns
        if self.kind == "pools":
            borders = np.unique(rng.integers(1, size + 1, 1 + epoch % 7))
            return Pools(rng.permutation(size), np.unique([0, *borders, size]))
        if self.kind == "subset":
            return rng.permutation(size)[: int(rng.integers(1, size + 1))]
        if self.kind == "growing":
            return rng.permutation(min(size, 1 + epoch))
        return rng.integers(0, size, size)  # draws: one sample more than once


@dataclass(frozen=True)
class OwnBatching:
    """A batching of a user's own, the number of whose batches is up to chance."""

    chance: float

    def __call__(self, order, lengths, rng):
        cuts = np.flatnonzero(rng.random(order.size - 1) < self.chance) + 1
        return bw.Plan(order, np.concatenate(([0], cuts, [order.size])))


@dataclass(frozen=True, eq=False)
class Job:
    """The arguments of a planner; `table` is what an order by live losses goes by."""

    lengths: np.ndarray
    options: dict[str, Any]
    table: bw.LossTable | None = None

    def planner(self, **changed):
        return bw.Planner(self.lengths, **self.options | changed)

    def __repr__(self):
        return f"lengths={self.lengths.tolist()!r}, {self.options}"


def random_job(seed: int) -> Job:
    """Draw the arguments of a planner."""
    rng = np.random.default_rng(seed)
    columns = int(rng.choice([1, 1, 1, 1, 1, 2]))
    lengths = _lengths(rng, columns)
    batching = _batching(rng, columns, int(lengths.max()))
    order, table = _order(rng, lengths, batching)
    options = {
        "batching": batching,
        "order": order,
        "seed": int(rng.integers(0, 1000)),
        "world_size": int(rng.choice([1, 1, 1, 2, 3, 4, 8])),
        "cost": rng.choice(np.array([None, None, "padded", "quadratic"], dtype=object)),
    }
    if rng.random() < 0.15:
        options["step_tokens"] = int(rng.integers(1, 3 * lengths.sum()))
    else:
        options["accumulate"] = int(rng.choice([1, 1, 2, 3, 5]))
    return Job(lengths, options, table)


def _lengths(rng, columns):
    size = int(rng.choice([rng.integers(1, 12), rng.integers(1, 40), rng.integers(20, 150)]))
    kind = rng.choice(["any", "tail", "equal", "two", "one long"])
    shape = (size,) if columns == 1 else (size, columns)
    if kind == "equal":
        values = np.full(shape, rng.integers(1, LONGEST + 1))
    elif kind == "two":
        values = rng.choice(rng.integers(1, LONGEST + 1, 2), shape)
    elif kind == "one long":
        values = rng.integers(1, 4, shape)
        values[int(rng.integers(size))] = LONGEST
    elif kind == "tail":
        values = np.clip(np.rint(rng.lognormal(2, 1, shape)), 1, LONGEST)
    else:
        values = rng.integers(1, LONGEST + 1, shape)
    return values.astype(rng.choice([np.int64, np.int32, np.uint16, np.uint64]))


def _batching(rng, columns, longest):
    # A budget of exactly the longest sample, a little above, or far above; below, a policy.
    over = str(rng.choice(["error", "error", "error", "drop", "truncate"]))
    multiple = int(rng.choice([1, 1, 1, 2, 8]))
    most = -(-longest // multiple) * multiple
    if over == "error" or columns > 1:
        budget = int(rng.choice([most, most + 1, most + rng.integers(1, 50), 4 * most, 30 * most]))
        budget *= columns
    else:
        budget = max(multiple, int(rng.integers(longest // 3 + 1, most + 1)))
    over = "error" if columns > 1 else over
    samples = rng.choice(np.array([None, None, None, 1, 2, 7], dtype=object))
    kind = rng.choice(["budget", "budget", "packing", "fixed", "buckets", "own"])
    if kind == "budget":
        return bw.TokenBudget(
            budget,
            max_samples=samples,
            pad_to_multiple_of=multiple,
            batch_size_multiple_of=int(rng.choice([1, 1, 2, 4])),
            oversize=over,
            mixing="stratified"
            if columns > 1
            else rng.choice(np.array(["stratified", "stratified", "update", 1, 3], dtype=object)),
        )
    if kind == "packing":
        method = str(rng.choice(["best_fit", "next_fit"]))
        over = "split" if over == "truncate" and rng.random() < 0.5 else over
        return bw.Packing(budget, method=method, max_samples=samples, align=multiple, oversize=over)
    if kind == "buckets":
        return bw.Buckets(
            int(rng.choice([1, 2, 4])),
            max_tokens=budget,
            max_samples=samples,
            pad_to_multiple_of=multiple,
            oversize=over,
        )
    if kind == "fixed":
        return bw.FixedSize(int(rng.choice([1, 1, 2, 3, 16])))
    return OwnBatching(float(rng.choice([0.1, 0.3, 0.9, 1.0])))


def _order(rng, lengths, batching):  # noqa: C901, PLR0911, PLR0912 (a kind each)
    size = len(lengths)
    bound = ["sequential", "own sequence"]
    kinds = [
        *("shuffle", "windows", "blocks", "blocks", "weighted", "weighted", "balanced", "mixture"),
        *("mixture", "curriculum", "curriculum", "self paced", "dropping", "own pools"),
    ]
    if not isinstance(batching, bw.Buckets):
        kinds += bound
    kind = rng.choice(kinds)
    few = int(rng.integers(1, 2 * size + 1))
    draws = rng.choice(np.array([None, few, max(1, size // 4)], dtype=object))
    if kind == "shuffle":
        return bw.Shuffle(), None
    if kind == "windows":
        return bw.Shuffle(window=int(rng.integers(1, size + 1))), None
    if kind == "sequential":
        return bw.Sequential(), None
    if kind == "blocks":
        blocks = int(rng.integers(1, size + 1))
        return bw.Blocks(blocks, open_blocks=int(rng.choice([1, 2, 3, 8]))), None
    if kind == "own pools":
        return OwnOrder("pools"), None
    if kind == "own sequence":
        kinds = ["sequence", "long and short in turn", "subset", "growing", "draws"]
        return OwnOrder(str(rng.choice(kinds))), None
    if kind == "weighted":
        weights = rng.random(size) * (rng.random(size) < 0.7)
        weights[0] = 1.0
        positive = int(np.count_nonzero(weights))
        if rng.random() < 0.5:
            draws = int(rng.integers(1, positive + 1))
            return bw.Weighted(weights, num_samples=draws, replacement=False), None
        return bw.Weighted(weights, num_samples=draws), None
    groups = rng.integers(0, int(rng.choice([1, 2, 5])), size)
    parts = int(rng.choice([1, 2, 8]))
    if kind == "balanced":
        after = int(rng.choice([0, 0, 2]))
        return bw.ClassBalanced(groups, after=after, num_samples=draws, parts=parts), None
    if kind == "mixture":
        unit = str(rng.choice(["samples", "tokens"]))
        names = np.unique(groups).tolist()
        first, last = ({name: float(rng.random() + 0.01) for name in names} for _ in range(2))
        how = [{"temperature": 2.0}, {"weights": first}, {"schedule": [(0.0, first), (1.0, last)]}]
        return (
            bw.Mixture(
                groups,
                **how[int(rng.integers(3))],
                epochs=float(rng.choice([1, 4])),
                num_samples=draws,
                parts=parts,
                unit=unit,
            ),
            None,
        )
    if kind == "curriculum":
        difficulty = rng.random(size) if rng.random() < 0.5 else lengths.reshape(size, -1).sum(1)
        return (
            bw.Curriculum(
                difficulty,
                pacing=bw.pacing.root(start=float(rng.choice([0.1, 0.5, 0.9]))),
                epochs=float(rng.choice([1, 2.5, 20])),
                parts=parts,
                direction=str(rng.choice(["easy", "hard"])),
                unit=str(rng.choice(["samples", "tokens"])),
                band=(0.0, 1.0) if rng.random() < 0.8 else (0.2, 0.7),
            ),
            None,
        )
    table = bw.LossTable(size)
    if kind == "self paced":
        rate = float(rng.choice([0.1, 0.4]))
        return bw.SelfPaced(table, noise_rate=rate, epochs=3, groups=groups), table
    return bw.UnbiasedDropping(table, drop=0.5, until=50), table
