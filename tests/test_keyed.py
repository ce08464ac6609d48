"""Permutations computed from a key: each place once, and as good as drawn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright._keyed import (
    PRIMES,
    SMALL,
    all_permuted,
    hashed,
    key_of,
    mixed,
    permuted,
    scaled,
)
from batchwright.placement import Placement

KEYS = st.integers(0, 2**64 - 1)


def places_of(size):
    return np.arange(size, dtype=np.uint64)


def keys_of(count, purpose):
    return hashed(places_of(count), key_of(0, purpose))


def images(size, place, keys):
    """Where permutations of many keys take one place, int64[k]."""
    return all_permuted(np.full(keys.size, place, dtype=np.uint64), size, keys).view(np.int64)


def chi_squared(found, cells):
    """How far counts of cells are from equal, as a normal deviate (Wilson and Hilferty)."""
    expected = found.size / cells
    statistic = ((np.bincount(found, minlength=cells) - expected) ** 2 / expected).sum()
    freedom = cells - 1
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5


@pytest.mark.slow
def test_every_place_once_for_every_size():
    for size in range(1, 5001):
        found = all_permuted(places_of(size), size, hashed(size, 11))
        assert np.array_equal(np.bincount(found.view(np.int64), minlength=size), np.ones(size))


@pytest.mark.parametrize(
    "size", [1, 2, 3, SMALL - 1, SMALL, SMALL + 1, 1000, 5000, 1 << 15, 99_991]
)
def test_every_place_once(size):
    for key in (0, 1, 2**64 - 1, key_of(0, "once")):
        found = all_permuted(places_of(size), size, key)
        assert np.array_equal(np.sort(found), places_of(size))


@given(st.integers(1, 2**40), st.data())
def test_one_place_and_many_agree(size, data):
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    keys = data.draw(st.lists(KEYS, min_size=len(places), max_size=len(places)))
    words = np.array(places, dtype=np.uint64)
    each = all_permuted(words, size, np.array(keys, dtype=np.uint64))
    assert each.tolist() == [
        permuted(place, size, key) for place, key in zip(places, keys, strict=True)
    ]
    same = all_permuted(words, size, keys[0])
    assert same.tolist() == [permuted(place, size, keys[0]) for place in places]
    assert words.tolist() == places
    assert max(same.tolist()) < size


@given(st.lists(KEYS, min_size=1, max_size=20), KEYS)
def test_hashes_of_numbers_and_arrays_agree(numbers, key):
    words = np.array(numbers, dtype=np.uint64)
    assert mixed(words).tolist() == [mixed(number) for number in numbers]
    assert hashed(words, key).tolist() == [hashed(number, key) for number in numbers]
    assert words.tolist() == numbers


def test_hashes_are_one_to_one():
    """On runs of numbers, on numbers with one bit, and near the largest."""
    bits = np.uint64(1) << np.arange(64, dtype=np.uint64)
    words = np.unique(np.concatenate((places_of(50_000), ~places_of(1000), bits, ~bits)))
    assert np.unique(mixed(words)).size == words.size
    assert np.unique(hashed(words, 7)).size == words.size


def test_every_bit_of_a_hash_depends_on_every_bit():
    words = hashed(places_of(4000), 1)
    for bit in range(64):
        changed = mixed(words) ^ mixed(words ^ (np.uint64(1) << np.uint64(bit)))
        shares = [(changed >> np.uint64(each) & np.uint64(1)).mean() for each in range(64)]
        assert np.abs(np.array(shares) - 0.5).max() < 0.05


def test_scaled_stays_below_its_size():
    words = np.array([0, 1, 2**32 - 1, 2**64 - 1], dtype=np.uint64)
    for size in (1, 2, 1000, 2**32):
        assert scaled(words, np.uint64(size)).tolist() == [
            0,
            0 if size < 2**32 else 1,
            *[size - 1] * 2,
        ]


def test_steps_are_primes_above_two_to_the_thirty():
    assert np.unique(PRIMES).size == 64
    assert PRIMES.min() > 2**30
    assert PRIMES.max() < 2**31
    odd = np.arange(3, 46_341, 2, dtype=np.uint64)  # beyond the root of the largest
    for prime in PRIMES:
        assert prime % np.uint64(2) == 1
        assert (prime % odd).all()


SIZES = [200, SMALL - 1, SMALL, 257, 290, 400, 1000, 5000]


@pytest.mark.parametrize("size", SIZES)
def test_images_are_uniform(size):
    """The image of a place over keys, in cells: χ² within five standard deviations."""
    keys, cells = keys_of(20_000, "images"), min(size, 500)
    for place in (0, size // 2, size - 1):
        found = images(size, place, keys) * cells // size
        assert abs(chi_squared(found, cells)) < 5, (size, place)


@pytest.mark.parametrize("size", [each for each in SIZES if each <= 1000])
def test_differences_of_two_images_are_uniform(size):
    keys, side = keys_of(20_000, "pairs"), round(size**0.5)
    for place, other in ((0, 1), (1, 1 + side), (size // 3, size - 1)):
        apart = (images(size, other, keys) - images(size, place, keys)) % size - 1
        assert apart.min() >= 0
        assert abs(chi_squared(apart, size - 1)) < 5, (size, place, other)


@pytest.mark.parametrize("size", SIZES)
def test_neighbours_are_not_correlated(size):
    """Serial correlation inside permutations, averaged over keys, is that of drawn ones."""
    keys, lags = keys_of(200, "serial"), (1, 2, round(size**0.5), round(size**0.5) + 1, size // 2)
    values = np.stack([all_permuted(places_of(size), size, int(key)) for key in keys])
    values = values.astype(np.float64) - (size - 1) / 2
    values /= values.std()
    for lag in lags:
        each = (values[:, lag:] * values[:, :-lag]).mean(axis=1) + 1 / (size - 1)
        assert abs(each.mean()) < 5 * each.std() / keys.size**0.5
        assert each.std() * (size - lag) ** 0.5 == pytest.approx(1, abs=0.25)


def test_keys_that_are_neighbours_give_permutations_that_are_not():
    for size in (50, 300, 5000):
        values = np.stack([all_permuted(places_of(size), size, key) for key in range(60)])
        values = values.astype(np.float64) - (size - 1) / 2
        correlation = np.corrcoef(values)[np.triu_indices(60, 1)] * (size - 1) ** 0.5
        assert np.abs(correlation).max() < 5
        assert correlation.std() == pytest.approx(1, abs=0.1)


PLACEMENTS = st.builds(
    Placement,
    st.integers(1, 400),
    st.integers(0, 60),
    st.integers(1, 7),
    st.integers(1, 5),
    KEYS,
)


@given(PLACEMENTS)
def test_every_batch_has_one_place(placement):
    places = np.arange(placement.num_batches)
    ranks = placement.ranks(places)
    assert np.array_equal(np.sort(ranks), places)
    assert ranks.tolist() == [placement.rank(place) for place in places.tolist()]
    some = places[::-3].copy()
    assert placement.ranks(some).tolist() == ranks[::-3].tolist()


@given(PLACEMENTS)
def test_every_whole_update_has_one_batch_of_every_stratum(placement):
    update = placement.world_size * placement.accumulate
    ranks = placement.ranks(np.arange(placement.num_batches))
    head = min(-placement.start % update, placement.num_batches)
    updates = (placement.num_batches - head) // update
    whole = ranks[head : head + updates * update]
    if not updates:
        return
    # Among themselves: those at the edges are evenly spaced among all.
    strata = np.argsort(np.argsort(whole)).reshape(updates, update) // updates
    assert np.array_equal(np.sort(strata, axis=1), np.tile(np.arange(update), (updates, 1)))


def test_batches_that_fill_no_update_are_evenly_spaced():
    placement = Placement(1000, start=5, world_size=4, accumulate=8, key=3)
    ranks = placement.ranks(np.arange(1000))
    head = 32 - 5
    whole = (1000 - head) // 32 * 32
    edges = np.sort(np.concatenate((ranks[:head], ranks[head + whole :])))
    gaps = np.diff(edges)
    assert gaps.max() - gaps.min() <= 1
    assert edges[0] == 999 - edges[-1] or abs(edges[0] - (999 - edges[-1])) <= 1


def test_ranks_get_every_stratum_equally_often():
    """Sums of what a rank gets even out: within an update, and over updates."""
    world_size, accumulate, updates = 4, 8, 2000
    size = world_size * accumulate * updates
    for accumulate in (1, 8):
        size = world_size * accumulate * updates
        placement = Placement(
            size, start=0, world_size=world_size, accumulate=accumulate, key=key_of(0, "x")
        )
        ranks = placement.ranks(np.arange(size)).reshape(updates, accumulate, world_size)
        sums = ranks.mean(axis=(0, 1)) / size
        assert np.abs(sums - 0.5).max() < 0.02
        strata = ranks // updates
        seen = np.stack(
            [
                np.bincount(strata[:, 0, rank], minlength=world_size * accumulate)
                for rank in range(world_size)
            ]
        )
        expected = updates / (world_size * accumulate)
        assert np.abs(seen - expected).max() < 6 * expected**0.5
