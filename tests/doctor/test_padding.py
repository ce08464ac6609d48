"""Findings of padding: what is found, what is not, and what is said of it."""

import re
from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks import CHECKS
from batchwright.doctor.checks.padding import documents, padding, padding_in_loss
from batchwright.doctor.gains import gain_of, padding_by_column, padding_of
from batchwright.doctor.records import Backward, Column, Run
from tests.doctor.runs import lasting, run_of, shuffles, with_ranks, with_updates

LENGTHS = np.random.default_rng(0).lognormal(3.5, 0.8, 800).clip(2, 400).astype(int)


def run(**options) -> Run:
    return run_of(*shuffles(len(LENGTHS), 2), **{"lengths": LENGTHS, "batch_size": 16, **options})


def test_all_are_checks() -> None:
    assert {padding, padding_in_loss, documents} <= set(CHECKS)


def test_padding_is_found_with_what_planning_leaves() -> None:
    (found,) = padding(run(update={"start": 0.0, "end": 0.0}))
    assert (found.name, found.level) == ("padding", "warning")
    assert "100 batches are padding" in found.figure
    assert "fewer tokens are computed." in found.cost
    assert 0.3 < found.share < 0.9
    assert any("PlanLoader" in line for line in found.code)


def test_the_speed_is_said_where_times_tell_it() -> None:
    timed = with_updates(
        run(),
        lambda number, update: lasting(
            update, 1e-3 + 1e-5 * sum(each.padded_tokens for each in update.batches)
        ),
    )
    (found,) = padding(timed)
    assert "× the real tokens per second" in found.cost
    assert "Predicted from the times of" in found.cost
    assert found.level == "warning"


def test_where_time_does_not_follow_tokens_it_is_information() -> None:
    timed = with_updates(
        run(accumulate=8, batch_size=4),
        lambda number, update: lasting(
            update, 1 + 1e-7 * sum(each.padded_tokens for each in update.batches)
        ),
    )
    (found,) = padding(timed)
    assert found.level == "info"
    assert "not faster here" in found.cost
    assert found.share < 0.05


NOTHING_TO_GAIN = {
    "no length": {"lengths": None, "labels": np.zeros(800, int)},
    "no padding": {"lengths": np.full(800, 30)},
    "planned": {"loader": {"is_planned": True}},
    "packed": {"batch": {"is_packed": True}},
    "one row": {"batch_size": 1},
}


@pytest.mark.parametrize("kind", NOTHING_TO_GAIN)
def test_nothing_is_found_where_there_is_nothing_to_gain(kind: str) -> None:
    assert not list(padding(run(**NOTHING_TO_GAIN[kind])))


def test_nothing_is_found_in_nothing() -> None:
    for check in (padding, padding_in_loss, documents):
        assert not list(check(Run(())))


def with_targets_of_their_own(run: Run, lengths, *, but=()) -> Run:
    """Give each batch a second column, but for those of some numbers."""

    def widened(number, batch):
        if number in but:
            return batch
        own = lengths[batch.samples]
        others = {"labels": Column(int(own.max()), own)}
        return replace(batch, name="input_ids", others=others)

    def change(rank):
        (loader,) = rank.loaders
        made, number = [], 0
        for each in loader.passes:
            batches = tuple(widened(number + at, one) for at, one in enumerate(each.batches))
            number += len(batches)
            made.append(replace(each, batches=batches))
        return replace(rank, loaders=(replace(loader, passes=tuple(made)),))

    return with_ranks(run, change)


def test_all_columns_are_counted_and_named() -> None:
    targets = np.random.default_rng(1).permutation(LENGTHS)
    seen = with_targets_of_their_own(run(), targets)
    (found,) = padding(seen)
    batches = list(seen.ranks[0].loaders[0].batches)
    padded = sum(each.all_padded_tokens for each in batches)
    tokens = sum(each.all_tokens for each in batches)
    assert tokens == 2 * (LENGTHS.sum() + targets.sum())
    assert f"padding: {padded - tokens:,} of {padded:,} (" in found.figure
    assert re.search(r"\(\d+\.\d % of input_ids, \d+\.\d % of labels\)\.$", found.figure)
    assert padding_of(seen) == pytest.approx(1 - tokens / padded)
    # Sorted by sources, targets of any length share a batch: they are padded as before.
    alone, both = gain_of(run()), gain_of(seen)
    assert alone.planned_padding < 0.1 < both.planned_padding < both.padding


def test_targets_as_long_as_sources_are_planned_away_too() -> None:
    seen = with_targets_of_their_own(run(), LENGTHS)
    alone, both = gain_of(run()), gain_of(seen)
    assert both.planned_padding == pytest.approx(alone.planned_padding)
    assert padding_by_column(seen) == pytest.approx(
        {"input_ids": alone.padding, "labels": alone.padding}
    )
    assert padding_by_column(run()) == {}


def test_a_column_may_be_unknown_at_first() -> None:
    one = run_of(np.arange(len(LENGTHS)), lengths=LENGTHS, batch_size=16)
    for whole in (run(), one):  # known of the second epoch, and of no other
        seen = with_targets_of_their_own(whole, 2 * LENGTHS, but=(0, 1))
        expected = gain_of(whole).planned_padding
        assert gain_of(seen).planned_padding == pytest.approx(expected)
        assert "of labels" in next(padding(seen)).figure


def with_targets(run: Run, targets, on_padding) -> Run:
    """Give each batch so many targets in the loss, and labels on padding."""

    def change(number, update):
        batches = tuple(replace(each, counted_padding=on_padding(each)) for each in update.batches)
        backwards = tuple(Backward(1.0, "mean", 1.0, targets(each)) for each in batches)
        return replace(update, batches=batches, backwards=backwards)

    return with_updates(run, change)


def pads(batch) -> int:
    return batch.padded_tokens - batch.tokens


def test_padding_in_the_loss_is_found() -> None:
    wrong = with_targets(run(), lambda each: each.padded_tokens, pads)
    (found,) = padding_in_loss(wrong)
    assert (found.name, found.level) == ("padding counted in the loss", "error")
    batches = [each for update in wrong.ranks[0].updates for each in update.batches]
    share = 1 - sum(each.tokens for each in batches) / sum(each.padded_tokens for each in batches)
    assert found.share == pytest.approx(share)
    # A language model has a target less in each row.
    shifted = with_targets(run(), lambda each: each.padded_tokens - each.rows, pads)
    assert list(padding_in_loss(shifted))


RIGHT = {
    "real tokens": (lambda each: each.tokens, lambda each: 0),
    "another label is left out": (lambda each: each.tokens, pads),
    "ends of texts": (lambda each: each.tokens + each.rows, lambda each: each.rows),
    "classes": (lambda each: each.rows, pads),
    "unknown": (lambda each: None, pads),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_right_losses_are_not_found(kind: str) -> None:
    assert not list(padding_in_loss(with_targets(run(), *RIGHT[kind])))


def test_documents_that_read_one_another_are_found() -> None:
    (found,) = documents(run(batch={"is_packed": True, "is_separated": False}))
    assert (found.name, found.level) == ("documents read one another", "error")
    assert found.figure.startswith("In 100 of 100 packed batches")
    assert not list(documents(run(batch={"is_packed": True})))
    assert not list(documents(run(batch={"is_separated": False})))
