"""Runs that are killed and resumed: what is lost, what comes again, in which order, at which loss."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.doctor.records import Backward, Pass, Run
from batchwright.doctor.resuming.check import _obstacle, check_resume
from batchwright.doctor.resuming.checkpoints import checkpoints_of
from batchwright.doctor.resuming.continuation import resumed
from batchwright.errors import TaskError
from benchmarks.doctor_resume.__main__ import SCRIPTS, torchrun
from tests.doctor.runs import run_of, with_ranks, with_updates
from tests.doctor.watched import fork_what_is_watched

LOST, REPEATED = "samples lost on resume", "samples repeated on resume"
CHANGES, SAME, JUMPS = "order changes on resume", "order repeats on resume", "loss jumps on resume"

Batches = list[np.ndarray]


def orders(samples=64, epochs=3, *, size=4, seed=0) -> list[Batches]:
    """Make epochs, each in an order of its own, as their batches over all ranks."""
    made = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(samples)
        made.append(np.array_split(order, samples // size))
    return made


def run_on(epochs: Sequence[Batches], world_size=1, *, samples=64, loader=(), **fields) -> Run:
    """Make the run that takes the batches of some epochs, the first perhaps from its middle."""
    parts = [tuple(each[rank::world_size] for rank in range(world_size)) for each in epochs if each]
    return run_of(*parts, loader={"num_samples": samples, **dict(loader)}, **fields)


def killed(
    epochs: Sequence[Batches],
    *,
    save: int,
    kill: int,
    world_size=1,
    accumulate=1,
    saves=(),
    **fields,
) -> Run:
    """Make the run that is killed at the end of an update, having saved after another."""
    left, taken = kill * world_size * accumulate, []
    for each in epochs:
        taken.append(each[:left])
        left -= len(taken[-1])
    rank = {"saves": (*saves, save), "ended": "killed"}
    fields = {"accumulate": accumulate, "is_complete": False, "rank": rank} | fields
    return run_on(taken, world_size, **fields)


def rest_of(epochs: Sequence[Batches], consumed: int) -> list[Batches]:
    """Return what is left of some epochs after so many batches, from the open one on."""
    rest = list(epochs)
    while rest and consumed >= len(rest[0]):
        consumed -= len(rest.pop(0))
    return [rest[0][consumed:], *rest[1:]] if rest else []


def names(before: Run, after: Run, **given) -> list[str]:
    return [each.name for each in resumed(before, after, **given)]


# -- any plan, any kill


@dataclass(frozen=True)
class Case:
    epochs: list[Batches]
    samples: int
    before: Run
    rest: list[Batches]
    world_size: int  # of the resumed run
    accumulate: int

    def after(self, rest: Sequence[Batches]) -> Run:
        return run_on(rest, self.world_size, samples=self.samples, accumulate=self.accumulate)


@st.composite
def cases(draw) -> Case:
    update = draw(st.sampled_from([1, 2, 4]))  # batches
    updates = draw(st.integers(2, 6))  # of an epoch
    samples = update * updates * 3 + draw(st.integers(0, 7))
    seed = draw(st.integers(0, 99))
    epochs = [
        np.array_split(np.random.default_rng([seed, epoch]).permutation(samples), update * updates)
        for epoch in range(3)
    ]
    before_ranks, after_ranks = (
        draw(st.sampled_from([each for each in (1, 2, 4) if update % each == 0])) for _ in "ba"
    )
    save = draw(st.integers(1, 2 * updates - 1))
    kill = draw(st.integers(save, 3 * updates))
    before = killed(
        epochs,
        save=save,
        kill=kill,
        world_size=before_ranks,
        accumulate=update // before_ranks,
        samples=samples,
    )
    rest = rest_of(epochs, save * update)
    return Case(epochs, samples, before, rest, after_ranks, update // after_ranks)


@given(cases())
def test_an_exact_resume_is_clean_on_any_ranks(case: Case) -> None:
    assert names(case.before, case.after(case.rest)) == []


@given(cases(), st.data())
def test_any_lost_batch_is_found(case: Case, data) -> None:
    first, *later = case.rest
    gone = data.draw(st.integers(0, len(first) - 1))
    left = [each for place, each in enumerate(first) if place != gone]
    if len(left) >= case.world_size:  # every rank has a part
        assert names(case.before, case.after([left, *later])) == [LOST]


@given(cases(), st.data())
def test_any_repeated_batch_is_found(case: Case, data) -> None:
    first, *later = case.rest
    place = len(case.epochs) - len(case.rest)
    again = data.draw(st.sampled_from(case.epochs[place]))
    at = data.draw(st.integers(0, len(first)))
    more = [*first[:at], again, *first[at:]]
    assert names(case.before, case.after([more, *later])) == [REPEATED]


@given(cases())
def test_an_epoch_that_begins_anew_repeats_what_was_kept(case: Case) -> None:
    place = len(case.epochs) - len(case.rest)
    kept = len(case.epochs[place]) - len(case.rest[0])
    found = names(case.before, case.after(case.epochs[place:]))
    assert found == ([REPEATED] if kept else [])


# -- samples


def test_the_figure_says_how_much_came_again_and_where() -> None:
    epochs = orders()
    before = killed(epochs, save=6, kill=9)
    (finding,) = resumed(before, run_on(epochs))
    assert finding.level == "error"
    assert finding.figure == (
        "Resumed from the checkpoint after update 6, the run read 24 samples of that epoch again; "
        "24 had been read before the checkpoint. It started an epoch from the beginning."
    )
    assert finding.share == 24 / 64


def test_a_resume_on_fewer_ranks_that_counts_updates_alone_loses_and_repeats() -> None:
    """As Trainer does: it skips as many batches as there were updates, of half the size."""
    epochs = orders(128, size=4)
    before = killed(epochs, save=10, kill=12, world_size=2, samples=128)
    other = orders(128, size=4, seed=9)[0]
    after = run_on([other[10:], *epochs[1:]], samples=128)
    found = list(resumed(before, after))
    assert {each.name for each in found} == {LOST, REPEATED}
    assert all("on 1 rank instead of 2" in each.figure for each in found)


def test_skipping_the_batches_of_an_order_that_is_drawn_anew_is_found() -> None:
    epochs, anew = orders(), orders(seed=1)
    before = killed(epochs, save=6, kill=9)
    assert set(names(before, skipping(anew, 6))) == {LOST, REPEATED}


def test_skipping_the_batches_of_the_same_order_is_right() -> None:
    epochs = orders()
    before = killed(epochs, save=6, kill=9)
    assert names(before, skipping(epochs, 6)) == []
    # Its epochs are read through up to where it goes on, of which the record keeps the last.
    before = killed(epochs, save=20, kill=26)
    assert names(before, skipping(epochs[1:], 4)) == []


def skipping(epochs: Sequence[Batches], count: int) -> Run:
    """Make the run of a loop that takes some batches, and trains on those that follow."""
    run = run_on(epochs)
    (rank,) = run.ranks
    first = replace(
        rank.updates[count],
        batches=tuple(batch for each in rank.updates[: count + 1] for batch in each.batches),
    )
    return with_ranks(run, lambda one: replace(one, updates=(first, *one.updates[count + 1 :])))


def test_nothing_is_said_of_an_epoch_whose_end_was_not_seen() -> None:
    epochs = orders()
    before = killed(epochs, save=6, kill=9)
    after = run_on([epochs[0][6:12]], is_complete=False)
    assert names(before, after) == []


def test_an_epoch_is_over_where_the_next_one_is_read_to_its_end() -> None:
    """As Lightning does, which counts the batches that are left."""
    epochs = orders()
    before = killed(epochs, save=6, kill=9)

    def cut(rank, number):
        (loader,) = rank.loaders
        passes = tuple(replace(each, is_complete=False) for each in loader.passes[:number])
        return replace(rank, loaders=(replace(loader, passes=passes + loader.passes[number:]),))

    after = run_on(rest_of(epochs, 9))
    assert names(before, with_ranks(after, lambda rank: cut(rank, 1))) == [LOST]
    assert LOST not in names(before, with_ranks(after, lambda rank: cut(rank, 3)))


def test_a_last_batch_that_is_always_dropped_is_not_lost() -> None:
    epochs = [each[:-1] for each in orders(62)]
    fields = {"samples": 62, "loader": {"drop_last": True}, "batch_size": 5}
    before = killed(epochs, save=6, kill=9, **fields)
    assert names(before, run_on(rest_of(epochs, 6), **fields)) == []
    assert names(before, run_on([epochs[0][6:]], **fields)) == []  # not even where none was whole
    assert names(before, run_on([epochs[0][9:], *epochs[1:]], **fields)) == [LOST]


def test_samples_that_make_ranks_equal_are_not_repeated_by_the_resume() -> None:
    epochs = [[*each, each[0]] for each in orders(60, size=4)]  # 15 batches, and one more
    before = killed(epochs, save=3, kill=5, world_size=2, samples=60)
    assert names(before, run_on(rest_of(epochs, 6), 2, samples=60)) == []
    assert names(before, run_on([epochs[0][6:]], 2, samples=60)) == []
    assert names(before, run_on([epochs[0][2:], *epochs[1:]], 2, samples=60)) == [REPEATED]


def test_a_sampler_that_leaves_samples_out_is_not_blamed_for_them() -> None:
    epochs = orders(40)  # of 64
    loader = {"sampler": "SubsetRandomSampler"}
    before = killed(epochs, save=3, kill=6, loader=loader)
    assert names(before, run_on([epochs[0][3:]], loader=loader)) == []
    assert names(before, run_on([epochs[0][5:]], loader=loader)) == [LOST]


def test_a_curriculum_that_adds_samples_later_has_not_lost_them() -> None:
    epochs = [*orders(40, 1), *orders(64, 3)[1:]]
    loader = {"is_planned": True, "sampler": "PlanBatchSampler"}
    before = killed(epochs, save=3, kill=6, loader=loader)
    assert names(before, run_on(rest_of(epochs, 3), loader=loader)) == []
    assert names(before, run_on(rest_of(epochs, 5), loader=loader)) == [LOST]
    epochs = [*orders(40, 1), np.array_split(np.arange(64), 16), *orders(64, 1)]
    before = killed(epochs, save=21, kill=24, loader=loader)  # the samples that are new
    assert names(before, run_on(rest_of(epochs, 23), loader=loader)) == [LOST]
    epochs = orders()
    before = killed(epochs, save=19, kill=20, loader=loader)
    assert names(before, run_on(rest_of(epochs, 19), loader=loader)) == []
    assert names(before, run_on(rest_of(epochs, 22), loader=loader)) == [LOST]


def test_draws_with_replacement_are_not_judged() -> None:
    rng = np.random.default_rng(0)
    epochs = [np.array_split(rng.integers(0, 64, 64), 16) for _ in range(2)]
    loader = {"replaces": True}
    before = killed(epochs, save=3, kill=6, loader=loader)
    assert names(before, run_on(epochs, loader=loader)) == []


def test_an_order_that_has_samples_twice_by_itself_is_not_judged() -> None:
    order = np.random.default_rng(0).permutation(np.tile(np.arange(16), 4))
    epochs = [np.array_split(order, 16)]
    before = killed(epochs, save=6, kill=12)
    assert names(before, run_on([epochs[0][6:]])) == []
    assert names(before, run_on(epochs)) == []


def test_samples_that_are_not_identified_are_not_judged() -> None:
    epochs = orders()
    before = killed(epochs, save=6, kill=9)

    def forgotten(rank):
        loader = rank.loaders[0]
        passes = tuple(
            Pass(tuple(replace(one, samples=None) for one in each.batches), each.is_complete)
            for each in loader.passes
        )
        return replace(rank, loaders=(replace(loader, passes=passes),))

    assert names(before, with_ranks(run_on(epochs), forgotten)) == []
    assert names(with_ranks(before, forgotten), run_on(epochs)) == []


def test_a_rank_whose_record_is_missing_is_not_judged() -> None:
    epochs = orders()
    before = killed(epochs, save=3, kill=4, world_size=2)
    alone = replace(before, ranks=before.ranks[:1])
    assert names(alone, run_on(epochs)) == []


def test_contents_are_judged_where_they_come_again() -> None:
    loader = {"has_indices": False, "num_samples": None}
    names_of_samples = np.random.default_rng(5).integers(1 << 40, size=64)
    epochs = [[names_of_samples[batch] for batch in each] for each in orders()]
    before = killed(epochs, save=8, kill=12, loader=loader)
    assert names(before, run_on(rest_of(epochs, 8), loader=loader)) == []
    assert names(before, run_on(epochs, loader=loader)) == [REPEATED]
    # Augmented: each time another.
    drawn = [[batch + 1 + epoch for batch in each] for epoch, each in enumerate(epochs)]
    assert names(before, run_on(drawn, loader=loader)) == []


def test_indices_are_judged_where_the_size_of_the_data_is_not_known() -> None:
    epochs, loader = orders(), {"num_samples": None}
    before = killed(epochs, save=8, kill=12, loader=loader)
    assert names(before, run_on(rest_of(epochs, 8), loader=loader)) == []
    assert names(before, run_on(rest_of(epochs, 7), loader=loader)) == [REPEATED]
    assert names(before, run_on(rest_of(epochs, 9), loader=loader)) == [LOST]


def test_a_few_equal_contents_are_no_repeats() -> None:
    loader = {"has_indices": False, "num_samples": None}
    contents = np.arange(64) + (1 << 40)
    contents[40:44] = contents[0]
    epochs = [[contents[batch] for batch in each] for each in orders(seed=3)]
    before = killed(epochs[:1], save=4, kill=6, loader=loader)
    assert names(before, run_on([epochs[0][4:]], loader=loader)) == []


# -- chains and checkpoints


def test_a_run_that_is_resumed_twice_is_judged_with_what_all_kept() -> None:
    epochs = orders()
    first = killed(epochs, save=3, kill=6)
    second = killed([epochs[0][3:], *epochs[1:]], save=4, kill=5)
    kept = next(checkpoints_of(first)).kept
    assert kept.size == 12
    assert names(first, second) == []
    assert names(second, run_on(rest_of(epochs, 7)), earlier=kept) == []
    assert names(second, run_on(epochs), earlier=kept) == [REPEATED]
    assert names(second, run_on(rest_of(epochs, 9)), earlier=kept) == [LOST]
    # Within the next epoch, what was kept before no longer counts.
    later = killed([epochs[0][3:], *epochs[1:]], save=15, kill=18)
    assert names(later, run_on(rest_of(epochs, 18)), earlier=kept) == []
    assert names(later, run_on(rest_of(epochs, 20)), earlier=kept) == [LOST]


def test_a_run_may_go_on_from_an_earlier_checkpoint() -> None:
    epochs = orders()
    before = killed(epochs, saves=(3,), save=6, kill=9)
    assert names(before, run_on(rest_of(epochs, 3))) == []
    assert names(before, run_on(rest_of(epochs, 4))) == [REPEATED]


def test_the_checkpoint_is_the_one_whose_files_were_read() -> None:
    """A script may also save its best model, in the middle of an epoch."""
    epochs = orders()
    written = {"all": 16, "best": 20}
    rank = {"saves": (16, 20), "ended": "killed", "written": written}
    before = killed(epochs, save=20, kill=24, rank=rank)
    for read, found in (("all", []), ("best", [REPEATED])):
        after = with_ranks(run_on(epochs[1:]), lambda one, read=read: replace(one, read=(read,)))
        assert names(before, after) == found
    assert names(before, run_on(epochs[1:])) == [REPEATED]


def test_an_epoch_that_was_over_at_the_kill_is_over() -> None:
    epochs = orders()
    before = killed(epochs[:1], save=16, kill=16)  # the loader was not asked for more
    assert next(checkpoints_of(before)).is_between
    assert names(before, run_on(epochs[1:])) == []


def test_loaders_that_follow_one_another_are_one() -> None:
    """As Trainer resumes: by a loader that skips, then by its own."""
    epochs = orders()
    before = killed(epochs, save=6, kill=9)

    def apart(rank):
        (loader,) = rank.loaders
        skipping = replace(loader, passes=loader.passes[:1], batch_sampler="SkipBatchSampler")
        return replace(rank, loaders=(replace(loader, passes=loader.passes[1:]), skipping))

    assert names(before, with_ranks(run_on(rest_of(epochs, 6)), apart)) == []
    assert names(before, with_ranks(run_on(epochs), apart)) == [REPEATED]


# -- the order


def test_another_order_of_what_is_left_is_a_warning() -> None:
    epochs = orders()
    before = killed(epochs, save=4, kill=9)
    left = np.concatenate(epochs[0][4:])
    mixed = np.array_split(np.random.default_rng(1).permutation(left), 12)
    (finding,) = resumed(before, run_on([mixed, *epochs[1:]]))
    assert (finding.name, finding.level) == (CHANGES, "warning")


def test_another_order_of_the_next_epoch_is_a_warning() -> None:
    epochs, other = orders(), orders(seed=7)
    before = killed(epochs, save=16, kill=24)
    assert names(before, run_on([other[1], epochs[2]])) == [CHANGES]


@pytest.mark.parametrize("kill", [17, 22, 30])
def test_an_order_that_comes_again_is_found(kill: int) -> None:
    epochs = orders(epochs=4)
    before = killed(epochs, save=16, kill=kill)
    assert SAME in names(before, run_on([epochs[0], *epochs[2:]]))
    assert names(before, run_on(epochs[1:])) == []


def test_an_order_that_comes_again_after_the_resumed_epoch_is_found() -> None:
    epochs = orders(epochs=4)
    before = killed(epochs, save=20, kill=24)
    assert names(before, run_on([epochs[1][4:], epochs[0]])) == [SAME]


def test_a_run_that_was_killed_after_the_next_epoch_had_begun_may_have_it_again() -> None:
    epochs = orders(epochs=4)
    before = killed(epochs, save=4, kill=30)
    assert names(before, run_on(rest_of(epochs, 4))) == []


def test_an_order_that_is_always_the_same_is_not_blamed_on_the_resume() -> None:
    epochs = orders(epochs=1) * 4
    before = killed(epochs, save=16, kill=24)
    assert names(before, run_on(epochs[1:])) == []
    one, other = orders(epochs=2)
    before = killed([one, other, one], save=36, kill=44)
    assert names(before, run_on([one[4:], other, one])) == []


# -- the loss


def losing(run: Run, losses: np.ndarray, factor: float = 1.0) -> Run:
    def change(place, update):
        loss = float(losses[min(place, len(losses) - 1)])
        backwards = tuple(Backward(loss * factor, "mean", factor, 4) for _ in update.batches)
        return replace(update, backwards=backwards)

    return with_updates(run, change)


def falling(start=0, count=64, seed=0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 0.05, start + count)
    return (1 + 3 * np.exp(-np.arange(start + count) / 6) + noise)[start:]


def test_a_loss_that_falls_back_is_found() -> None:
    epochs = orders()
    before = losing(killed(epochs, save=14, kill=16), falling())
    after = run_on(rest_of(epochs, 14))
    assert names(before, losing(after, falling(14, seed=1))) == []
    (finding,) = resumed(before, losing(after, falling(seed=1)))
    assert (finding.name, finding.level) == (JUMPS, "error")
    assert finding.share > 0.5
    # It began with a lower loss than that: no fault of the checkpoint.
    assert names(before, losing(after, falling(14, seed=1) + 2), first=losing(before, [0.5])) == []


def test_losses_are_compared_as_means_whatever_they_are_divided_by() -> None:
    epochs = orders()
    before = losing(killed(epochs, save=7, kill=8, world_size=2), falling(10), factor=1.0)
    after = run_on(rest_of(epochs, 14), accumulate=2)
    assert names(before, losing(after, falling(17), factor=0.5)) == []
    before = losing(killed(epochs, save=7, kill=8, accumulate=2), falling(10), factor=0.5)
    after = run_on(rest_of(epochs, 14), 2)
    assert names(before, losing(after, falling(17), factor=1.0)) == []


def test_losses_that_jump_without_the_kill_are_no_fault() -> None:
    """Those of an order from short samples to long ones."""
    epochs = orders()
    losses = np.where(np.arange(64) < 10, falling(), 4.0)
    before = losing(killed(epochs, save=10, kill=14), losses)
    assert names(before, losing(run_on(rest_of(epochs, 10)), losses[10:])) == []


def test_losses_that_scatter_as_much_are_no_fault() -> None:
    epochs = orders()
    noisy = falling() + np.random.default_rng(2).normal(0, 1.0, 64)
    before = losing(killed(epochs, save=14, kill=15), noisy)
    assert names(before, losing(run_on(rest_of(epochs, 14)), noisy[10:] + 1)) == []


# -- in processes


def test_a_command_to_resume_with_is_needed() -> None:
    with pytest.raises(TaskError, match="continues from the last checkpoint"):
        check_resume([sys.executable, "train.py"], [])


def test_what_cannot_be_resumed_says_what_to_do() -> None:
    epochs = orders()
    never = with_ranks(killed(epochs, save=4, kill=9), lambda rank: replace(rank, saves=()))
    assert "Choose a later update" in _obstacle(never)
    unkilled = with_ranks(never, lambda rank: replace(rank, ended="run"))
    assert "save more often" in _obstacle(unkilled)
    assert "more seconds" in _obstacle(replace(unkilled, stopped="seconds", seconds=60.0))
    over = with_ranks(killed(epochs, save=4, kill=9), lambda rank: replace(rank, ended="run"))
    assert "an update from 5 to 8" in _obstacle(over)
    assert _obstacle(killed(epochs, save=4, kill=9)) is None
    failed = _obstacle(replace(over, exit_code=1))
    assert failed == "the command failed with exit code 1, after 9 updates."


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def script(name: str, folder, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / name), str(folder), *options]


@pytest.mark.slow
def test_a_plain_loader_begins_its_epoch_anew(tmp_path, sources) -> None:
    command = script("plain.py", tmp_path)
    runs, findings = check_resume(command, [[*command, "--resume"]], to_stderr=True)
    (first,), (second,) = (each.ranks for each in runs)
    assert first.ended == "killed"
    (file,) = set(second.read) & first.written.keys()  # under the name that it was given later
    assert first.written[file] == max(first.saves)
    assert [each.name for each in findings] == [REPEATED]
    assert runs[1].command[-1] == "--resume"


@pytest.fixture
def by_forks(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs forked: that they are started and killed in their own right is tested above."""
    fork_what_is_watched(monkeypatch, tmp_path)


@pytest.mark.slow
def test_a_planned_loader_goes_on_with_other_workers_and_ranks(tmp_path, by_forks) -> None:
    command = script("planned.py", tmp_path)
    resume = [*command, "--resume"]
    runs, findings = check_resume(
        torchrun(2, command), [torchrun(2, resume), resume], workers=2, seed=1, to_stderr=True
    )
    assert [len(each.ranks) for each in runs] == [2, 2, 1, 1]
    assert [each.ranks[0].trained.num_workers for each in runs] == [0, 0, 0, 2]
    assert findings == ()


@pytest.mark.slow
def test_a_script_that_fails_is_told_so(tmp_path, by_forks) -> None:
    command = script("plain.py", tmp_path, "--unknown")
    with pytest.raises(TaskError, match="no update that was seen. The command failed with exit"):
        check_resume(command, [command], to_stderr=True)


@pytest.mark.slow
def test_a_script_that_does_not_save_is_told_so(tmp_path, by_forks) -> None:
    command = script("plain.py", tmp_path, "--every", "1000")
    with pytest.raises(TaskError, match="no checkpoint was seen"):
        check_resume(command, [command], to_stderr=True)
