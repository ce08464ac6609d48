"""Batches have the shapes that a plan tells, and a compiler compiles as often."""

import pytest

import batchwright as bw
from benchmarks.static_shapes import (
    LONGEST,
    MAX_TOKENS,
    SHAPES,
    batches_of,
    batching_of,
    in_a_process,
    lengths_of,
    told_of,
    with_torch,
)
from tests.patience import PATIENCE


@pytest.mark.parametrize("num_shapes", SHAPES)
def test_batches_have_as_many_shapes_as_the_plan_tells(num_shapes):
    lengths = lengths_of(300)
    plan = bw.plan(lengths, batching=batching_of(num_shapes, MAX_TOKENS))
    batches = batches_of(plan, lengths)
    stats = plan.stats(lengths)
    assert len({batch.shape for batch in batches}) == stats.shapes
    assert sum(int((batch != 0).sum()) for batch in batches) == lengths.sum()
    assert sum(batch.size for batch in batches) == stats.padded_tokens
    assert max(batch.size for batch in batches) <= MAX_TOKENS
    assert max(batch.shape[1] for batch in batches) <= LONGEST
    assert num_shapes is None or stats.shapes <= num_shapes


def test_fewer_shapes_are_paid_for_in_padding():
    rows = told_of(20_000)
    told = [row["told"] for row in rows]
    padding = [row["padding"] for row in rows]
    assert told[1:] == [32, 16, 8, 3]
    assert told[0] > 100
    assert padding[0] < 0.01 < min(padding[1:])


@pytest.mark.slow
def test_a_compiler_compiles_once_for_each_shape(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    row = in_a_process("jax", 3, 80, limit=PATIENCE)
    assert row["batches"] > row["told"] == row["compilations"] == 3
    assert row["seconds_without_compiling"] < row["seconds"] / row["batches"]


@pytest.mark.slow
def test_torch_compiles_once_for_each_shape():
    """Without its C++ compiler, which takes long and is called as often."""
    torch = pytest.importorskip("torch")
    lengths = lengths_of(80)
    plan = bw.plan(lengths, batching=batching_of(3, MAX_TOKENS))
    batches = batches_of(plan, lengths)
    threads = torch.get_num_threads()
    try:
        with torch._dynamo.config.patch(recompile_limit=10_000):
            compilations, seconds = with_torch(batches, backend="aot_eager")
    finally:
        torch.set_num_threads(threads)
        torch._dynamo.reset()
    assert len(seconds) == len(batches) > compilations == plan.stats(lengths).shapes == 3
