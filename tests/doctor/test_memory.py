"""Findings on batches that need far more memory than others."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks.memory import peak
from batchwright.doctor.records import Run
from tests.doctor.runs import run_of, with_updates

MIB = 2**20


def one_long(at=200, length=100, samples=400):
    lengths = np.full(samples, 10)
    lengths[at] = length
    return lengths


def run_with(lengths, peaks=None, **options):
    """A run in sequence; `peaks`: MiB in use before and from the update of the longest sample."""
    run = run_of(np.arange(len(lengths)), lengths=lengths, **options)
    if peaks is None:
        return run
    large = int(np.argmax(lengths)) // 4
    return with_updates(
        run, lambda number, update: replace(update, peak=peaks[number >= large] * MIB)
    )


def names(run):
    return [(each.name, each.level) for each in peak(run)]


FOUND = [("few batches set the peak memory", "warning")]


def test_one_long_sample_sets_the_peak():
    (finding,) = peak(run_with(one_long(), peaks=(300, 600)))
    assert (finding.name, finding.level) == FOUND[0]
    assert "1 of 100 batches have more than twice" in finding.figure
    assert "up to 400, and the median has 40" in finding.figure
    assert "300 MiB before the first of them, and is now 600 MiB" in finding.figure
    assert "10.0 % of its padded tokens" in finding.cost
    assert "with 100, the largest has 25.0 % of its tokens now" in finding.cure
    assert finding.code[-2] == "planner = bw.Planner(lengths, max_tokens=100)"


def test_the_budget_holds_the_longest_sample_and_the_batch_in_the_middle():
    (finding,) = peak(run_with(one_long(length=25)))
    assert finding.code[-2] == "planner = bw.Planner(lengths, max_tokens=40)"


def test_the_cure_is_in_the_words_of_the_framework():
    (finding,) = peak(run_with(one_long(), rank={"framework": "transformers"}))
    assert finding.code[-1] == "use_plan(trainer, max_tokens=100)"


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (one_long(), FOUND),
        (one_long(length=20), []),  # not more than twice
        (one_long(length=21), FOUND),
        (np.full(400, 10), []),
        (np.repeat([10, 10, 10, 50], 100), []),  # a quarter of the batches are no few
        (one_long(at=40, samples=76), []),  # 19 batches
        (one_long(at=40, samples=80), FOUND),
    ],
)
def test_few_batches_far_from_the_middle(lengths, expected):
    assert names(run_with(lengths)) == expected


@pytest.mark.parametrize(
    ("peaks", "at", "expected"),
    [
        ((300, 600), 200, FOUND),
        ((300, 320), 200, []),  # memory is of something else
        ((300, 300), 200, []),
        ((300, 320), 8, []),
        ((300, 320), 4, FOUND),  # too early to be compared: the optimizer's state is new, too
    ],
)
def test_memory_that_was_seen_decides(peaks, at, expected):
    assert names(run_with(one_long(at=at), peaks=peaks)) == expected


def test_batches_that_were_not_looked_at_are_no_short_ones():
    lengths = np.random.default_rng(0).integers(8, 11, 400)
    run = run_of(np.arange(400), lengths=lengths)
    (rank,) = run.ranks
    (loader,) = rank.loaders
    (each,) = loader.passes
    batches = tuple(
        one if number % 30 == 0 else replace(one, width=1, lengths=None)
        for number, one in enumerate(each.batches)
    )
    unseen = replace(loader, passes=(replace(each, batches=batches),))
    assert names(Run((replace(rank, loaders=(unseen,)),))) == []


def test_samples_without_length_and_empty_runs():
    assert names(run_of(np.arange(400))) == []
    assert names(Run(ranks=())) == []


def test_ranks_are_looked_at_together():
    lengths = one_long()
    run = run_of((np.arange(200), np.arange(200, 400)), lengths=lengths)
    assert names(run) == FOUND
