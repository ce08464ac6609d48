"""Ranks that share what they should split, and that differ where they should not."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks import ranks
from batchwright.doctor.checks.loss import mean_of_means
from batchwright.doctor.records import Backward
from tests.doctor.runs import run_of, shared, shuffles, with_ranks, with_updates
from tests.doctor.test_samples import STREAM, distributed, found, names_of_contents, the_one

LENGTHS = np.random.default_rng(1).lognormal(3, 0.6, 400).astype(int) + 1


@pytest.mark.parametrize("seen", [400, 24])
def test_ranks_with_the_same_order(seen):
    run = run_of(
        *[(each[:seen], each[:seen]) for each in shuffles(400)],
        is_complete=seen == 400,
        loader={"sampler": "RandomSampler", "num_samples": 400},
    )
    finding = the_one(run, ranks.samples_of_ranks)
    assert (finding.name, finding.level, finding.share) == (
        "ranks see the same samples",
        "error",
        0.5,
    )
    assert f"the first {seen} of an epoch are equal" in finding.figure
    assert "DistributedSampler" in finding.code[0]


def test_ranks_that_shuffle_all_samples_on_their_own():
    run = run_of(*zip(shuffles(400, 2, 0), shuffles(400, 2, 1), strict=True))
    finding = the_one(run)
    assert finding.name == "ranks see the same samples"
    assert 0.2 < finding.share < 0.3  # of the first halves


@pytest.mark.parametrize("size", range(1, 40))
@pytest.mark.parametrize("world_size", [2, 3])
def test_what_fills_the_last_batches_is_right(size, world_size):
    run = run_of(*[shared(each, world_size) for each in shuffles(size)])
    assert found(run, ranks.samples_of_ranks) == []


def test_ranks_that_draw_by_weight_may_meet_but_not_draw_the_same():
    drawn = [np.random.default_rng(seed).integers(50, size=200) for seed in range(4)]
    options = {"replaces": True, "num_samples": 50}
    apart = run_of((drawn[0], drawn[1]), (drawn[2], drawn[3]), loader=options)
    assert found(apart, ranks.samples_of_ranks) == []
    together = run_of((drawn[0], drawn[0]), (drawn[2], drawn[2]), loader=options)
    assert found(together, ranks.samples_of_ranks)


def test_a_stream_that_all_ranks_read():
    contents = names_of_contents(200)
    finding = the_one(run_of((contents, contents), loader=STREAM))
    assert (finding.name, finding.share) == ("ranks see the same samples", 0.5)
    assert "split_dataset_by_node" in finding.code[0]


@pytest.mark.parametrize(("common", "is_found"), [(130, True), (20, False)])
def test_streams_that_have_contents_in_common(common, is_found):
    first, other = names_of_contents(200), names_of_contents(200, seed=1)
    second = np.r_[other[common:], first[:common]]
    found_names = [each.name for each in found(run_of((first, second), loader=STREAM))]
    assert found_names == ["ranks see the same samples"] * is_found


@pytest.mark.parametrize("framework", ["accelerate", "lightning"])
def test_the_cure_is_that_of_the_framework(framework):
    run = run_of(*[(each, each) for each in shuffles(400)], rank={"framework": framework})
    cure = the_one(run, ranks.samples_of_ranks).code[0]
    assert cure.startswith({"accelerate": "loader = acc", "lightning": "Trainer("}[framework])


def with_ends(run, *ends):
    """Say which ranks came to the end of their only pass."""
    made = []
    for rank, is_complete in zip(run.ranks, ends, strict=True):
        (loader,) = rank.loaders
        passes = tuple(replace(each, is_complete=is_complete) for each in loader.passes)
        made.append(replace(rank, loaders=(replace(loader, passes=passes),)))
    return replace(run, ranks=tuple(made))


@pytest.mark.parametrize("ends", [(True, True), (True, False)])
def test_ranks_with_different_counts(ends):
    order = np.random.default_rng(0).permutation(100)
    run = with_ends(run_of((order[:40], order[40:])), *ends)
    finding = the_one(run)
    assert (finding.name, finding.level) == ("ranks with different counts", "error")
    assert finding.figure == (
        "In epoch 1, rank 1 had 15 batches, and another reached the end after 10."
    )
    assert finding.share == pytest.approx(1 / 3)


@pytest.mark.parametrize("ends", [(False, True), (False, False)])
def test_a_rank_that_has_not_come_as_far_may_still_have_as_many(ends):
    order = np.random.default_rng(0).permutation(100)
    run = with_ends(run_of((order[:40], order[40:])), *ends)
    assert found(run, ranks.counts_of_ranks) == []


def uneven(rows=(1, 9), updates=20):
    """Deal batches of other sizes to each rank."""
    order = np.random.default_rng(0).permutation(sum(rows) * updates)
    ends = np.cumsum(rows)
    split = [np.split(each, ends[:-1]) for each in order.reshape(updates, -1)]
    return tuple([each[rank] for each in split] for rank in range(len(rows)))


def test_a_mean_over_each_rank_weighs_small_batches_up():
    finding = the_one(run_of(uneven()), ranks.batches_of_ranks)
    assert (finding.name, finding.level) == ("ranks with unequal batches", "warning")
    assert finding.figure.startswith("A target weighs 9.00 × as much on one rank as on another")
    assert finding.share == pytest.approx(0.4)  # half of the weight for a tenth of the targets
    assert "all_reduce" in finding.code[1]


def test_a_sum_over_all_ranks_is_right_whatever_batches_are():
    run = run_of(uneven(), backward=lambda batch: Backward(1.0, "sum", 0.2, batch.rows))
    assert found(run, ranks.batches_of_ranks) == []
    tenth = run_of(
        uneven(), backward=lambda batch: Backward(1.0, "mean", batch.rows / 5, batch.rows)
    )
    assert found(tenth, ranks.batches_of_ranks) == []


def test_what_is_a_mean_of_means_is_said_once():
    lengths = np.tile([2, 6], 48)  # the second rank has the longer samples
    epoch = (np.arange(96)[::2], np.arange(96)[1::2])
    run = run_of(epoch, epoch, lengths=lengths)
    assert found(run, ranks.batches_of_ranks) == []
    finding = the_one(run, mean_of_means)
    assert "counts 3 times as much" in finding.figure
    assert "A rank has from 8 to 24 targets in an update" in finding.figure
    trainer = with_ranks(run, lambda rank: replace(rank, framework="transformers"))
    assert "average_tokens_across_devices" in the_one(trainer, mean_of_means).code[0]


def test_a_loss_that_is_not_known_is_judged_by_samples():
    run = run_of(uneven((4, 8)), backward=lambda _: Backward(1.0))
    finding = the_one(run, ranks.batches_of_ranks)
    assert finding.figure == ("In the median update, ranks have from 4 to 8 samples.")
    assert "2.00 × as much" in finding.cost
    assert found(run_of(uneven((8, 8)), backward=lambda _: Backward(1.0))) == []


def test_accumulated_weights_count_together():
    order = np.random.default_rng(0).permutation(400)
    batches = np.split(order, np.cumsum(np.tile([1, 9, 9, 1], 20))[:-1])
    run = run_of((batches[0::4] + batches[1::4], batches[2::4] + batches[3::4]))
    assert found(run, ranks.batches_of_ranks)  # 1 beside 9
    pairs = tuple(
        [each for at in range(0, 80, 4) for each in batches[at + start : at + start + 2]]
        for start in (0, 2)
    )
    assert found(run_of(pairs, accumulate=2), ranks.batches_of_ranks) == []  # 10 beside 10


def test_ranks_of_other_lengths_wait():
    long, short = np.argsort(LENGTHS)[::-1][:200], np.argsort(LENGTHS)[:200]
    rng = np.random.default_rng(0)
    run = run_of((rng.permutation(long), rng.permutation(short)), lengths=LENGTHS)
    finding = the_one(run, ranks.waiting_for_ranks)
    assert (finding.name, finding.level) == ("waiting for the slowest rank", "warning")
    padded = np.array(
        [[sum(b.padded_tokens for b in u.batches) for u in rank.updates] for rank in run.ranks]
    )
    assert finding.share == pytest.approx(1 - padded.mean() / padded.max(axis=0).mean())
    assert "world_size=2" in finding.code[0]


def test_ranks_with_as_much_work_do_not_wait():
    run = run_of(*distributed(400, 2), lengths=np.full(400, 30))
    assert found(run, ranks.waiting_for_ranks) == []


def test_measured_times_are_said_too():
    long, short = np.argsort(LENGTHS)[::-1][:200], np.argsort(LENGTHS)[:200]
    run = run_of((long, short), lengths=LENGTHS, update={"forward": 0.5})
    finding = the_one(run, ranks.waiting_for_ranks)
    assert "Measured, its forward pass takes 0 ms longer." in finding.figure


@pytest.mark.parametrize(("slow", "is_found"), [(1, True), (None, False)])
def test_a_rank_that_is_slower_at_the_same_work(slow, is_found):
    rng = np.random.default_rng(0)
    run = run_of(*distributed(400, 2))

    def timed(rank):
        def change(_, update):
            return replace(update, forward=(1.5 if rank == slow else 1.0) * rng.uniform(0.9, 1.1))

        return change

    timed_ranks = [
        with_updates(replace(run, ranks=(each,)), timed(each.rank)).ranks[0] for each in run.ranks
    ]
    names = [
        each.figure[:6] for each in ranks.waiting_for_ranks(replace(run, ranks=tuple(timed_ranks)))
    ]
    assert names == ["Rank 1"] * is_found


def test_one_rank_says_nothing_of_ranks():
    run = run_of(*shuffles(400), lengths=LENGTHS)
    checks = (
        ranks.samples_of_ranks,
        ranks.counts_of_ranks,
        ranks.batches_of_ranks,
        ranks.waiting_for_ranks,
    )
    assert found(run, *checks) == []
