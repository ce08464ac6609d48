"""Orders that draw: what they cost, that padding still goes, and that counts are exact."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

import batchwright as bw
from batchwright import pacing
from batchwright.torch import PlanBatchSampler
from benchmarks import machine
from benchmarks.claims.claim import Claim, Samples
from benchmarks.length_sets import TEXT
from benchmarks.timing import PERMUTATION, in_turns, yardsticks

ROUNDS = 7
EPOCHS = 3


def curriculum(samples: Samples) -> Iterator[Claim]:
    """Plan epochs of a curriculum over 10⁷ samples."""
    lengths = TEXT.draw(samples(10_000_000))
    difficulty = np.random.default_rng(0).random(lengths.size)
    batching = bw.TokenBudget(16_384)

    def planner(_: int = 0) -> bw.Planner:
        order = bw.Curriculum(difficulty, pacing=pacing.root(start=0.1), epochs=EPOCHS)
        return bw.Planner(lengths, batching=batching, order=order)

    made, plain = planner(), bw.Planner(lengths, batching=batching)
    tasks = {
        "an epoch": lambda turn: made(turn % EPOCHS).indices,
        "making the planner": planner,
        "a plain epoch": lambda turn: plain(turn).indices,
    }
    times = in_turns({**yardsticks(lengths), **tasks}, rounds=ROUNDS)
    subject = f"curriculum over {lengths.size:,} lengths, TokenBudget(16,384)"
    for name in tasks:
        ratio = times.ratio(name, PERMUTATION)
        yield Claim(
            subject,
            f"{name} × {PERMUTATION}",
            ratio.median,
            at_most=4.0 if name == "an epoch" else None,
            note=f"{ratio.least:.2f} to {ratio.most:.2f} in {ROUNDS} rounds; "
            f"{times.median(name):.3g} s",
            more={**asdict(ratio), "seconds": times.median(name), "at_work": times.at_work},
        )
    plan = made(1)
    efficiency = plan.stats(lengths).efficiency / plain(1).stats(lengths).efficiency
    yield Claim(subject, "efficiency × that of the plain plan", efficiency, at_least=0.97)
    sampler = PlanBatchSampler(made, rank=0, world_size=1)
    sampler.set_epoch(1)
    state = json.dumps(sampler.state_after(1_000 if len(sampler) > 1_000 else 1))
    yield Claim(subject, "state of a resume", len(state), at_most=4_096, unit="bytes")
    counts = {len(made(epoch)) for epoch in range(EPOCHS + 2)}
    yield Claim.true(subject, "same number of batches in every epoch", counts == {len(made)})


def padding(_: Samples) -> Iterator[Claim]:
    """Plan a curriculum on the lengths of the demonstration."""
    lengths = _demo_lengths()
    batching = bw.TokenBudget(2_048)
    plain = bw.Planner(lengths, batching=batching)(0).stats(lengths).efficiency
    subject = f"curriculum over the demonstration's {lengths.size:,} lengths, TokenBudget(2,048)"
    random = np.random.default_rng(0).random(lengths.size)
    for name, difficulty in (("random", random), ("length", lengths), ("-length", -lengths)):
        order = bw.Curriculum(difficulty, pacing=pacing.root(start=0.1))
        planner = bw.Planner(lengths, batching=batching, order=order)
        worst = min(planner(epoch).stats(lengths).efficiency for epoch in range(5))
        yield Claim(
            subject,
            f"difficulty {name}: least efficiency of an epoch × that of the plain plan",
            worst / plain,
            at_least=0.97,
        )


def mixtures(samples: Samples) -> Iterator[Claim]:
    """Follow mixtures that drift, part by part, and compare with their targets."""
    rng = np.random.default_rng(0)
    most, exact = 0.0, True
    runs = samples(15_000) // 100
    for _ in range(runs):
        groups = rng.integers(0, rng.integers(2, 60), 2_000)
        names = np.unique(groups).tolist()
        ends = [dict(zip(names, rng.random(len(names)) + 1e-3, strict=True)) for _ in range(3)]
        order = bw.Mixture(
            groups,
            schedule=list(zip((0.0, 0.5, 1.0), ends, strict=True)),
            epochs=4,
            parts=25,
            num_samples=int(rng.integers(100, 3_000)),
        )
        draws = order.draws(np.ones(groups.size, dtype=np.int64))
        off = np.zeros(len(names))
        for epoch in range(4):
            counts, targets = draws.plan(epoch)[1], draws.targets(epoch)
            for count, target in zip(counts, targets, strict=True):
                off += count - target
                most = max(most, float(np.abs(off).max()))
                exact &= abs(off.sum()) < 1 and (count >= 0).all()
    subject = f"{runs} mixtures that drift, 2 to 59 groups, 100 parts each"
    yield Claim(
        subject, "realised − target, largest of all parts", most, at_most=0.999999, unit="samples"
    )
    yield Claim.true(subject, "sums exact, no negative count", exact)


def weights(samples: Samples) -> Iterator[Claim]:
    """Draw by weight from 5·10⁷ samples: beyond what a multinomial can do."""
    size = samples(50_000_000)
    values = np.random.default_rng(0).integers(1, 5, size).astype(np.float64)
    lengths = np.ones(size, dtype=np.uint8)
    draws = size // 5
    for replacement in (True, False):
        order = bw.Weighted(values, num_samples=draws, replacement=replacement)
        members = order(lengths, seed=0, epoch=0).members
        kind = "with" if replacement else "without"
        subject = f"{draws:,} draws {kind} replacement from {size:,} weighted samples"
        yield Claim.true(subject, "as many as asked for", members.size == draws)
        # Ten stretches of the data × four weights: are frequencies in proportion?
        cells = members // -(-size // 10) * 4 + values[members].astype(np.int64) - 1
        seen = np.bincount(cells, minlength=40).astype(np.float64)
        places = np.arange(size) // -(-size // 10) * 4 + values.astype(np.int64) - 1
        sizes = np.bincount(places, minlength=40).astype(np.float64)
        chance = np.tile(np.arange(1.0, 5.0), 10)
        if replacement:
            expected = draws * sizes * chance / (sizes * chance).sum()
        else:
            rate = _rate(sizes, chance, draws)
            expected = sizes * -np.expm1(-chance * rate)
        squared = float(((seen - expected) ** 2 / expected).sum())
        yield Claim(
            subject,
            "χ² of 40 cells of place and weight",
            squared,
            at_most=73.4,  # 99.9 % of 40 degrees of freedom; both kinds of draws vary less
            at_any_size=True,
        )


def _rate(sizes: np.ndarray, chance: np.ndarray, draws: int) -> float:
    """Find the threshold at which as many exponential keys fall below as are drawn."""
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if (sizes * -np.expm1(-chance * middle)).sum() < draws else (low, middle)
        )
    return low


def _demo_lengths() -> np.ndarray:
    examples = str(machine.REPOSITORY / "examples" / "applications")
    sys.path.insert(0, examples)
    try:
        from language_model import prepare
    finally:
        sys.path.remove(examples)
    return np.asarray(prepare(num_samples=4_000, num_validation=200).lengths)
