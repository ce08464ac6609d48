"""Try random planners over 200 epochs: no exception once they are made, and the guarantees.

Usage: python -m tests.stress.planners [--jobs 20000] [--seed 0] [--constrained]

Each epoch that is looked at is checked in plain Python: nothing lost, nothing twice unless the
order says so or the plan lists it; never over budget; the same count in every epoch and on
every rank; with --constrained, under random constraints inside batches, these too. Ctrl-C prints
what was seen so far.
"""

import argparse
import itertools
import sys
import time
import warnings
from collections import Counter

import numpy as np

import batchwright as bw
from tests import reference
from tests.stress.planner_jobs import Job, random_job

EPOCHS = 200
LOOKED_AT = 8
"""Epochs of 200 that are looked at."""

WHOLE = 100
"""Of every job of so many, all epochs are."""

LARGEST_GROUP = 3

EVERY_SAMPLE_ONCE = {"sequence", "long and short in turn", "pools"}


class WrongPlanError(AssertionError):
    """A guarantee that was not kept."""


def check_job(job: Job, seed: int, *, constrained: bool = False) -> str:
    """Plan some of 200 epochs and check each; return what became of the job.

    Raises:
        WrongPlanError: If a guarantee was not kept.
    """
    rng = np.random.default_rng([seed, 1])
    last = str(rng.choice(["short", "short", "drop", "repeat"]))
    constraints = _constraints(rng, len(job.lengths)) if constrained else {}
    try:
        planner = job.planner(last=last, **constraints)
    except bw.BatchwrightError:
        return "refused"
    drawn = sorted({0, 1, EPOCHS - 1, *rng.integers(0, EPOCHS, LOOKED_AT - 3).tolist()})
    epochs = drawn if seed % WHOLE else range(EPOCHS)
    seen = []
    for epoch in epochs:
        if job.table is not None and epoch:
            size = len(job.lengths)
            job.table.record(np.arange(size), np.random.default_rng(epoch).random(size))
        plan = planner(epoch)
        seen.append(_check_samples(job, planner, plan, epoch, last))
        _check_budget(job, plan)
        _check_counts(planner, plan, last)
        if constraints:
            _check_constraints(plan, constraints)
    return max(seen)


def _constraints(rng, size):
    """Draw one constraint or several, of which groups that stay together are neighbours."""
    groups = np.repeat(np.arange(size), rng.integers(1, LARGEST_GROUP + 1, size))[:size]
    drawn = {
        "within": rng.integers(0, rng.choice([1, 2, 5]), size),
        "unique": rng.integers(-1, rng.choice([1, 5, size]), size),
        "together": groups,
    }
    if rng.random() < 0.5:
        drawn["within"] = drawn["within"][groups]
    names = rng.choice(list(drawn), rng.integers(1, 4), replace=False)
    return {str(name): drawn[name] for name in names}


def _check_constraints(plan, constraints):
    given = {name: values.tolist() for name, values in constraints.items()}
    if broken := reference.broken([batch.tolist() for batch in plan], **given):
        raise WrongPlanError(f"constraints are broken: {broken[:3]}")


def _check_samples(job, planner, plan, epoch, last):
    """Guarantee 1: what is in the plan, and what it lists, is what the order gave."""
    totals = job.lengths if job.lengths.ndim == 1 else job.lengths.sum(axis=1)
    ordered = planner.order(totals, seed=planner.seed, epoch=epoch)
    draws = getattr(ordered, "may_defer", False)
    given = Counter(np.asarray(getattr(ordered, "members", ordered)).tolist())
    oversize = set(plan.dropped.get("oversize", np.empty(0)).tolist())
    if oversize and draws and planner._computed is not None:
        given = _drawn(planner, epoch)
    limit = plan.layout.max_length if plan.starts is not None else None
    expected = Counter()
    for sample, times in given.items():
        if sample not in oversize:
            pieces = 1 if limit is None else -(-int(job.lengths[sample]) // limit)
            expected[sample] = times * pieces
    deferred, left_out = (
        Counter(plan.dropped.get(each, np.empty(0, int)).tolist()) for each in ("deferred", "last")
    )
    repeated = Counter(plan.repeated.tolist())
    if Counter(plan.indices.tolist()) + deferred + left_out != expected + repeated:
        raise WrongPlanError("samples of the plan and its lists are not those of the order")
    if left_out and repeated and not draws:
        raise WrongPlanError("samples are left out, others repeated")
    if deferred and repeated:
        raise WrongPlanError("samples are deferred, others repeated")
    if left_out and last != "drop":
        raise WrongPlanError('samples dropped without last="drop"')
    if plan.starts is not None and not draws and not repeated and max(given.values()) == 1:
        entries = list(zip(plan.indices.tolist(), plan.starts.tolist(), strict=True))
        if len(set(entries)) != len(entries):
            raise WrongPlanError("a piece is there twice")
    if set(plan.dropped) - {"oversize", "deferred", "last"}:
        raise WrongPlanError("an unknown reason")
    once = isinstance(planner.order, bw.Sequential | bw.Shuffle | bw.Blocks)
    if once or getattr(planner.order, "kind", None) in EVERY_SAMPLE_ONCE:
        _check_policy(planner, expected, deferred, left_out, repeated, last)
    return "repeated" if repeated else "left out" if left_out else "deferred" if deferred else "ok"


def _drawn(planner, epoch):
    """Count what an order draws where it draws only from samples within the budget."""
    parts = planner._functions.parts(epoch).each
    found = [each.entries(each.take(np.arange(each.counts.sum()))) for each in parts]
    return Counter(np.concatenate([each.samples for each in found]).tolist())


def _check_policy(planner, expected, deferred, left_out, repeated, last):
    """Of an order that gives every sample once: only what the policy has to is added or left out."""
    update = planner.world_size * planner.accumulate
    most = {"short": planner.world_size, "repeat": update, "drop": 1}[last]
    if planner._constraints is not None:  # groups that stay together are repeated whole
        most *= LARGEST_GROUP
    if planner.step_tokens is None and sum(repeated.values()) >= most:
        raise WrongPlanError(f"{sum(repeated.values())} samples repeated")
    if deferred:
        raise WrongPlanError("samples deferred by an order that does not draw")
    if left_out and sum(expected.values()) - sum(left_out.values()) < len(planner):
        raise WrongPlanError("too many samples left out")


def _check_budget(job, plan):
    """Guarantee 2: no batch over budget, counted sample by sample."""
    layout = plan.layout
    entries = plan.entry_lengths(job.lengths).tolist()
    for start, stop in itertools.pairwise(plan.offsets.tolist()):
        batch = entries[start:stop]
        columns = list(zip(*batch, strict=True)) if isinstance(batch[0], list) else [batch]
        measure = reference.packed_tokens if layout.kind == "packed" else reference.padded_tokens
        taken = sum(measure(column, layout.multiple) for column in columns)
        if layout.budget is not None and taken > layout.budget:
            raise WrongPlanError(f"a batch of {taken} tokens in a budget of {layout.budget}")
        if layout.max_samples is not None and len(batch) > layout.max_samples:
            raise WrongPlanError(f"a batch of {len(batch)} samples")
        if layout.shapes is not None and not any(
            len(batch) <= rows
            and all(
                max(column) <= edge
                for column, edge in zip(columns, np.atleast_1d(edges).tolist(), strict=True)
            )
            for rows, edges in layout.shapes
        ):
            raise WrongPlanError("a batch that no shape holds")


def _check_counts(planner, plan, last):
    """Guarantee 3: the same count in every epoch and on every rank."""
    world_size, update = planner.world_size, planner.world_size * planner.accumulate
    if len(plan) != len(planner) or not len(plan) or len(plan) % world_size:
        raise WrongPlanError(f"{len(plan)} batches, planned {len(planner)}, for {world_size} ranks")
    if last != "short" and len(plan) % update:
        raise WrongPlanError(f"{len(plan)} batches, no whole updates of {update}")
    shards = [plan.shard(rank, world_size) for rank in range(world_size)]
    if len({len(shard) for shard in shards}) > 1:
        raise WrongPlanError("ranks with other counts")
    if sum((Counter(shard.indices.tolist()) for shard in shards), Counter()) != Counter(
        plan.indices.tolist()
    ):
        raise WrongPlanError("shards are not the plan")


def run(jobs: int, first: int, *, constrained: bool = False, say=print) -> int | None:
    """Check jobs; return the seed of the smallest failing one, None if there is none."""
    seen: Counter[str] = Counter()
    began = time.monotonic()
    smallest: tuple[int, int, str] | None = None
    try:
        for seed in range(first, first + jobs):
            job = random_job(seed)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    seen[check_job(job, seed, constrained=constrained)] += 1
            except Exception as error:  # noqa: BLE001 (whatever it is, it is what is looked for)
                seen["FAILED"] += 1
                said = f"{type(error).__name__}: {error}"
                if smallest is None or job.lengths.size < smallest[0]:
                    smallest = (job.lengths.size, seed, said)
                say(f"seed {seed}: {said}")
            if (seed - first + 1) % 500 == 0:
                pace = (time.monotonic() - began) / (seed - first + 1)
                say(f"{seed - first + 1} jobs, {1000 * pace:.0f} ms each: {dict(seen)}")
    except KeyboardInterrupt:
        say("interrupted")
    say(f"{sum(seen.values())} jobs: {dict(seen)}")
    if smallest is None:
        return None
    say(f"smallest: --seed {smallest[1]} --jobs 1\n{smallest[2]}\n{random_job(smallest[1])}")
    return smallest[1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--constrained", action="store_true")
    given = parser.parse_args()
    sys.exit(run(given.jobs, given.seed, constrained=given.constrained) is not None)
