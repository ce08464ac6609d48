"""Label noise from equal samples, and one estimate of several sources."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.advise import NoiseSource, profile_duplicates, profile_labels, profile_samples
from batchwright.advise.noise_sources import combine, from_duplicates

FEATURES = NoiseSource("features", "4,000 samples by a teacher", 0.30, 0.27, 0.33, 4_000, 0.65)
EQUAL = NoiseSource("duplicates", "90 pairs", 0.28, 0.20, 0.36, 180)
MODEL = NoiseSource("model", "your model", 0.31, 0.30, 0.32, 4_000, 0.66)


def pairs(number, different, num_classes):
    """Equal samples, twice each, of which some have different labels."""
    groups = np.repeat(np.arange(number), 2)
    labels = groups % num_classes
    labels[1 : 2 * different : 2] = (labels[1 : 2 * different : 2] + 1) % num_classes
    return groups, labels


@pytest.mark.parametrize(
    ("number", "different", "num_classes", "rate"),
    [(67, 34, 10, 0.306), (100, 32, 2, 0.2), (100, 18, 2, 0.1), (1_000, 375, 4, 0.2194)],
)
def test_pairs_that_differ_give_the_rate(number, different, num_classes, rate):
    share, k = different / number, num_classes
    assert rate == pytest.approx((k - 1) / k * (1 - (1 - share * k / (k - 1)) ** 0.5), abs=0.001)
    found = from_duplicates(*pairs(number, different, num_classes), num_classes)
    assert found.rate == pytest.approx(rate, abs=0.002)
    assert found.low < rate < found.high
    assert f"{number:,} pairs of equal samples, {different:,} with different labels" in found.of
    assert not found.doubt


def test_of_larger_sets_all_labels_count():
    rng = np.random.default_rng(0)
    covered = 0
    for draw in range(40):
        groups = np.repeat(np.arange(120), rng.integers(1, 6, 120))
        truth, wrong = groups % 5, rng.random(groups.size) < 0.25
        labels = np.where(wrong, (truth + rng.integers(1, 5, groups.size)) % 5, truth)
        found = from_duplicates(groups, labels, 5)
        covered += found.low <= 0.25 <= found.high
        assert found.high - found.low < 0.2, draw
    assert covered >= 36


def test_copies_that_keep_their_labels_are_not_trusted():
    found = from_duplicates(*pairs(200, 0, 3), 3)
    assert (found.rate, found.low) == (0, 0)
    assert found.high < 0.02
    assert "copied together with their labels" in found.doubt


def test_without_equal_samples_there_is_no_source():
    assert from_duplicates(np.arange(10), np.arange(10) % 2, 2) is None
    assert from_duplicates(np.zeros(10, int), np.zeros(10, int), 1) is None
    assert combine([]) is None


def test_duplicates_and_a_teacher_make_a_narrower_interval():
    found = combine([EQUAL, FEATURES])
    assert not found.doubt
    assert found.sources == (FEATURES, EQUAL)
    assert EQUAL.rate < found.rate < FEATURES.rate
    assert found.high - found.low < FEATURES.high - FEATURES.low


def test_of_two_teachers_the_one_with_the_narrower_interval_counts():
    assert combine([FEATURES, MODEL]).sources == (MODEL,)
    assert combine([FEATURES, replace(MODEL, doubt="weak")]).sources == (FEATURES,)
    assert combine([replace(FEATURES, doubt="weak"), replace(MODEL, doubt="weak")]).doubt == "weak"


def test_duplicates_count_where_teachers_are_not_trusted():
    found = combine([replace(FEATURES, low=0.0, high=0.4, doubt="weak"), EQUAL])
    assert (found.sources, found.rate, found.doubt) == ((EQUAL,), EQUAL.rate, "")


def test_of_a_teacher_that_is_not_trusted_the_upper_end_counts():
    weak = replace(FEATURES, low=0.15, high=0.34, doubt="weak")
    few = replace(EQUAL, rate=0.35, low=0.21, high=0.5)
    found = combine([weak, few])
    assert (found.low, found.rate, found.high, found.doubt) == (0.21, 0.34, 0.34, "")
    assert found.sources == (weak, few)
    assert combine([few]).doubt == "90 pairs, are too few"
    assert combine([replace(weak, high=0.49), few]).doubt == "weak"


def test_sources_that_contradict_each_other_are_not_trusted():
    found = combine([replace(EQUAL, low=0.4, rate=0.45, high=0.5), FEATURES])
    assert (found.low, found.high) == (FEATURES.low, 0.5)
    assert found.doubt == "equal samples say 40% to 50%, and a teacher at most 33%"


def test_equal_samples_with_less_noise_are_taken_for_copies():
    found = combine([replace(EQUAL, low=0.01, rate=0.03, high=0.05), FEATURES])
    assert (found.sources, found.rate) == ((FEATURES,), FEATURES.rate)


def test_a_profile_has_one_estimate_from_what_is_given():
    groups, labels = pairs(100, 42, 10)
    texts = [f"text {number}" for number in groups]
    equal = profile_duplicates(texts, labels=labels)
    noise = profile_labels(labels, sources=[equal.noise]).noise
    assert (noise.rate, noise.is_trusted) == (equal.noise.rate, True)
    found = profile_samples(np.ones(200, int), labels=labels, samples=texts)
    assert found["labels"].noise == noise
    assert found["labels"].noise_unknown == ""
    assert profile_labels(labels).noise is None


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.9, 0.1], [0.6, 0.3, 0.1], [0.1] * 10])
def test_labels_that_do_not_follow_from_equal_samples_are_not_taken_for_wrong(shares):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), 6)
    found = from_duplicates(groups, rng.choice(len(shares), 1_800, p=shares), len(shares))
    assert "as often as any two samples" in found.doubt


@pytest.mark.parametrize("num_classes", [2, 10])
def test_labels_of_which_two_fifths_are_wrong_still_follow_from_equal_samples(num_classes):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(1_000), 6)
    wrong = rng.integers(1, num_classes, 6_000) * (rng.random(6_000) < 0.4)
    found = from_duplicates(groups, (groups + wrong) % num_classes, num_classes)
    assert not found.doubt
    assert found.low < np.mean(wrong > 0) < found.high
