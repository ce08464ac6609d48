"""What users make can be pickled, whatever was done with it before: spawn, Ray, joblib need it.

Everything is pickled twice, new and used, and loaded in one process that was started for that: it
does there what it does here.
"""

import importlib.util
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import batchwright as bw
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
LENGTHS = np.random.default_rng(0).integers(1, 60, 200)
SCORES = np.random.default_rng(1).random(200)
GROUPS = np.arange(200) % 3


class Case(NamedTuple):
    """Something public.

    Attributes:
        name: What messages call it.
        made: The object.
        use: Calls it; returns what can be compared.
    """

    name: str
    made: Any
    use: Callable[[Any], Any]


def own_order(lengths, *, seed, epoch):
    return np.roll(np.arange(len(lengths)), seed + epoch)


def plans_of(planner):
    return [(plan.digest(), len(plan)) for plan in map(planner, (0, 1, 7))]


def ordered(order):
    batching = bw.TokenBudget(240)
    return plans_of(bw.Planner(LENGTHS, batching=batching, order=order, world_size=2, seed=3))


def batched(batching):
    return plans_of(bw.Planner(LENGTHS, batching=batching, world_size=2, seed=3))


def facts_of_plan(plan):
    lengths = LENGTHS[: plan.num_lengths] if hasattr(plan, "num_lengths") else LENGTHS
    stats = plan.stats(lengths)
    return plan.digest(), plan.indices.tolist(), stats.efficiency, len(plan.shard(0, 2))


def read_table(table):
    table.record(np.arange(5), np.arange(5.0))
    return table.losses.tolist()


def table():
    made = bw.LossTable(200)
    made.record(np.arange(200), SCORES)
    return made


def orders():
    pacing = bw.pacing.root(p=2)
    return [
        bw.Sequential(),
        bw.Shuffle(),
        bw.Shuffle(window=50),
        bw.Blocks([60, 80, 60]),
        bw.Weighted(SCORES + 0.1),
        bw.ClassBalanced(GROUPS),
        bw.ClassBalanced([f"class {group}" for group in GROUPS]),
        bw.Mixture(GROUPS, temperature=2.0),
        bw.Mixture(GROUPS, weights={0: 1.0, 1: 2.0, 2: 3.0}),
        bw.Curriculum(SCORES, pacing=pacing, epochs=4),
        bw.Curriculum(SCORES, epochs=4).control(1),
        bw.SelfPaced(table(), noise_rate=0.2, epochs=4),
        bw.UnbiasedDropping(table(), until=4),
        own_order,
    ]


def batchings():
    return [
        bw.FixedSize(8),
        bw.TokenBudget(240),
        bw.TokenBudget(240, mixing="update", max_samples=20, pad_to_multiple_of=8),
        bw.Packing(120),
        bw.Packing(40, oversize="split"),
        bw.Buckets(4, max_tokens=240),
        bw.CostModel(a=1.0, b=2.0, c=0.01),
    ]


def planning() -> list[Case]:
    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(240), step_tokens=900, cost="quadratic")
    plan = bw.plan(LENGTHS, max_tokens=240, world_size=2)
    cases = [Case(f"order {each!r:.40}", each, ordered) for each in orders()]
    for each in batchings():
        use = batched if not isinstance(each, bw.CostModel) else costs_of
        cases.append(Case(f"batching {each!r:.40}", each, use))
    cases += [
        Case("Planner", planner, plans_of),
        Case("Planner of columns", planner_of_columns(), plans_of),
        Case("Plan", plan, facts_of_plan),
        Case("Plan, a shard", plan.shard(1, 2), indices_of),
        Case("Plan, packed", bw.plan(LENGTHS, batching=bw.Packing(120)), facts_of_plan),
        Case("PlanStats", plan.stats(LENGTHS), repr),
        Case("Coverage", bw.coverage(planner, epochs=3), repr),
        Case("DialPosition", bw.mixing_dial(LENGTHS, bw.TokenBudget(240), accumulate=4), repr),
        Case("LossTable", table(), read_table),
        Case("BatchStream", stream(), list),
    ]
    pacings = [bw.pacing.linear(), bw.pacing.length_warm_up(4, 16), bw.pacing.baby_step()]
    return cases + [Case(f"pacing {each!r:.30}", each, paced) for each in pacings]


def costs_of(cost):
    return cost([1, 10, 100]).tolist()


def paced(pacing):
    return pacing([0.0, 0.3, 0.9, 1.0]).tolist()


def indices_of(plan):
    return plan.indices.tolist()


def planner_of_columns():
    lengths = np.stack([LENGTHS, LENGTHS[::-1]], axis=1)
    return bw.Planner(lengths, batching=bw.TokenBudget((240, 260)), seed=1)


def stream():
    words = [[0] * int(length) for length in LENGTHS]
    return bw.stream(words, batching=bw.TokenBudget(240), buffer_size=50)


def torch_cases() -> list[Case]:
    import torch

    from batchwright import torch as bt

    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(240))
    text = [{"input_ids": torch.arange(1, n), "labels": torch.arange(1, n)} for n in (3, 6, 4)]
    pairs = [(torch.arange(1, n), torch.arange(1, n)) for n in (3, 6, 4)]
    images = [(torch.ones(3, n, 8), n) for n in (4, 8)]
    collators = [
        (bt.PadCollator(attention_mask=True, pad_to_multiple_of=8), text),
        (bt.PadCollator(pad=(1, 2)), pairs),
        (bt.PackCollator(), text),
        (bt.ImageCollator(pad_to_multiple_of=4, mask=True), images),
        (bt.PatchCollator(2), images),
    ]
    warm_up = bt.LengthWarmUp(bw.pacing.length_warm_up(2, 4, step=2), total_tokens=100)
    pieces = bw.Planner(LENGTHS, batching=bw.Packing(40, oversize="split"))
    return [
        *(Case(type(each).__name__, (each, samples), collated) for each, samples in collators),
        Case("PlanBatchSampler", bt.PlanBatchSampler(planner), sampled),
        Case("PlanBatchSampler of a Plan", bt.PlanBatchSampler(planner(0)), sampled),
        Case("PieceDataset", bt.PieceDataset([torch.ones(int(n)) for n in LENGTHS]), piece_of),
        Case("PlanBatchSampler of pieces", bt.PlanBatchSampler(pieces), pieces_of),
        Case("StreamDataset", stream_dataset(), streamed),
        Case("LengthWarmUp", warm_up, warmed_up),
        Case("LiveLosses", bt.LiveLosses(table(), every=2), live),
        Case("Precision", bt.Precision("bf16"), updated),
        Case("GradientErrors", bt.GradientErrors(0.1, 0.2, None, 0), repr),
    ]


def values(batch):
    import torch
    from torch.utils._pytree import tree_leaves

    return [
        each.tolist() if isinstance(each, torch.Tensor) else each for each in tree_leaves(batch)
    ]


def collated(pair):
    collate, samples = pair
    return values(collate(samples))


def sampled(sampler):
    sampler.set_epoch(2)
    batches = list(sampler)
    sampler.set_epoch(3)
    begun = iter(sampler)
    return batches, [next(begun), next(begun)], len(sampler), sampler.state_after(2)


def pieces_of(sampler):
    sampler.set_epoch(2)
    return [repr(batch) for batch in sampler]


def piece_of(dataset):
    from batchwright.torch import Piece

    return dataset[Piece(3, 0, 2)].tolist() if len(dataset) else None


def samples_from(start):
    import torch

    return ({"input_ids": torch.full((int(n),), i)} for i, n in list(enumerate(LENGTHS))[start:])


def size_of(sample):
    return len(sample["input_ids"])


def stream_dataset():
    from batchwright.torch import PadCollator, StreamDataset

    return StreamDataset(
        samples_from,
        batching=bw.TokenBudget(240),
        length=size_of,
        collate=PadCollator(),
        buffer_size=50,
    )


def streamed(dataset):
    dataset.set_epoch(1)
    return [values(batch) for batch in dataset]


def warmed_up(warm_up):
    import torch

    return values(warm_up({"input_ids": torch.ones(2, 4, dtype=torch.long)}))


def live(losses):
    import torch

    losses.record([0, 1], torch.tensor([0.5, 2.0]))
    losses.record([2], torch.tensor([0.25]))
    return losses.table.losses.tolist()


def square_sum(model, batch):
    return model(batch).square().sum()


def updated(precision):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with precision.update(model, optimizer, weight=8) as update:
        update.backward(square_sum, torch.ones(8, 3))
    return model.weight.tolist(), update.applied


def fetch(indices):
    return indices, indices, np.ones(indices.size)


def keras_cases() -> list[Case]:
    from batchwright.keras import PlanDataset

    planner = bw.Planner(LENGTHS, batching=bw.TokenBudget(240))
    return [
        Case("PlanDataset", PlanDataset(planner, fetch), fetched),
    ]


def fetched(dataset):
    return [[part.tolist() for part in dataset[batch]] for batch in range(3)]


ANSWER = """
import pickle, sys
while True:
    try:
        name, held, use = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        answer = use(pickle.loads(held))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    pickle.dump((name, answer), sys.stdout.buffer)
"""


def check(cases: list[Case]) -> None:
    sent, expected = [], {}
    for name, made, use in cases:
        new = pickle.dumps(made)
        expected[f"{name}, new"] = use(made)
        sent.append((f"{name}, new", new, use))
        # What was used may go on elsewhere than it began: a copy here says where.
        used = pickle.dumps(made)
        expected[f"{name}, used"] = use(pickle.loads(used))  # noqa: S301 -- our own
        sent.append((f"{name}, used", used, use))
    done = subprocess.run(
        [sys.executable, "-c", ANSWER],
        input=b"".join(pickle.dumps(each) for each in sent),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT)))},
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers, rest = {}, memoryview(done.stdout)
    stream = io.BytesIO(rest)
    while stream.tell() < len(rest):
        name, answer = pickle.load(stream)  # noqa: S301 -- our own
        answers[name] = answer
    wrong = [name for name, _, _ in sent if answers.get(name) != expected[name]]
    assert wrong == [], [(answers.get(name), expected[name]) for name in wrong[:1]]


def test_what_plans_is_the_same_in_another_process():
    check(planning())


@pytest.mark.slow
def test_what_frameworks_take_is_the_same_in_another_process(monkeypatch):
    pytest.importorskip("torch")
    cases = torch_cases()
    if importlib.util.find_spec("keras"):
        monkeypatch.setenv("KERAS_BACKEND", "torch")
        cases += keras_cases()
    check(cases)


def test_errors_keep_what_they_say():
    for name in bw.errors.__all__ if hasattr(bw.errors, "__all__") else dir(bw.errors):
        kind = getattr(bw.errors, name)
        if isinstance(kind, type) and issubclass(kind, bw.BatchwrightError):
            copy = pickle.loads(pickle.dumps(kind("what was given")))  # noqa: S301 -- our own
            assert (type(copy), str(copy)) == (kind, "what was given")
