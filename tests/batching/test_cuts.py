import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.batching.cuts import RowLimit, cut_runs, cut_sequence, fit_runs
from batchwright.lengths import runs
from tests import reference, strategies

LIMITS = st.fixed_dictionaries(
    {
        "max_tokens": st.integers(strategies.CAP + 16, 500),
        "max_samples": st.none() | st.integers(1, 30),
        "pad_to_multiple_of": st.sampled_from([1, 4, 16]),
        "batch_size_multiple_of": st.sampled_from([1, 2, 8]),
    }
)


def by_size(lengths, sizes):
    ordered = np.sort(lengths.astype(int))[::-1]
    return [part.tolist() for part in np.split(ordered, np.cumsum(sizes)[:-1])]


@given(strategies.lengths(), LIMITS)
def test_cutting_runs_is_cutting_one_sample_at_a_time(lengths, options):
    values, counts = runs(lengths, np.arange(lengths.size))
    sizes = cut_runs(counts, RowLimit(**options)(values))
    assert by_size(lengths, sizes) == reference.cut_sorted(lengths.tolist(), **options)


@given(strategies.lengths(), st.integers(strategies.CAP, 400))
def test_cutting_a_sequence_is_cutting_one_sample_at_a_time(lengths, max_tokens):
    sizes = cut_sequence(lengths.astype(np.int64), RowLimit(max_tokens))
    parts = np.split(lengths.astype(int), np.cumsum(sizes)[:-1])
    expected = reference.cut_sequence(lengths.tolist(), max_tokens)
    assert [part.tolist() for part in parts] == expected


@given(strategies.lengths(), LIMITS, st.integers(0, 40))
def test_fitting_keeps_the_number_and_the_budget(lengths, options, more):
    values, counts = runs(lengths, np.arange(lengths.size))
    limit = RowLimit(**options)
    natural = cut_runs(counts, limit(values)).size
    fitted = fit_runs(values, counts, limit, num_batches=natural + more)
    assert natural <= fitted.size <= natural + more
    for batch in by_size(lengths, fitted):
        padded = reference.padded_tokens(batch, options["pad_to_multiple_of"])
        assert padded <= options["max_tokens"]
    if natural > 1:
        assert fit_runs(values, counts, limit, num_batches=natural - 1) is None


@pytest.mark.parametrize("multiple", [1, 8])
def test_batch_size_multiple_loses_no_sample(multiple):
    """One peer rounds every batch down to 8 and drops what is left over."""
    lengths = np.random.default_rng(0).integers(1, 300, 1003)
    values, counts = runs(lengths, np.arange(lengths.size))
    limit = RowLimit(2048, batch_size_multiple_of=multiple)
    sizes = cut_runs(counts, limit(values))
    assert sizes.sum() == 1003
    assert all(size % multiple == 0 for size in sizes[:-1] if size > multiple)
