"""The dense limit: batches of as many rows without anything to pad."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.compare.arm import without_padding
from tests.strategies import columns, lengths


@given(lengths=st.one_of(lengths(min_size=5), columns(min_size=5)), seed=st.integers(0, 3))
def test_rows_of_a_batch_are_equal_and_as_many_as_before(lengths, seed):
    plan = bw.plan(lengths, batching=bw.FixedSize(4), seed=seed)
    dense = without_padding(plan, lengths)
    assert np.array_equal(dense.offsets, plan.offsets)
    for batch in dense:
        assert len(set(batch.tolist())) == 1


def test_tokens_are_about_as_many():
    lengths = np.random.default_rng(0).integers(1, 500, 5_000)
    plan = bw.plan(lengths, batching=bw.FixedSize(8))
    dense = without_padding(plan, lengths)
    assert abs(lengths[dense.indices].sum() / lengths.sum() - 1) < 0.002
