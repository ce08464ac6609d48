"""What is held out shares no docstring with what is trained on; arms differ in what they say."""

import numpy as np
import torch

from benchmarks.contrastive import ARMS, MOST_COPIES, Encoder, loss_of, numbered, parted, planner_of


def test_arms_of_the_contrastive_benchmark(monkeypatch):
    monkeypatch.setattr("benchmarks.contrastive.HELD_OUT", 20)
    monkeypatch.setattr("benchmarks.contrastive.ROWS", 16)
    copies = [(f"The same as {i % 9}.", f"return {i}") for i in range(150)]
    pairs, held = parted(numbered(copies + [(f"Once {i}.", f"x = {i}") for i in range(60)]))
    assert not np.intersect1d(pairs.keys, held.keys).size
    assert len(held.keys) == len(set(held.keys.tolist())) == 20
    assert np.bincount(pairs.keys).max() == MOST_COPIES
    for arm, (_, kind) in ARMS.items():
        mates = [len(set(pairs.keys[batch])) < len(batch) for batch in planner_of(pairs, arm, 0)(0)]
        assert any(mates) == (kind != ", unique")
    torch.manual_seed(0)
    model, twins = Encoder(), pairs.take(np.flatnonzero(pairs.keys == pairs.keys[0]))
    assert loss_of(model, twins, masked=True).item() == 0.0
    assert loss_of(model, twins, masked=False).item() > 0.1
