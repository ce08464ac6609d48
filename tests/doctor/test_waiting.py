"""Findings on the time that a loop waits for its data."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks.waiting import waiting
from batchwright.doctor.records import Run
from tests.doctor.runs import run_of, with_updates


def waited(wait, *, seconds=1.0, epochs=1, samples=80, ranks=1, **options):
    """A run whose batches take `seconds`, and are waited for `wait` seconds of them."""
    epoch = tuple(np.arange(samples) for _ in range(ranks))
    epochs = [epoch if ranks > 1 else epoch[0]] * epochs
    return run_of(*epochs, seconds=seconds, batch={"wait": wait}, **options)


def found(run):
    return [(each.name, each.level) for each in waiting(run)]


FOUND = [("waiting for data", "warning")]


@pytest.mark.parametrize(("wait", "expected"), [(0.0, []), (0.09, []), (0.11, FOUND), (0.9, FOUND)])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_from_a_tenth_of_the_time_on(wait, accumulate, expected):
    run = waited(wait, accumulate=accumulate)
    assert found(run) == expected
    for each in waiting(run):
        assert each.share == pytest.approx(wait)


def test_the_figure_is_of_an_update():
    (finding,) = waiting(waited(0.25, accumulate=2))
    assert "The training loop waited for its batches 25.0 % of the time" in finding.figure
    assert "0.50 s of 2.00 s per update (mean of 9 updates), with 0 workers" in finding.figure
    assert finding.cost == "25.0 % of the time."


@pytest.mark.parametrize(
    ("workers", "framework", "code"),
    [
        (0, "torch", "DataLoader(..., num_workers=4, persistent_workers=True)"),
        (3, "torch", "DataLoader(..., num_workers=6, persistent_workers=True)"),
        (0, "transformers", "TrainingArguments("),
    ],
)
def test_workers_are_the_cure_where_there_are_few(workers, framework, code):
    run = waited(0.5, loader={"num_workers": workers}, rank={"framework": framework})
    (finding,) = waiting(run)
    assert finding.code[0] == code


def test_cheaper_samples_are_the_cure_where_there_are_many():
    (finding,) = waiting(waited(0.5, loader={"num_workers": 8}))
    assert finding.code == ()
    assert "8 workers do not keep up" in finding.cure


def with_waits(run, waits):
    """Give batches another wait, by the number of their update."""

    def change(number, update):
        batches = tuple(replace(each, wait=waits(number)) for each in update.batches)
        return replace(update, batches=batches)

    return with_updates(run, change)


def test_workers_that_start_are_not_waited_for():
    run = waited(0.0, epochs=6, samples=16)  # four updates an epoch
    starting = with_waits(run, lambda number: 0.9 if number % 4 == 0 else 0.0)
    assert found(starting) == []
    assert found(with_waits(run, lambda number: 0.9 if number % 4 == 1 else 0.0)) == FOUND


def test_the_slowest_rank_is_named():
    run = waited(0.0, ranks=2)

    def slow(number, rank):
        wait = 0.3 if number == 1 else 0.0
        updates = tuple(
            replace(each, batches=tuple(replace(one, wait=wait) for one in each.batches))
            for each in rank.updates
        )
        return replace(rank, updates=updates)

    run = Run(tuple(slow(number, rank) for number, rank in enumerate(run.ranks)))
    (finding,) = waiting(run)
    assert finding.figure.startswith("Rank 1 waited")
    assert "Other ranks wait" in finding.cost


def test_a_device_may_work_meanwhile():
    (finding,) = waiting(waited(0.3, rank={"device": "cuda"}))
    assert finding.cost.startswith("Up to 30.0 % of the time")


@pytest.mark.parametrize(
    "run",
    [
        waited(0.9, samples=4 * 5),  # four updates after the first
        waited(0.0005, seconds=0.001),  # workers would take as long to hand a batch over
        Run(ranks=()),
    ],
)
def test_what_is_too_little(run):
    assert found(run) == []


def test_updates_without_batches_are_left_out():
    run = with_updates(waited(0.9), lambda _, update: replace(update, batches=()))
    assert found(run) == []
