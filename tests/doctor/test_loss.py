"""Findings on what the gradient of an update is of."""

import math
from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks.loss import division, mean_of_means, not_cleared, not_finite
from batchwright.doctor.records import Backward, Batch, Loader, Pass, Rank, Run, Update
from tests.doctor.runs import mean_of, run_of, shuffles, with_ranks, with_updates

LENGTHS = np.random.default_rng(0).lognormal(2, 1, 96).astype(int) + 1
SHORT_AND_LONG = np.repeat([1, 3] * 12, 4)  # batches of four in sequence: 4 tokens, 12 tokens


def found(check, run):
    return [(each.name, each.level) for each in check(run)]


def means(factor=1.0):
    return lambda batch: Backward(1.0, "mean", factor, batch.tokens)


def sums(factor, *, counted=True):
    """Sums over tokens; `factor` is a number, or a function of the batch."""

    def backward(batch):
        number = factor(batch) if callable(factor) else factor
        return Backward(1.0, "sum", number, batch.tokens if counted else None)

    return backward


def divided_by_update(run, of=1.0):
    """Sums that are divided by all targets of the update; `of` times that."""
    totals = [
        sum(each.tokens for update in updates for each in update.batches)
        for updates in zip(*(rank.updates for rank in run.ranks), strict=True)
    ]

    def weigh(number, update):
        each = [Backward(1.0, "sum", of / totals[number], one.tokens) for one in update.batches]
        return replace(update, backwards=tuple(each))

    return with_updates(run, weigh)


# Means of means.


def test_a_mean_of_means_is_found_with_its_ratio_and_what_is_misplaced():
    (finding,) = mean_of_means(run_of(np.arange(96), lengths=SHORT_AND_LONG, accumulate=2))
    assert (finding.name, finding.level) == ("mean of means", "error")
    assert finding.figure.startswith("2 batches are averaged separately")
    assert "counts 3 times as much" in finding.figure
    assert "median of 12 updates" in finding.figure
    assert finding.cost.startswith("25.0 % of the weight")  # a half each, where a quarter is due
    assert finding.share == pytest.approx(0.25)
    assert "targets" in "".join(finding.code)


def test_ranks_are_compared_like_batches_of_one_update():
    ranks = (np.arange(96)[::2], np.arange(96)[1::2])
    lengths = np.tile([2, 3], 48)  # the second rank has the longer samples
    run = run_of(ranks, ranks, lengths=lengths)
    assert found(mean_of_means, run) == [("mean of means", "warning")]
    (finding,) = mean_of_means(run)
    assert finding.figure.startswith("2 batches on 2 ranks are averaged separately")
    assert finding.figure.endswith("A rank has from 8 to 12 targets in an update.")
    assert found(mean_of_means, with_ranks(run, lambda rank: replace(rank, updates=()))) == []
    assert found(mean_of_means, Run(run.ranks[:1])) == []  # one batch an update


@pytest.mark.parametrize(
    ("longer", "error", "level"),
    [
        (1.04, None, None),
        (1.04, 0.2, None),
        (1.2, None, "warning"),
        (1.2, 0.01, "warning"),
        (1.2, 0.06, "error"),
        (1.9, None, "warning"),
        (2.0, None, "error"),
        (2.0, 0.01, "error"),
    ],
)
def test_the_level_is_that_of_the_ratio_or_of_the_measured_error(longer, error, level):
    lengths = np.repeat([100, round(100 * longer)] * 12, 4)
    run = run_of(np.arange(96), lengths=lengths, accumulate=2)
    if error is not None:
        run = with_updates(
            run,
            lambda number, update: replace(update, gradient_error=error if number == 3 else None),
        )
    expected = [] if level is None else [("mean of means", level)]
    assert found(mean_of_means, run) == expected
    if expected and error is not None:
        (finding,) = mean_of_means(run)
        assert finding.share == error
        assert "Measured" in finding.cost


def test_what_trainers_that_count_do_is_right():
    for epoch in (np.arange(96), (np.arange(48), np.arange(48, 96))):
        run = run_of(epoch, lengths=LENGTHS, accumulate=4)
        assert found(mean_of_means, run) == [("mean of means", "error")]
        right = divided_by_update(run, of=run.world_size)
        assert found(mean_of_means, right) == found(division, right) == []


def test_a_short_last_batch_is_left_out():
    run = run_of(*shuffles(10, epochs=5), accumulate=3, backward=mean_of_rows)
    counts = [[each.counted for each in update.backwards] for update in run.ranks[0].updates]
    assert counts == [[4, 4, 2]] * 5
    assert found(mean_of_means, run) == []
    # Where batches have no fixed size, the last is one like the others.
    free = [[np.arange(3), np.arange(3, 9), np.arange(9, 11)]] * 5
    run = run_of(*free, accumulate=3, backward=mean_of_rows)
    assert found(mean_of_means, run) == [("mean of means", "error")]


def mean_of_rows(batch):
    return Backward(1.0, "mean", 1 / 3, batch.rows)


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_mean_under_a_mask_is_known_by_what_its_sum_is_divided_by(left_out):
    def targets(batch):
        return batch.tokens - left_out * batch.rows

    lengths = LENGTHS + 1
    own = sums(lambda batch: 0.25 / targets(batch), counted=False)
    run = run_of(np.arange(96), lengths=lengths, accumulate=4, backward=own)
    known = run_of(
        np.arange(96),
        lengths=lengths,
        accumulate=4,
        backward=lambda batch: Backward(1.0, "mean", 0.25, targets(batch)),
    )
    assert [each.figure for each in mean_of_means(run)] == [
        each.figure for each in mean_of_means(known)
    ]
    assert found(mean_of_means, run) == [("mean of means", "error")]


@pytest.mark.parametrize(
    "factor",
    [0.01, lambda batch: 1 / (batch.tokens % 7 + 1), 0.0, math.nan],
)
def test_a_sum_of_unknown_targets_that_is_divided_by_something_else_is_left_alone(factor):
    own = sums(factor, counted=False)
    run = run_of(np.arange(96), lengths=LENGTHS, accumulate=4, backward=own)
    assert found(mean_of_means, run) == found(division, run) == []


@pytest.mark.parametrize(
    "backward",
    [
        Backward(1.0),
        Backward(1.0, "mean", None, 4),
        Backward(1.0, "mean", 0.25, 0),
        Backward(1.0, "mean", -0.25, 4),
        Backward(1.0, "mean", math.inf, 4),
        Backward(1.0, None, 1.0, 4),
    ],
)
def test_nothing_is_said_of_losses_that_are_not_known(backward):
    def every_other(batch):
        return backward if batch.samples[0] % 8 else means(0.25)(batch)

    for one in (every_other, lambda batch: backward):
        run = run_of(np.arange(96), lengths=LENGTHS, accumulate=4, backward=one)
        assert found(mean_of_means, run) == found(division, run) == []


def test_several_losses_of_one_batch_are_not_its_parts():
    """Two calls of `backward` a batch, such as of two models that train against each other."""
    run = run_of(*shuffles(96), lengths=LENGTHS, backward=means())
    twice = with_updates(
        run, lambda _, update: replace(update, backwards=2 * update.backwards, is_stale=True)
    )
    for check in (mean_of_means, division, not_cleared):
        assert found(check, twice) == []


def test_loaders_in_turns_may_have_a_loss_each():
    run = run_of(np.arange(96), lengths=SHORT_AND_LONG, accumulate=2, backward=means())
    (rank,) = run.ranks
    batches = list(rank.loaders[0].batches)

    def with_loaders(*parts):
        loaders = tuple(Loader((Pass(tuple(each), True),)) for each in parts)
        return Run((replace(rank, loaders=loaders),))

    assert found(division, with_loaders(batches[::2], batches[1::2])) == []
    assert found(mean_of_means, with_loaders(batches[::2], batches[1::2])) == []
    # A loader that is made anew for each epoch is another thing.
    anew = with_loaders(batches[:12], batches[12:])
    assert found(division, anew) == [("accumulation not divided", "error")]
    assert found(mean_of_means, anew) == [("mean of means", "error")]


@pytest.mark.parametrize("check", [mean_of_means, division, not_cleared])
def test_little_is_too_little(check):
    run = run_of(np.arange(96), lengths=SHORT_AND_LONG, accumulate=2, backward=means())
    run = with_updates(run, lambda number, update: replace(update, is_stale=number > 0))
    assert found(check, run)
    assert found(check, with_ranks(run, lambda rank: replace(rank, updates=rank.updates[:2]))) == []


# Accumulation.


@pytest.mark.parametrize(
    ("accumulate", "factor", "expected"),
    [
        (4, 1.0, [("accumulation not divided", "error")]),
        (4, 1 / 4, []),
        (4, 1 / 16, [("accumulation divided twice", "error")]),
        (2, 1.0, [("accumulation not divided", "error")]),
        (2, 1 / 2, []),
        (2, 1 / 4, [("accumulation divided twice", "warning")]),  # or a half before the loss
        (4, 1 / 8, []),  # a factor of one's own
        (4, 3.0, []),
        (1, 1.0, []),
        (1, 0.5, []),
    ],
)
def test_divisions_of_means(accumulate, factor, expected):
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=accumulate, backward=means(factor))
    assert found(division, run) == expected


def test_the_factor_is_said():
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=4, backward=means())
    (finding,) = division(run)
    assert "add up to 4, not 1" in finding.figure
    assert "The losses of 4 batches are added, and not divided by 4" in finding.figure
    assert "4 times too large" in finding.cost
    assert "Adam" in finding.cost
    assert finding.code == ("(loss / 4).backward()",)
    assert finding.share == 0.75
    run = run_of(
        *shuffles(96),
        lengths=LENGTHS,
        accumulate=4,
        backward=means(1 / 16),
        rank={"framework": "accelerate"},
    )
    (finding,) = division(run)
    assert "are divided by 4 twice" in finding.figure
    assert "add up to 0.25, not 1" in finding.figure
    assert "`accelerator.backward` divides" in finding.cure


def test_a_trainer_that_leaves_the_division_to_the_loss():
    run = run_of(
        *shuffles(96),
        lengths=LENGTHS,
        accumulate=4,
        backward=means(),
        rank={"framework": "transformers"},
    )
    (finding,) = division(run)
    assert "if the model computes the loss" in finding.cure.lower()
    assert finding.code[0].startswith("loss = loss_sum / num_items_in_batch")
    assert finding.code[1].startswith("trainer.model_accepts_loss_kwargs = False")


def test_accumulation_without_counts_is_judged_by_factors():
    run = run_of(*shuffles(96), accumulate=4, backward=lambda _: Backward(1.0, "mean", 1.0))
    assert found(division, run) == [("accumulation not divided", "error")]
    assert found(mean_of_means, run) == []


def test_the_last_updates_of_epochs_may_have_fewer_batches():
    run = run_of(*shuffles(4 * 6, epochs=8), accumulate=4, backward=means(0.25))
    assert [len(each.backwards) for each in run.ranks[0].updates] == [4, 2] * 8
    assert found(division, run) == []


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (1.0, []),  # no division is a choice
        (1 / 4, []),
        (lambda batch: 1 / batch.tokens, [("accumulation not divided", "error")]),
        (lambda batch: 0.25 / batch.tokens, []),
        (lambda batch: 1 / 16 / batch.tokens, [("accumulation divided twice", "error")]),
        (1 / 60, []),  # a fixed number of tokens: their share in it varies
    ],
)
def test_divisions_of_sums(factor, expected):
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=4, backward=sums(factor))
    assert found(division, run) == expected


@pytest.mark.parametrize("of", [1.0, 0.25, 4.0])
def test_sums_that_are_divided_by_all_targets(of):
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=4)
    names = {1.0: [], 0.25: ["accumulation divided twice"], 4.0: ["accumulation not divided"]}
    assert [name for name, _ in found(division, divided_by_update(run, of=of))] == names[of]


def test_a_sum_over_as_many_targets_always_may_be_divided_by_anything():
    """Four outputs a row, and a squared error that is summed over them: 4, as the batches."""
    run = run_of(*shuffles(96), lengths=np.full(96, 4), accumulate=4, backward=sums(1 / 4 / 4))
    assert run.ranks[0].updates[0].backwards[0].counted == 16
    assert found(division, run) == []


def test_a_sum_that_lacks_the_number_of_ranks_is_not_called_accumulation():
    ranks = (np.arange(48), np.arange(48, 96))
    run = run_of(ranks, lengths=LENGTHS, accumulate=2)
    assert found(division, divided_by_update(run, of=2.0)) == []
    assert found(division, divided_by_update(run, of=1.0)) == []  # 1 / 2: ranks, or batches


def test_a_weight_that_changes_is_a_choice():
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=2)

    def warm_up(number, update):
        each = [Backward(1.0, "mean", (number + 1) / 12, one.tokens) for one in update.batches]
        return replace(update, backwards=tuple(each))

    assert found(division, with_updates(run, warm_up)) == []


# Losses to which others are added.


def part_of_a_sum(part, factor):
    """A mean with a factor of its own among others, all multiplied by another one."""
    return lambda batch: Backward(1.0, "mean", part * factor, batch.tokens, part)


@pytest.mark.parametrize("part", [1.0, 0.9])  # beside an auxiliary loss; smoothed labels
@pytest.mark.parametrize(
    ("factor", "names"), [(1.0, ["accumulation not divided"]), (0.25, []), (1 / 16, [])]
)
def test_a_loss_beside_which_others_are_added_is_judged_without_its_own_factor(part, factor, names):
    run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=4, backward=part_of_a_sum(part, factor))
    assert [name for name, _ in found(division, run)] == names
    assert found(mean_of_means, run) == [("mean of means", "error")]


@pytest.mark.parametrize(("part", "factor"), [(0.5, 0.5), (0.25, 1.0), (0.5, 1.0), (2.0, 0.5)])
def test_a_factor_among_several_losses_may_be_a_division(part, factor):
    backward = part_of_a_sum(part, factor)
    for accumulate in (2, 4):
        run = run_of(*shuffles(96), lengths=LENGTHS, accumulate=accumulate, backward=backward)
        assert found(division, run) == []


# Gradients that stay.


def with_stale(*numbers, of=20):
    run = run_of(np.arange(4 * of))
    return with_updates(run, lambda number, each: replace(each, is_stale=number in numbers))


def test_gradients_that_are_not_cleared_are_found():
    (finding,) = not_cleared(with_stale(*range(1, 20)))
    assert (finding.name, finding.level) == ("gradients not cleared", "error")
    assert "In 19 of 19 updates after the first" in finding.figure
    assert "5.0 % of it is its own" in finding.cost
    assert any("zero_grad" in each for each in finding.code)


def test_only_the_first_updates_need_to_be_looked_at():
    assert found(not_cleared, with_stale(*range(1, 9), of=200))


@pytest.mark.parametrize("numbers", [(), (0,), (0, 1), (5,), (2, 4, 6, 8, 10), (18, 19)])
def test_leftovers_now_and_then_may_be_meant(numbers):
    assert found(not_cleared, with_stale(*numbers)) == []


# NaN.


def with_losses(losses, **changes):
    """A run of updates of one batch each; `changes` go to those whose loss is not finite."""
    run = run_of(np.arange(4 * len(losses)))

    def change(number, update):
        loss = losses[number]
        is_bad = loss is not None and not math.isfinite(loss)
        backward = replace(update.backwards[0], loss=loss)
        return replace(update, backwards=(backward,), **(changes if is_bad else {}))

    return with_updates(run, change)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_stays_nan_is_an_error(bad):
    (finding,) = not_finite(with_losses([1.0] * 6 + [bad] + [math.nan] * 3))
    assert (finding.name, finding.level) == ("loss not finite", "error")
    assert f"The loss was {bad} in 4 of 10 updates" in finding.figure
    assert "first in update 7." in finding.figure
    assert finding.share == 0.4


def test_a_loss_that_recovers_is_a_warning():
    run = with_losses([1.0, math.nan, 1.0, 1.0, math.inf, 1.0])
    assert found(not_finite, run) == [("loss not finite", "warning")]


def test_the_lasting_ones_are_counted_where_others_recovered():
    (finding,) = not_finite(with_losses([1.0, math.nan, 1.0, math.nan, math.nan]))
    assert finding.level == "error"
    assert "in 2 of 5 updates" in finding.figure
    assert "first in update 4" in finding.figure


@pytest.mark.parametrize(
    "run",
    [
        with_losses([1.0] * 10),
        with_losses([None] * 10),
        with_losses([1.0, math.nan, math.inf, 1.0], was_skipped=True),
    ],
)
def test_skipped_and_unknown_losses_are_no_finding(run):
    assert found(not_finite, run) == []


def test_a_batch_whose_gradient_was_cleared_is_not_held_against_the_next_update():
    """A loop that looks at the gradient and goes on: its `backward` is seen with the next."""
    run = with_losses([1.0] * 8)

    def cleared(number, update):
        bad = (Backward(math.nan, "mean", 1.0, 4),) if number == 7 else ()
        return replace(update, backwards=(*bad, *update.backwards))

    assert found(not_finite, with_updates(run, cleared)) == []


def test_a_mean_over_no_target_is_named():
    run = with_losses([1.0, math.nan, 1.0, 1.0])

    def empty(_, update):
        if math.isfinite(update.backwards[0].loss):
            return update
        return replace(update, backwards=(replace(update.backwards[0], counted=0),))

    (finding,) = not_finite(with_updates(run, empty))
    assert "which has no target that counts" in finding.figure
    assert finding.level == "warning"
    assert finding.code == ()


def test_a_nan_of_any_rank_is_found():
    good, bad = with_losses([1.0] * 4), with_losses([1.0, 1.0, math.nan, math.nan])
    assert found(not_finite, Run((*good.ranks, *bad.ranks))) == [("loss not finite", "error")]


def test_right_runs_have_no_finding():
    batch = Batch(None, rows=8, width=16)
    updates = tuple(Update((batch,), (Backward(1.0, "mean", 1.0, 8),)) for _ in range(20))
    plain = Run((Rank(0, 1, (Loader((Pass((batch,) * 20, True),)),), updates),))
    planned = run_of(
        *shuffles(96),
        lengths=np.full(96, 7),
        accumulate=4,
        backward=lambda batch: mean_of(batch, 4),
    )
    for run in (plain, planned, Run(ranks=())):
        for check in (mean_of_means, division, not_cleared, not_finite):
            assert found(check, run) == []
