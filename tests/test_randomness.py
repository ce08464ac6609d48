"""Plans against plain shuffles, at fixed seeds: who meets whom, when, and how updates follow."""

import numpy as np
import pytest

import batchwright as bw
from batchwright._keyed import hashed, key_of
from batchwright.batching.cut import Cut
from batchwright.batching.fixed_size import Even

SAMPLES = 24_000
PLACES = np.arange(SAMPLES)
RNG = np.random.default_rng(0)

CORPORA = {
    "sorted": np.sort(RNG.integers(8, 200, SAMPLES)),
    "trend": np.clip(PLACES // 200 + RNG.integers(8, 80, SAMPLES), 1, 200),
    "periodic": (100 + 80 * np.sin(PLACES * 2 * np.pi / 500)).astype(np.int64),
    "long tail": np.clip(RNG.lognormal(3.5, 0.8, SAMPLES), 1, 200).astype(np.int64),
    "two": np.where(PLACES % 3, 50, 100),
    "equal": np.full(SAMPLES, 50),
}
SETTINGS = {
    "budget": bw.TokenBudget(1000),
    "slack": bw.TokenBudget(1000, slack=0.05),
    "update": bw.TokenBudget(1000, mixing="update"),
    "windows": bw.TokenBudget(1000, mixing=4),
    "packing": bw.Packing(1000),
    "buckets": bw.Buckets(8, max_tokens=1000),
    "fixed": bw.FixedSize(10),
}
UPDATE = 16
SEASON = np.sin(PLACES * 2 * np.pi / 500)


def update_sums(plan, feature, update=UPDATE):
    """The sum of a feature over the samples of each update."""
    return np.add.reduceat(feature[plan.indices], plan.offsets[:-1:update])


def autocorrelation(values, lag):
    centred = values - values.mean()
    return (centred[lag:] * centred[:-lag]).mean() / centred.var()


def deviates(counts, expected):
    """χ² of counts as a normal deviate, each with the same expected number."""
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("corpus", ["sorted", "trend", "periodic", "long tail"])
@pytest.mark.parametrize("name", SETTINGS)
def test_updates_do_not_follow_the_sequence_of_the_data(name, corpus):
    """Means over updates are not correlated along the epoch, as those of a shuffle are not."""
    lengths = CORPORA[corpus]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=4, accumulate=4)
    features = {"length": lengths + 0.0, "place": PLACES, "season": SEASON}
    for feature, values in features.items():
        found = []
        for epoch in range(3):
            plan = planner(epoch)
            means = update_sums(plan, values) / update_sums(plan, np.ones(SAMPLES))
            scale = means.size**0.5
            found.append([autocorrelation(means, lag) * scale for lag in (1, 2, 3, 5, 8)])
        assert np.abs(np.mean(found, axis=0)).max() < 3.5, (feature, found)


@pytest.mark.parametrize("corpus", ["trend", "periodic", "long tail", "two", "equal"])
@pytest.mark.parametrize(
    "name", ["budget", "slack", "update", "windows", "packing", "buckets", "fixed"]
)
@pytest.mark.parametrize("world_size", [1, 4])
def test_updates_are_no_less_even_than_random_ones(name, corpus, world_size):
    """In whatever varies along the data among samples of one length."""
    lengths = CORPORA[corpus]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=world_size, accumulate=4)
    for feature in (PLACES / SAMPLES, SEASON):
        means = np.bincount(lengths, feature) / np.maximum(np.bincount(lengths), 1)
        rest = feature - means[lengths]
        ratios = []
        for epoch in range(4):
            plan = planner(epoch)
            sums = update_sums(plan, rest, 4 * world_size)
            ratios.append((sums**2).sum() / (rest**2).sum())
        assert np.mean(ratios) < 1.4


@pytest.mark.parametrize("name", SETTINGS)
def test_epochs_are_independent(name):
    """Where a sample comes in one epoch says nothing of where it comes in another."""
    lengths = CORPORA["sorted"]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=4, accumulate=4)
    places = np.empty((5, SAMPLES))
    for number, epoch in enumerate((0, 1, 2, 3, 10**9)):
        plan = planner(epoch)
        places[number, plan.indices] = np.repeat(np.arange(len(plan)) // UPDATE, plan.sizes)
    against = np.vstack((places, lengths, PLACES))
    correlation = np.corrcoef(against)
    # Samples that share a batch come together: fewer of them are independent.
    independent = len(planner)
    assert np.abs(correlation[:5][~np.eye(5, 7, dtype=bool)]).max() * independent**0.5 < 4


@pytest.mark.parametrize("name", ["budget", "slack", "windows", "packing"])
def test_ranks_get_equal_work(name):
    lengths = CORPORA["long tail"]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=4, accumulate=4)
    shares = []
    for epoch in range(3):
        plan = planner(epoch)
        longest = [lengths[shard.indices].sum() for shard in map(plan.shard, range(4), [4] * 4)]
        shares.append(np.array(longest) / sum(longest) * 4)
    assert np.abs(np.array(shares) - 1).max() < 0.01


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("budget", 0, 0.7),
        ("slack", 0, 0.5),
        ("update", 0, 0.02),
        ("windows", 0, 0.4),
        ("buckets", 0, 0.6),
        ("fixed", 0.85, 1.15),
    ],
)
@pytest.mark.parametrize("corpus", ["sorted", "long tail"])
def test_dispersion(name, low, high, corpus):
    lengths = CORPORA[corpus]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=4, accumulate=4)
    found = [planner(epoch).stats(lengths).dispersion for epoch in range(4)]
    assert low <= np.mean(found) <= high


def meetings(cut, epochs):
    """How often two samples shared a batch, int64[n, n], and how often each was in each batch."""
    size = cut.num_samples
    met = np.zeros((size, size), dtype=np.int64)
    seen = np.zeros((size, cut.num_batches), dtype=np.int64)
    ranks = np.arange(cut.num_batches)
    for epoch in range(epochs):
        samples, offsets = cut.some(ranks, key_of(0, "mates", epoch))
        batch = np.empty(size, dtype=np.int64)
        batch[samples] = np.repeat(ranks, np.diff(offsets))
        met += batch[:, None] == batch
        seen[np.arange(size), batch] += 1
    return met, seen


@pytest.mark.parametrize("batches", [15, 16, 17, 30])
def test_samples_of_different_rounds_meet_equally_often(batches):
    samples, one, epochs = 4 * batches, np.array([0]), 2000
    cut = Cut(one, np.array([samples]), one, np.array([batches]), np.array([9]))
    met, seen = meetings(cut, epochs)
    turn = np.arange(samples) // batches
    upper = np.triu_indices(samples, 1)
    same = turn[upper[0]] == turn[upper[1]]
    assert not met[upper][same].any()
    assert abs(deviates(met[upper][~same], epochs / batches)) < 6
    assert abs(deviates(seen, epochs / batches)) < 6


def test_samples_of_fixed_batches_meet_equally_often():
    samples, size, epochs = 60, 5, 3000
    met, seen = meetings(Even(samples, samples // size, size), epochs)
    expected = epochs * (size - 1) / (samples - 1)
    assert abs(deviates(met[np.triu_indices(samples, 1)], expected)) < 5
    assert abs(deviates(seen, epochs * size / samples)) < 5


def test_large_plans_of_a_fixed_size_are_shuffles():
    """Samples that are neighbours in the data are mates as often as others."""
    size, epochs = 4000, 40
    lengths = np.full(size, 5)
    planner = bw.Planner(lengths, batching=bw.FixedSize(10))
    together = np.zeros(4)
    for epoch in range(epochs):
        batch = np.empty(size, dtype=np.int64)
        plan = planner(epoch)
        batch[plan.indices] = np.repeat(np.arange(len(plan)), plan.sizes)
        shifts = (1, 2, round(size**0.5), size // 2)
        together += [(batch[shift:] == batch[:-shift]).mean() for shift in shifts]
    expected = 9 / (size - 1) * epochs
    assert np.abs(together / expected - 1).max() < 0.35


@pytest.mark.parametrize("name", ["budget", "update", "packing"])
def test_mates_of_an_update_change_from_epoch_to_epoch(name):
    """Of two samples of different strata, as many share an update as in a shuffle."""
    lengths = CORPORA["long tail"][:3000]
    planner = bw.Planner(lengths, batching=SETTINGS[name], world_size=4, accumulate=4)
    updates = len(planner) // UPDATE
    order = np.argsort(-lengths, kind="stable")
    shared = []
    for epoch in range(60):
        plan = planner(epoch)
        update = np.empty(3000, dtype=np.int64)
        update[plan.indices] = np.repeat(np.arange(len(plan)) // UPDATE, plan.sizes)
        long, short = update[order[:200]], update[order[-200:]]
        shared.append((long[:, None] == short).mean() * updates)
    assert np.mean(shared) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [40, 300])
def test_batches_of_samples_alike_have_means_like_random_ones(size):
    """Of a trend and of seasons along samples of one length, over many epochs."""
    rounds = 8
    one, total = np.array([0]), size * rounds
    cut = Cut(one, np.array([total]), one, np.array([size]), np.array([9]))
    features = [np.arange(total) / total]
    features += [np.sin(np.arange(total) * 2 * np.pi / period) for period in (7, size / 2, size)]
    ratios = []
    for epoch in range(100):
        samples, _ = cut.some(np.arange(size), hashed(epoch, 5))
        each = [feature[samples].reshape(size, rounds).mean(axis=1) for feature in features]
        ratios.append(
            [
                means.var() / (feature.var() / rounds)
                for means, feature in zip(each, features, strict=True)
            ]
        )
    mean, spread = np.mean(ratios, axis=0), np.std(ratios, axis=0) / 10
    assert (mean < 1 + 5 * spread).all()
