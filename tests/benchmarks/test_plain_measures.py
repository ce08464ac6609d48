"""The benchmarks' own measures: right on plans counted by hand, and able to say no."""

import numpy as np
import pytest

import batchwright as bw
from batchwright.batches import Arrays
from batchwright.layout import Packed, Padded
from batchwright.plans import replaced
from benchmarks import plain_measures
from benchmarks.length_sets import DOCUMENTS, TEXT

LENGTHS = np.array([5, 3, 8, 2])
PLAN = bw.Plan(np.array([2, 0, 1, 3]), np.array([0, 2, 4]), layout=Padded(16))


def test_tokens_of_padded_and_packed_batches() -> None:
    packed = replaced(PLAN, layout=Packed(16))
    assert plain_measures.tokens_laid_out(PLAN, LENGTHS).tolist() == [16, 6]
    assert plain_measures.tokens_laid_out(packed, LENGTHS).tolist() == [13, 5]
    assert plain_measures.squares_laid_out(packed, LENGTHS).tolist() == [89, 13]


@pytest.mark.parametrize("indices", [[2, 0, 1, 1], [2, 0, 1], [2, 0, 1, 4]])
def test_a_sample_lost_repeated_or_unknown_is_seen(indices: list[int]) -> None:
    broken = bw.Plan(np.array(indices), np.array([0, 2, len(indices)]))
    assert plain_measures.uses_every_sample_once(PLAN, 4)
    assert not plain_measures.uses_every_sample_once(broken, 4)


def test_a_token_lost_or_repeated_is_seen() -> None:
    layout = Packed(4, max_length=4)
    whole = bw.Plan(
        np.array([0, 1, 0]), np.array([0, 1, 3]), starts=np.array([0, 0, 4]), layout=layout
    )
    assert plain_measures.uses_every_token_once(whole, np.array([7, 1]))
    assert not plain_measures.uses_every_token_once(whole, np.array([9, 1]))
    twice = replaced(whole, batches=Arrays(whole.indices, whole.offsets, np.array([0, 0, 3])))
    assert not plain_measures.uses_every_token_once(twice, np.array([7, 1]))
    lost = replaced(whole, batches=Arrays(np.array([0, 2, 0]), whole.offsets))
    assert not plain_measures.uses_every_token_once(lost, np.array([7, 1, 1]))


def test_split_documents_use_every_token_once() -> None:
    lengths = DOCUMENTS.draw(2_000)
    plan = bw.plan(lengths, batching=bw.Packing(4_096, oversize="split"))
    assert plan.starts is not None
    assert plain_measures.uses_every_token_once(plan, lengths)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_that_walk_their_shards_wait_for_the_slowest(accumulate: int) -> None:
    plan = bw.plan(TEXT.draw(5_000), max_tokens=16_384, world_size=2, accumulate=accumulate)
    costs = np.random.default_rng(0).random(len(plan))
    expected = costs.reshape(-1, accumulate, 2).sum(axis=1)
    imbalance = plain_measures.rank_imbalance(plan, costs, 2)
    assert imbalance == pytest.approx(expected.max(axis=1).sum() / expected.mean(axis=1).sum())
    assert imbalance > 1


def test_dispersion_tells_sorted_updates_from_shuffled_ones() -> None:
    lengths = TEXT.draw(5_000)
    by_length = bw.Plan(np.argsort(lengths), np.arange(0, 5_001, 50))
    shuffled = bw.Plan(np.random.default_rng(0).permutation(5_000), np.arange(0, 5_001, 50))
    measure = plain_measures.dispersion_beside_shuffles
    assert measure(by_length, lengths, shuffles=20) > 10
    assert measure(shuffled, lengths, shuffles=20) == pytest.approx(1, abs=0.5)
