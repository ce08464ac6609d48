"""What planned batches would gain: padding as the planner then has it, times as they were made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import batchwright as bw
from batchwright.budgets import suggest
from batchwright.doctor.gains import are_all, gain_of, lengths_seen, padding_of, save_lengths
from batchwright.doctor.records import Run
from batchwright.doctor.timing import LEAST, WARM_UP, timing_of
from batchwright.stats.baseline import UNLIKE, keeping_batches
from tests.doctor.runs import batch_of, lasting, run_of, shared, shuffles, with_ranks, with_updates
from tests.doctor.watched import run_script

SCRIPT = Path(__file__).with_name("plain_script.py")

rng = np.random.default_rng(0)
LENGTHS = rng.lognormal(3.5, 0.8, 1_600).clip(2, 400).astype(int)
LARGE = {
    "log-normal": rng.lognormal(4, 1, 12_000).clip(1, 1_024).astype(int),
    "uniform": rng.integers(1, 200, 12_000),
    "two kinds": np.where(rng.random(12_000) < 0.9, rng.integers(5, 20, 12_000), 300),
    "one very long": np.append(rng.integers(10, 60, 11_999), 5_000),
}


def part_of(run: Run, batches: int) -> Run:
    """Leave only the first batches of the first epoch."""

    def cut(rank):
        (loader,) = rank.loaders
        first = replace(loader.passes[0], batches=loader.passes[0].batches[:batches])
        first = replace(first, is_complete=False)
        return replace(rank, loaders=(replace(loader, passes=(first,)),))

    return with_ranks(run, cut)


def timed(run: Run, cost, *, beside: float = 0.0, noise: float = 0.0, pauses: int = 0) -> Run:
    """Give updates the times of their batches, `cost(rows, width)`; every so many have a pause."""
    draws = np.random.default_rng(1)

    def change(number, update):
        work = sum(cost(each.rows, each.width) for each in update.batches)
        work *= 1 + noise * draws.standard_normal()
        work += 100 * cost(32, 400) if pauses and number % pauses == pauses - 1 else 0.0
        return lasting(update, work, beside=beside)

    return with_updates(run, change)


# Lengths


def test_each_sample_has_its_length_once_by_index() -> None:
    run = run_of(*shuffles(50, 3), lengths=LENGTHS[:50])
    assert lengths_seen(run).tolist() == LENGTHS[:50].tolist()
    assert are_all(run, lengths_seen(run))


def test_samples_that_ranks_share_count_once() -> None:
    order = shuffles(51, 1)[0]
    run = run_of(shared(order), lengths=LENGTHS[:51])
    assert lengths_seen(run).tolist() == LENGTHS[:51].tolist()


def test_a_part_is_a_part() -> None:
    run = part_of(run_of(shuffles(50, 1)[0], lengths=LENGTHS[:50]), 3)
    assert lengths_seen(run).size == 12
    assert not are_all(run, lengths_seen(run))


def test_samples_that_are_known_by_content_count_as_often_as_an_epoch_has_them() -> None:
    orders = [np.array([7, 7, 7, 3]), np.array([3, 7, 7, 7])]  # three samples have equal contents
    run = run_of(*orders, lengths=LENGTHS[:8], loader={"has_indices": False})
    assert sorted(lengths_seen(run)) == sorted(LENGTHS[[7, 7, 7, 3]])


def test_batches_that_were_not_looked_into_are_left_out() -> None:
    run = run_of(np.arange(40), lengths=LENGTHS[:40])

    def blinded(rank):
        (loader,) = rank.loaders
        first, *others = loader.passes[0].batches
        blind = replace(first, lengths=None, width=1)
        passes = (replace(loader.passes[0], batches=(blind, *others)),)
        return replace(rank, loaders=(replace(loader, passes=passes),))

    run = with_ranks(run, blinded)
    assert lengths_seen(run).tolist() == LENGTHS[4:40].tolist()
    assert gain_of(run) is not None


def test_samples_without_length_gain_nothing() -> None:
    run = run_of(np.arange(40))
    assert not lengths_seen(run).size
    assert gain_of(run) is None
    assert padding_of(run) is None
    assert gain_of(Run(())) is None


def test_saved_lengths_are_read_by_what_plans(tmp_path) -> None:
    from batchwright.sources import read_lengths

    run = run_of(*shuffles(50, 1), lengths=LENGTHS[:50])
    assert save_lengths(run, tmp_path / "lengths.npy") == 50
    assert read_lengths(tmp_path / "lengths.npy").tolist() == LENGTHS[:50].tolist()
    assert save_lengths(run_of(np.arange(4)), tmp_path / "none.npy") == 0
    assert not (tmp_path / "none.npy").exists()


# Padding


@pytest.mark.parametrize("accumulate", [2, 8])
def test_padding_is_what_the_planner_then_has(accumulate: int) -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    run = run_of(order, lengths=LENGTHS, batch_size=16, accumulate=accumulate)
    gain = gain_of(run)
    assert gain is not None
    planner = bw.Planner(
        LENGTHS, batch_size=gain.planned_batch_size, accumulate=gain.planned_accumulate
    )
    stats = planner(0).stats(LENGTHS)
    assert gain.planned_padding == pytest.approx(1 - stats.efficiency)
    assert gain.dispersion == pytest.approx(stats.dispersion)
    assert gain.max_tokens == stats.budget
    widths = np.maximum.reduceat(LENGTHS[order], np.arange(0, len(order), 16))
    assert gain.padding == pytest.approx(1 - LENGTHS.sum() / (16 * widths).sum())
    assert gain.step_tokens == pytest.approx(16 * accumulate * LENGTHS.mean(), rel=0.05)


@pytest.mark.parametrize("kind", LARGE)
@pytest.mark.parametrize("framework", ["torch", "transformers"])
def test_a_part_tells_the_padding_of_the_whole(kind: str, framework: str) -> None:
    lengths = LARGE[kind]
    order = shuffles(len(lengths), 1)[0]
    whole = run_of(order, lengths=lengths, batch_size=32, rank={"framework": framework})
    seen, all_seen = gain_of(part_of(whole, 40)), gain_of(whole)
    assert seen is not None
    assert all_seen is not None
    assert seen.planned_padding == pytest.approx(all_seen.planned_padding, abs=0.01)


def test_an_update_of_one_batch_is_cut_so_that_it_mixes() -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    gain = gain_of(run_of(order, lengths=LENGTHS, batch_size=32))
    assert gain is not None
    assert gain.is_cut
    assert (gain.planned_batch_size, gain.planned_accumulate) == (4, 8)
    assert gain.dispersion < UNLIKE
    assert gain.planned_padding < 0.1 < gain.padding


def test_a_trainer_gets_batches_so_small_that_its_updates_mix() -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    run = run_of(order, lengths=LENGTHS, batch_size=32, rank={"framework": "transformers"})
    gain = gain_of(run)
    assert gain is not None
    assert gain.is_cut
    assert gain.dispersion < UNLIKE
    size, slots = gain.planned_batch_size, gain.planned_accumulate
    assert size * slots == 32
    # As `use_plan` derives it from these settings of the trainer.
    budgets = suggest(LENGTHS, batch_size=size)
    batching, tokens = bw.TokenBudget(budgets.for_all), budgets.tokens_of(slots)
    planner = bw.Planner(LENGTHS, batching=batching, step_tokens=tokens)
    stats = keeping_batches(planner, slots)(0).stats(LENGTHS)
    assert gain.planned_padding == pytest.approx(1 - stats.efficiency)
    assert gain.dispersion == pytest.approx(stats.dispersion)


def test_updates_of_many_batches_stay_as_they_are() -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    gain = gain_of(run_of(order, lengths=LENGTHS, batch_size=8, accumulate=8))
    assert gain is not None
    assert not gain.is_cut
    assert (gain.planned_batch_size, gain.planned_accumulate) == (8, 8)


def test_ranks_share_an_update() -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    gain = gain_of(run_of(shared(order), lengths=LENGTHS, batch_size=8, accumulate=4))
    assert gain is not None
    assert (gain.batch_size, gain.accumulate, gain.world_size) == (8, 4, 2)
    planner = bw.Planner(LENGTHS, batch_size=8, accumulate=4, world_size=2)
    assert gain.planned_padding == pytest.approx(1 - planner(0).stats(LENGTHS).efficiency)


def test_rows_that_a_collator_rounds_up_stay_rounded() -> None:
    order = shuffles(len(LENGTHS), 1)[0]
    batches = [order[at : at + 16] for at in range(0, len(order), 16)]
    plain = run_of(batches, lengths=LENGTHS, accumulate=8)

    def widened(rank):
        (loader,) = rank.loaders
        made = tuple(replace(each, width=-(-each.width // 64) * 64) for each in loader.batches)
        return replace(
            rank, loaders=(replace(loader, passes=(replace(loader.passes[0], batches=made),)),)
        )

    before, after = gain_of(plain), gain_of(with_ranks(plain, widened))
    assert before is not None
    assert after is not None
    assert after.planned_padding > before.planned_padding + 0.1
    assert after.padded_to is None


def test_rows_that_are_all_padded_to_one_width_are_named() -> None:
    run = run_of(shuffles(200, 1)[0], lengths=LENGTHS[:200], batch_size=8, batch={"width": 512})
    gain = gain_of(run)
    assert gain is not None
    assert gain.padded_to == 512
    assert gain.planned_padding < 0.2
    assert gain.padding > 0.8


def test_nothing_is_said_of_planned_or_packed_batches() -> None:
    order = shuffles(200, 1)[0]
    planned = run_of(order, lengths=LENGTHS[:200], loader={"is_planned": True})
    packed = run_of(order, lengths=LENGTHS[:200], batch={"is_packed": True})
    assert gain_of(planned) is None
    assert gain_of(packed) is None


# Times


def costs(rows: int, width: int) -> float:
    return 2e-3 + 1e-5 * rows * width + 5e-8 * rows * width**2


@pytest.mark.parametrize("accumulate", [1, 8])
def test_times_of_planned_batches_are_predicted(accumulate: int) -> None:
    order = shuffles(len(LENGTHS), 8 if accumulate > 1 else 2)
    run = run_of(*order, lengths=LENGTHS, batch_size=16, accumulate=accumulate)
    run = timed(run, costs, beside=0.05, noise=0.03, pauses=25)
    run = with_ranks(run, lambda rank: replace(rank, overhead=costs(0, 0)))
    gain = gain_of(run)
    assert gain is not None
    assert gain.speed is not None
    assert gain.planned_tokens_per_second is not None
    planner = bw.Planner(
        LENGTHS, batch_size=gain.planned_batch_size, accumulate=gain.planned_accumulate
    )
    plan = planner(0)
    longest = np.maximum.reduceat(LENGTHS[plan.indices], plan.offsets[:-1])
    true = sum(costs(rows, width) for rows, width in zip(plan.sizes, longest, strict=True))
    true += 0.05 * len(plan) / planner.accumulate
    assert LENGTHS.sum() / gain.planned_tokens_per_second == pytest.approx(true, rel=0.1)
    assert 0.01 < gain.spread < 0.06
    assert gain.rests_on


def test_what_a_batch_takes_beside_its_tokens_is_that_of_its_operations() -> None:
    # Noise hides it: batches of one size all have about as much of it as of tokens.
    run = run_of(*shuffles(480, 1), lengths=LENGTHS, batch_size=16)
    run = timed(run, lambda rows, width: 5e-3 + 2e-5 * rows * width, noise=0.15)
    run = with_ranks(run, lambda rank: replace(rank, overhead=5e-3))
    timing = timing_of(run)
    assert timing is not None
    found = timing.predicted(np.full(8, 2), np.full(8, 20), world_size=1, accumulate=8)
    assert found is not None
    assert found[0] == pytest.approx(8 * (5e-3 + 2e-5 * 40), rel=0.1)


def test_pauses_and_the_first_updates_do_not_count() -> None:
    run = run_of(*shuffles(len(LENGTHS), 2), lengths=LENGTHS, batch_size=16)
    calm, paused = timing_of(timed(run, costs)), timing_of(timed(run, costs, pauses=10))
    assert calm is not None
    assert paused is not None
    assert paused.tokens_per_second == pytest.approx(calm.tokens_per_second, rel=0.02)
    assert paused.num_updates < calm.num_updates == 2 * 100 - WARM_UP


def test_waiting_stays_and_is_no_work() -> None:
    run = run_of(*shuffles(len(LENGTHS), 2), lengths=LENGTHS, batch_size=16, batch={"wait": 0.5})

    def change(number, update):
        work = sum(costs(each.rows, each.width) for each in update.batches)
        return lasting(update, work + 0.5)

    timing = timing_of(with_updates(run, change))
    assert timing is not None
    assert timing.waiting == pytest.approx(0.5 / 16)
    rows, widths = np.array([16, 16]), np.array([30, 40])
    found = timing.predicted(rows, widths, world_size=1, accumulate=1)
    assert found is not None
    assert found[0] == pytest.approx(1.0 + costs(16, 30) + costs(16, 40), rel=0.02)


def test_ranks_wait_for_the_slowest() -> None:
    order = shuffles(len(LENGTHS), 4)
    run = run_of(*(shared(each) for each in order), lengths=LENGTHS, batch_size=16)
    slowest = [
        max(costs(each.batches[0].rows, each.batches[0].width) for each in both)
        for both in zip(*(rank.updates for rank in run.ranks), strict=True)
    ]
    run = with_updates(run, lambda number, update: lasting(update, slowest[number]))
    timing = timing_of(run)
    assert timing is not None
    rows, widths = np.array([16, 16, 16, 16]), np.array([20, 200, 100, 50])
    found = timing.predicted(rows, widths, world_size=2, accumulate=1)
    assert found is not None
    assert found[0] == pytest.approx(costs(16, 200) + costs(16, 100), rel=0.02)


def test_times_that_shapes_do_not_explain_predict_nothing() -> None:
    run = run_of(*shuffles(len(LENGTHS), 2), lengths=LENGTHS, batch_size=16)
    draws = np.random.default_rng(2)
    run = with_updates(run, lambda number, update: lasting(update, draws.uniform(0.1, 1.0)))
    gain = gain_of(run)
    assert gain is not None
    assert gain.tokens_per_second is not None
    assert gain.planned_tokens_per_second is None
    assert gain.rests_on == ""


def test_shapes_that_are_all_alike_predict_nothing() -> None:
    run = run_of(*shuffles(len(LENGTHS), 2), lengths=LENGTHS, batch_size=16, batch={"width": 512})
    gain = gain_of(timed(run, costs, noise=0.02))
    assert gain is not None
    assert gain.planned_tokens_per_second is None
    assert gain.saved_time == gain.saved > 0.5


def test_few_updates_predict_nothing() -> None:
    count = 16 * (LEAST + WARM_UP - 1)
    run = run_of(shuffles(count, 1)[0], lengths=LENGTHS[:count], batch_size=16)
    assert timing_of(timed(run, costs)) is None
    count += 16
    run = run_of(shuffles(count, 1)[0], lengths=LENGTHS[:count], batch_size=16)
    assert timing_of(timed(run, costs)) is not None


def test_updates_without_known_batches_are_left_out() -> None:
    run = run_of(*shuffles(len(LENGTHS), 2), lengths=LENGTHS, batch_size=16)
    run = timed(run, costs)
    blind = with_updates(
        run,
        lambda number, update: (
            update if number % 2 else replace(update, batches=(batch_of([0, 1]),), end=100.0)
        ),
    )
    found, other = timing_of(run), timing_of(blind)
    assert found is not None
    assert other is not None
    assert other.tokens_per_second == pytest.approx(found.tokens_per_second, rel=0.05)


# A script


@pytest.mark.slow
def test_a_watched_script_tells_what_planning_gains(tmp_path) -> None:
    run, _ = run_script(SCRIPT, tmp_path)
    (rank,) = run.ranks
    assert rank.overhead is not None
    assert 1e-5 < rank.overhead < 0.1
    gain = gain_of(run)
    assert gain is not None
    assert gain.batch_size == 8
    assert gain.planned_padding < gain.padding - 0.1
    assert gain.num_updates >= LEAST
    assert gain.tokens_per_second is not None
