"""Samples that an epoch leaves out or repeats, and the many epochs that are right as they are."""

from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DistributedSampler

from batchwright.doctor.checks import order, ranks, samples
from tests.doctor.runs import run_of, shared, shuffles

RNG = np.random.default_rng(7)
CHECKS = (
    samples.lost_samples,
    samples.repeated_samples,
    order.order_of_epochs,
    order.lengths_of_updates,
    order.classes_of_updates,
    ranks.samples_of_ranks,
    ranks.counts_of_ranks,
    ranks.batches_of_ranks,
    ranks.waiting_for_ranks,
)
LENGTHS = np.random.default_rng(1).lognormal(3, 0.6, 400).astype(int) + 1
LABELS = np.random.default_rng(2).integers(10, size=400)
STREAM = {"has_indices": False, "num_samples": None, "sampler": "_InfiniteConstantSampler"}
OWN = {"sampler": "MySampler"}


def found(run, *checks):
    return [each for check in checks or CHECKS for each in check(run)]


def the_one(run, *checks):
    (only,) = found(run, *checks)
    return only


def distributed(num_samples, world_size, epochs=2, *, tells_epoch=True, **options):
    """Draw the epochs of torch's sampler."""
    drawn = []
    for epoch in range(epochs):
        parts = []
        for rank in range(world_size):
            sampler = DistributedSampler(range(num_samples), world_size, rank, **options)
            sampler.set_epoch(epoch if tells_epoch else 0)
            parts.append(np.array(list(sampler)))
        drawn.append(tuple(parts))
    return drawn


def names_of_contents(count, seed=0):
    return np.random.default_rng(seed).integers(2**62, size=count)


def subsets(num_samples, size, epochs=2):
    return [each[:size] for each in shuffles(num_samples, epochs)]


def read_by_workers(parts, batch_size):
    """Hand out the batches of several workers in turn."""
    cut = [[part[at : at + batch_size] for at in range(0, len(part), batch_size)] for part in parts]
    return list(chain.from_iterable(zip(*cut, strict=True)))


def balanced_by_copies(rare=20, often=180, epochs=2):
    """Take each sample of a rare class many times, and all others once."""
    drawn = [np.r_[np.repeat(np.arange(rare), 9), np.arange(rare, rare + often)]] * epochs
    return [np.random.default_rng(at).permutation(each) for at, each in enumerate(drawn)]


def balanced_by_parts(rare=60, often=100, epochs=2):
    """Take as many samples of the large class as there are of the rare one, others in each epoch."""
    parts = [each[:rare] for each in shuffles(often, epochs)]
    return [RNG.permutation(np.r_[np.arange(rare), rare + part]) for part in parts]


RIGHT = {
    "shuffled": run_of(*shuffles(400, 3), lengths=LENGTHS, labels=LABELS),
    "seen in part": run_of(*shuffles(400, 2), is_complete=False),
    "two ranks": run_of(*distributed(401, 2), batch_size=8),
    "three ranks of few samples": run_of(*distributed(37, 3)),
    "ranks that drop the rest": run_of(*distributed(403, 4, drop_last=True), batch_size=1),
    "drawn with replacement": run_of(
        *[RNG.integers(400, size=400) for _ in range(2)], loader={"replaces": True}
    ),
    "drawn by a sampler that says so": run_of(
        *[RNG.integers(400, size=400) for _ in range(2)], loader={"sampler": "ImbalancedSampler"}
    ),
    "drawn by a sampler of one's own": run_of(
        *[RNG.integers(400, size=400) for _ in range(2)], loader=OWN
    ),
    "a few drawn by a sampler of one's own": run_of(
        *[RNG.integers(4_000, size=800) for _ in range(2)],
        is_complete=False,
        loader={**OWN, "num_samples": 4_000},
    ),
    "drawn by weights by a sampler of one's own": run_of(
        *[(400 * RNG.random(400) ** 2).astype(int) for _ in range(2)], loader=OWN
    ),
    "classes evened by copies": run_of(
        *balanced_by_copies(), labels=np.arange(200) >= 20, loader=OWN
    ),
    "classes evened by parts": run_of(
        *balanced_by_parts(), labels=np.arange(160) >= 60, loader=OWN
    ),
    "part of the data": run_of(
        *[RNG.permutation(320) for _ in range(2)],
        loader={"sampler": "SubsetRandomSampler", "num_samples": 400},
    ),
    "part by a sampler of one's own": run_of(
        *[RNG.permutation(320) for _ in range(2)], loader={**OWN, "num_samples": 400}
    ),
    "short epochs": run_of(*subsets(400, 100), loader={"num_samples": 400}),
    "samples added from epoch to epoch": run_of(
        *[RNG.permutation(each) for each in (300, 350, 400)], loader={**OWN, "num_samples": 400}
    ),
    "a pass that never ends": run_of(
        np.concatenate(shuffles(100, 4)), is_complete=False, loader={**OWN, "num_samples": 100}
    ),
    "a pass of two ranks that never ends": run_of(
        tuple(np.concatenate(shuffles(100, 6))[rank::2] for rank in range(2)),
        is_complete=False,
        loader={**OWN, "num_samples": 100},
    ),
    "all in one batch": run_of(*[np.arange(64)] * 3, batch_size=64),
    "planned": run_of(*[np.arange(64)] * 3, loader={"is_planned": True, "num_samples": 100}),
    "a trial before the first epoch": run_of(
        list(np.arange(400).reshape(-1, 4)[::-1][:20]),
        list(np.arange(400).reshape(-1, 4)[::-1][:70]),
        is_complete=(False, False),
    ),
    "a stream": run_of(
        *[names_of_contents(400)[each] for each in shuffles(400)],
        loader={**STREAM, "num_workers": 2},
    ),
    "a stream of few contents": run_of(
        *[names_of_contents(64)[RNG.integers(64, size=192)] for _ in range(2)],
        loader={**STREAM, "num_workers": 4},
    ),
    "a stream that begins anew": run_of(
        names_of_contents(200)[np.concatenate(shuffles(200, 2))],
        loader={**STREAM, "num_workers": 2},
    ),
    "streams of two ranks": run_of(
        tuple(names_of_contents(200, seed=rank) for rank in range(2)), loader=STREAM
    ),
    "streams of few contents on two ranks": run_of(
        tuple(names_of_contents(8)[RNG.integers(8, size=200)] for _ in range(2)), loader=STREAM
    ),
    "nothing identified": run_of(*shuffles(400), batch={"samples": None}),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_nothing_is_found_in_runs_that_are_right(kind):
    assert found(RIGHT[kind]) == []


@pytest.mark.slow
@pytest.mark.parametrize("num_samples", [96, 97, 101, 103, 120])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_that_accelerate_shares_are_right(num_samples, drop_last):
    from accelerate.data_loader import BatchSamplerShard
    from torch.utils.data import BatchSampler

    def epoch(order):
        batches = BatchSampler(order.tolist(), 4, drop_last)
        shards = [BatchSamplerShard(batches, 3, rank, even_batches=True) for rank in range(3)]
        return tuple([np.array(batch) for batch in shard] for shard in shards)

    run = run_of(
        *map(epoch, shuffles(num_samples)),
        loader={"sampler": "RandomSampler", "num_samples": num_samples, "drop_last": drop_last},
    )
    assert {each.level for each in found(run)} <= {"warning"} if drop_last else not found(run)


def test_a_split_by_rank_within_a_split_by_rank_loses_samples():
    orders = distributed(400, 2)
    halves = [tuple(part[rank::2] for rank, part in enumerate(parts)) for parts in orders]
    finding = the_one(run_of(*halves, loader={"num_samples": 400}))
    assert (finding.name, finding.level, finding.share) == ("samples lost", "error", 0.5)
    assert finding.figure.startswith("200 of 400 samples are in no batch of an epoch, different")
    assert "split among 2 ranks twice" in finding.cure


@pytest.mark.parametrize("size", [96, 101, 103, 400])
def test_what_is_split_twice_may_be_filled_up_twice(size):
    halves = [tuple(shared(parts[0])) for parts in distributed(size, 2)]
    run = run_of(*halves, batch_size=4, loader={"num_samples": size})
    lost = the_one(run, samples.lost_samples)
    assert "split among 2 ranks twice" in lost.cure


def test_a_sampler_for_more_ranks_than_there_are_loses_samples():
    halves = [parts[0] for parts in distributed(400, 2)]
    finding = the_one(run_of(*halves, loader={"num_samples": 400, "sampler": "DistributedSampler"}))
    assert (finding.name, finding.share) == ("samples lost", 0.5)
    assert "num_replicas is 1" in finding.cure
    assert finding.cost.startswith("50.0 % of the samples are not trained on in an epoch, ")


def test_the_same_rank_on_all_ranks_loses_what_others_should_see():
    same = [(parts[0], parts[0]) for parts in distributed(400, 2)]
    run = run_of(*same, loader={"num_samples": 400})
    lost, shared_samples = found(run)
    assert (lost.name, shared_samples.name) == ("samples lost", "ranks see the same samples")
    assert "its own rank" in lost.cure


def test_buckets_that_drop_their_rests_lose_others_in_each_epoch():
    def epoch(seed):
        rng = np.random.default_rng(seed)
        buckets = [rng.permutation(np.arange(low, low + 50)) for low in range(0, 400, 50)]
        batches = [bucket[at : at + 8] for bucket in buckets for at in range(0, 48, 8)]
        return [batches[each] for each in rng.permutation(len(batches))]

    options = {"num_samples": 400, "sampler": "Buckets", "batch_sampler": "Buckets"}
    finding = the_one(run_of(epoch(0), epoch(1), batch_size=8, loader=options))
    assert (finding.name, finding.share) == ("samples lost", pytest.approx(16 / 400))
    once = run_of(epoch(0), batch_size=8, loader=options)
    assert found(once) == []  # as far as one epoch tells, a sampler may be for a part of the data


def test_what_was_not_seen_to_its_end_is_not_lost():
    halves = [parts[0] for parts in distributed(400, 2, epochs=1)]
    run = run_of(
        *halves, is_complete=False, loader={"num_samples": 400, "sampler": "DistributedSampler"}
    )
    assert found(run) == []


@pytest.mark.parametrize(("size", "level"), [(103, "warning"), (1_003, "info")])
def test_a_last_batch_that_is_dropped(size, level):
    run = run_of(*shuffles(size), drop_last=True, loader={"num_samples": size})
    finding = the_one(run)
    assert (finding.name, finding.level, finding.share) == ("last batch dropped", level, 3 / size)
    assert "different ones in each epoch" in finding.figure
    assert finding.code == ("DataLoader(dataset, …, drop_last=False)",)


def test_the_rest_of_an_epoch_after_a_resume_has_lost_nothing():
    orders = distributed(400, 2)
    rest = tuple(part[100:] for part in orders[0])
    loader = {"num_samples": 400, "num_batches": 50}
    assert found(run_of(rest, loader=loader)) == []
    assert found(run_of(rest, orders[1], loader=loader)) == []
    skipping = {"sampler": "SequentialSampler", "batch_sampler": "SkipBatchSampler"}
    run = run_of(np.arange(200, 400), loader={**loader, **skipping})
    assert found(run, samples.lost_samples) == []


def test_a_last_batch_that_is_always_the_same():
    run = run_of(*[np.arange(103)] * 2, drop_last=True, loader={"num_samples": 103})
    finding = the_one(run, samples.lost_samples)
    assert "the same ones in each of 2 epochs" in finding.figure
    assert finding.cost.endswith(", nor in any other.")


def test_a_last_batch_that_is_full_is_not_dropped():
    assert found(run_of(*shuffles(104), drop_last=True, loader={"num_samples": 104})) == []


def test_last_batches_of_ranks():
    run = run_of(*distributed(110, 2), batch_size=8, drop_last=True, loader={"num_samples": 110})
    finding = the_one(run)
    assert finding.name == "last batch dropped"
    assert finding.figure.startswith("Incomplete last batches of ranks are left out")
    assert finding.share == pytest.approx(14 / 110)


@pytest.mark.parametrize("is_complete", [True, False])
def test_samples_that_a_sampler_yields_twice(is_complete):
    def epoch(order):
        return np.r_[order[:200], order[100:]]  # 100 of them once more

    run = run_of(*map(epoch, shuffles(400)), is_complete=is_complete, loader=OWN)
    finding = the_one(run)
    assert (finding.name, finding.level) == ("samples repeated", "error")
    assert finding.share == pytest.approx(100 / 400)  # of the first 400, where an epoch would end
    assert "100 are repeats of earlier ones" in finding.figure
    assert "come up to 2 times" in finding.figure


def test_a_few_repeats_that_fill_the_last_batch_are_right():
    orders = [np.r_[order, order[:3]] for order in shuffles(97)]
    assert found(run_of(*orders, loader=OWN)) == []


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("workers", [2, 3])
def test_a_stream_that_every_worker_reads(workers, is_complete):
    contents = [names_of_contents(240, seed) for seed in range(2)]
    passes = [read_by_workers([each] * workers, 4) for each in contents]
    run = run_of(*passes, is_complete=is_complete, loader={**STREAM, "num_workers": workers})
    finding = the_one(run)
    assert (finding.name, finding.share) == ("samples repeated", pytest.approx(1 - 1 / workers))
    assert f"comes {workers} times" in finding.figure
    assert "get_worker_info" in finding.code[0]


def test_a_stream_that_every_worker_reads_in_an_order_of_its_own():
    contents, rng = names_of_contents(240), np.random.default_rng(0)
    batches = read_by_workers([rng.permutation(contents) for _ in range(2)], 4)
    run = run_of(batches, loader={**STREAM, "num_workers": 2})
    assert the_one(run).name == "samples repeated"


def test_a_stream_of_which_workers_read_parts_is_right():
    contents = names_of_contents(240)
    batches = read_by_workers([contents[worker::2] for worker in range(2)], 4)
    assert found(run_of(batches, loader={**STREAM, "num_workers": 2})) == []


def test_padding_among_ranks_is_right_at_any_size():
    for size in range(1, 60):
        run = run_of(*[shared(order, 4) for order in shuffles(size)], batch_size=2)
        assert found(run, samples.lost_samples, samples.repeated_samples) == [], size
