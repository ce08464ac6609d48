import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.batching.cuts import RowLimit, cut_sequence, cut_stretches, fit_stretches
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


def batches_of(cut, lengths):
    """The lengths in each batch, of samples sorted from long to short."""
    ordered = np.sort(lengths.astype(int))[::-1]
    found, offsets = cut.all(np.arange(cut.num_batches), 7, ordered.__getitem__)
    assert sorted(found.tolist()) == sorted(ordered.tolist())
    return [part.tolist() for part in np.split(found, offsets[1:-1])]


@given(strategies.lengths(), LIMITS)
def test_as_many_batches_as_cutting_one_sample_at_a_time(lengths, options):
    values, counts = runs(lengths, np.arange(lengths.size))
    cut = cut_stretches(values, counts, RowLimit(**options)(values))
    assert cut.num_batches == len(reference.cut_sorted(lengths.tolist(), **options))
    for batch in batches_of(cut, lengths):
        padded = reference.padded_tokens(batch, options["pad_to_multiple_of"])
        assert padded <= options["max_tokens"]


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
    natural = cut_stretches(values, counts, limit(values)).num_batches
    wanted = min(natural + more, lengths.size)
    fitted = fit_stretches(values, counts, limit, wanted)
    assert fitted.num_batches == wanted
    for batch in batches_of(fitted, lengths):
        padded = reference.padded_tokens(batch, options["pad_to_multiple_of"])
        assert padded <= options["max_tokens"]
    if natural > 1:  # as many as the budget needs
        assert fit_stretches(values, counts, limit, natural - 1).num_batches == natural


@pytest.mark.parametrize("multiple", [1, 8])
def test_batch_size_multiple_loses_no_sample(multiple):
    """One peer rounds every batch down to 8 and drops what is left over."""
    lengths = np.random.default_rng(0).integers(1, 300, 1003)
    values, counts = runs(lengths, np.arange(lengths.size))
    limit = RowLimit(2048, batch_size_multiple_of=multiple)
    cut = cut_stretches(values, counts, limit(values))
    sizes = np.array([len(batch) for batch in batches_of(cut, lengths)])
    last = cut.batches[-1]  # the last stretch shares what is left
    assert all(size % multiple == 0 for size in sizes[:-last] if size > multiple)
