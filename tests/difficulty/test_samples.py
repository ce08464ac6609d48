"""Length, rarity and compression against slow and obvious versions."""

import math
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.difficulty import compression, length, rarity, word_counts
from batchwright.errors import LengthsError

TOKENS = st.lists(st.lists(st.integers(0, 9) | st.just(2**40), max_size=8), min_size=1, max_size=20)
TEXTS = st.lists(st.text("ab c\t\n\u2003é", max_size=12), min_size=1, max_size=20)


def slow_rarity(samples, mean, counts=None):
    counts = Counter(token for sample in samples for token in sample) if counts is None else counts
    total = sum(counts.values())
    sums = [-sum(math.log(max(counts[t], 1) / total) for t in sample) for sample in samples]
    return [s / max(len(x), 1) if mean else s for s, x in zip(sums, samples, strict=True)]


@given(TOKENS, st.booleans())
def test_rarity_of_token_ids(samples, mean):
    expected = slow_rarity(samples, mean)
    assert np.allclose(rarity(samples, mean=mean), expected)
    assert np.allclose(rarity([np.array(s, dtype=np.uint64) for s in samples], mean=mean), expected)


@given(TEXTS, st.booleans())
def test_rarity_of_texts(texts, mean):
    expected = slow_rarity([text.split() for text in texts], mean)
    assert np.allclose(rarity(texts, mean=mean), expected)
    assert np.allclose(rarity(np.array(texts), mean=mean), expected)


@given(TEXTS, st.integers(1, 7))
def test_a_part_is_scored_by_the_counts_of_the_whole(texts, size):
    parts = [texts[k : k + size] for k in range(0, len(texts), size)]
    counts = word_counts(parts)
    scores = [rarity(part, counts=counts) for part in parts]
    if sum(counts.values()):
        assert np.allclose(np.concatenate(scores), rarity(texts))


def test_what_was_not_counted_counts_as_1():
    counts = {"a": 6, "b": 2}
    expected = [-math.log(6 / 8), -math.log(1 / 8)]
    assert np.allclose(rarity(["a", "never"], counts=counts), expected)
    assert np.allclose(rarity([[0], [5]], counts=[6, 2]), expected)


@given(st.lists(st.text(max_size=50) | st.binary(max_size=50), min_size=1, max_size=10))
def test_compression_is_zlibs(texts):
    data = [t.encode("utf-8", "surrogatepass") if isinstance(t, str) else t for t in texts]
    expected = [len(zlib.compress(d)) / len(d) if d else 0.0 for d in data]
    assert compression(texts).tolist() == expected


def test_length_is_the_length():
    assert length(np.array([3, 9, 1], dtype=np.uint16)).tolist() == [3.0, 9.0, 1.0]
    with pytest.raises(LengthsError):
        length([3, 0])


@pytest.mark.parametrize(
    ("samples", "counts"),
    [
        ("one text", None),
        ([], None),
        (["a", 3], None),
        (["a"], [1, 2]),
        (np.array([1, 2]), None),
        ([[1, 2], [[3]]], None),
        ([[1, -2]], None),
        ([[1.5, 2]], None),
        ([[1, 2]], [-1, 2]),
        ([[1, 2]], {"a": 1}),
    ],
)
def test_what_has_no_rarity_is_refused(samples, counts):
    with pytest.raises(LengthsError):
        rarity(samples, counts=counts)


@pytest.mark.parametrize("texts", ["one text", [], ["a", None]])
def test_what_cannot_be_compressed_is_refused(texts):
    with pytest.raises(LengthsError):
        compression(texts)
