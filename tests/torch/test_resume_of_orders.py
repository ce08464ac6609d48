"""Every order resumes in the middle of an epoch, on other ranks, with the same global stream."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import batchwright as bw
from batchwright import pacing
from batchwright.torch import PlanBatchSampler

SIZE = 400
RNG = np.random.default_rng(0)
LENGTHS = np.clip(RNG.lognormal(3, 0.8, SIZE), 1, 200).astype(int)
SCORES = RNG.random(SIZE)
GROUPS = RNG.integers(0, 3, SIZE)


def live(order, **options):
    table = bw.LossTable(SIZE)
    table.record(np.arange(SIZE), SCORES)
    return order(table, **options)


ORDERS = {
    "curriculum": lambda: bw.Curriculum(SCORES, pacing=pacing.root(start=0.2), epochs=3),
    "band": lambda: bw.Curriculum(SCORES, epochs=2.5, band=(0, 0.9)),
    "mixture": lambda: bw.Mixture(GROUPS, schedule=[(0, {0: 1}), (1, {1: 1, 2: 2})], epochs=3),
    "balanced": lambda: bw.ClassBalanced(GROUPS, after=1),
    "weighted": lambda: bw.Weighted(SCORES),
    "without replacement": lambda: bw.Weighted(SCORES, num_samples=300, replacement=False),
    "self-paced": lambda: live(bw.SelfPaced, noise_rate=0.3, epochs=2),
    "unbiased": lambda: live(bw.UnbiasedDropping, until=4),
}
BATCHINGS = (bw.TokenBudget(400), bw.Packing(300), bw.FixedSize(8))


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
@settings(max_examples=15, deadline=None)
@given(
    epoch=st.integers(0, 5),
    share=st.floats(0, 1),
    worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    batching=st.sampled_from(BATCHINGS),
)
def test_what_is_left_is_the_rest_of_the_same_stream(name, epoch, share, worlds, batching):
    first, second = worlds
    planner = bw.Planner(LENGTHS, batching=batching, order=ORDERS[name](), world_size=first, seed=3)
    expected = planner(epoch)
    samplers = [PlanBatchSampler(planner, rank=r, world_size=first) for r in range(first)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    steps = int(share * len(samplers[0]))
    state = json.loads(json.dumps(samplers[0].state_after(steps)))
    assert len(json.dumps(state)) < 1000
    # A new process: everything is made again.
    planner = bw.Planner(
        LENGTHS, batching=batching, order=ORDERS[name](), world_size=second, seed=3
    )
    left = []
    for rank in range(second):
        sampler = PlanBatchSampler(planner, rank=rank, world_size=second)
        sampler.load_state_dict(state)
        try:
            left.append(list(sampler))
        except bw.errors.PlanError as error:  # fewer samples are left than there are ranks
            assert "cannot share them equally" in str(error)
            return
    assert len({len(batches) for batches in left}) == 1
    stream = [index for step in zip(*left, strict=True) for batch in step for index in batch]
    if not steps:  # nothing was consumed: the epoch is planned for the ranks there are
        expected = planner(epoch)
    consumed = int(expected.offsets[steps * first])
    assert stream == expected.indices[consumed:].tolist()


@pytest.mark.parametrize("name", ORDERS)
def test_epochs_are_a_function_of_the_arguments_in_whatever_sequence(name):
    one, other = (bw.Planner(LENGTHS, batching=BATCHINGS[0], order=ORDERS[name]()) for _ in "ab")
    forward = [one(epoch).digest() for epoch in range(5)]
    backward = [other(epoch).digest() for epoch in reversed(range(5))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 5
    assert {len(one(epoch)) for epoch in range(12)} == {len(one)}
