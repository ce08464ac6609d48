"""Exact duplicates: the counts of a slow reference, whatever samples are made of."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchwright as bw
from batchwright.advise import profile_duplicates
from tests import reference
from tests.python_lines import python_lines


@st.composite
def labelled_texts(draw):
    """Few letters, so that texts repeat; a length of its own for each text."""
    texts = draw(st.lists(st.text("ab", max_size=3), min_size=1, max_size=40))
    labels = [draw(st.sampled_from(["x", "y", "z"])) for _ in texts]
    return texts, [len(text) + 1 for text in texts], labels


def check(found, texts, lengths, labels):
    distinct, largest, tokens, wrong = reference.duplicate_counts(texts, lengths, labels)
    assert (found.num_samples, found.is_complete) == (len(texts), True)
    assert (found.num_distinct, found.largest) == (distinct, largest)
    assert found.num_repeated == len(texts) - distinct
    assert found.share == pytest.approx(1 - distinct / len(texts))
    assert found.token_share == pytest.approx(tokens)
    assert found.num_contradicting == wrong
    assert found.contradicting_share == pytest.approx(wrong / len(texts))


@given(labelled_texts())
def test_texts_are_counted_as_the_reference_counts(made):
    texts, lengths, labels = made
    check(profile_duplicates(texts, lengths=lengths, labels=labels), *made)
    check(profile_duplicates(np.array(texts), lengths=lengths, labels=labels), *made)


@pytest.mark.slow
@given(labelled_texts())
def test_columns_of_arrow_are_counted_alike(made):
    pa = pytest.importorskip("pyarrow")
    texts, lengths, labels = made
    halves = pa.chunked_array([texts[: len(texts) // 2], texts[len(texts) // 2 :]], pa.string())
    check(profile_duplicates(halves, lengths=lengths, labels=pa.array(labels)), *made)


@given(labelled_texts())
def test_rows_of_arrays_and_samples_of_parts_are_counted_alike(made):
    texts, lengths, labels = made
    codes = np.array(["xyz".index(label) for label in labels])
    rows = np.array([[*map(ord, text.ljust(3))] for text in texts], dtype=np.float32)
    check(profile_duplicates(rows, lengths=lengths, labels=labels), *made)
    parts = [{"x": row, "of": (text, None)} for row, text in zip(rows, texts, strict=True)]
    check(profile_duplicates(parts, lengths=lengths, labels=codes), *made)


@pytest.mark.slow
@given(labelled_texts())
def test_tensors_are_counted_alike_and_the_label_in_them_is_left_out(made):
    torch = pytest.importorskip("torch")
    texts, lengths, labels = made
    codes = [10 + "xyz".index(label) for label in labels]
    samples = [
        {"tokens": torch.tensor([*map(ord, text)]).to(torch.bfloat16), "labels": code}
        for text, code in zip(texts, codes, strict=True)
    ]
    check(profile_duplicates(samples, lengths=lengths, labels=codes), *made)
    whole = [*zip(texts, codes, strict=True)]
    found = profile_duplicates(samples)
    assert found.num_distinct == len(set(whole))
    assert (found.token_share, found.num_contradicting) == (None, None)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.zeros(4, np.int32), np.zeros(2, np.int64)),
        (np.zeros((2, 3)), np.zeros((3, 2))),
        (["ab", "c"], ["a", "bc"]),
        ([["a"], "b"], ["a", ["b"]]),
        ({"a": 1}, {"b": 1}),
        ({"a": []}, {"a": ()[:0], "b": None}),
        ("1", 1),
        ([1, 2, 3], [1, 2, 4]),
        ([1, 2, 3], [1.0, 2.0, 3.0]),
        ([1, 1, 1], [1, 1, True]),
        (b"a", "a"),
        (1, 1.0),
    ],
)
def test_what_differs_in_type_shape_or_place_is_no_duplicate(one, other):
    assert profile_duplicates([[one], [other]]).num_distinct == 2
    assert profile_duplicates([[one], [one]]).num_distinct == 1


def test_a_number_that_is_the_label_by_chance_counts():
    # y equals the label in the first sample only.
    samples = [(1, 1, np.ones(3)), (0, 5, np.ones(3)), (0, 6, np.ones(3))]
    assert profile_duplicates(samples, labels=[1, 0, 0]).num_distinct == 3
    # Where a sample is its label alone, nothing is left out.
    assert profile_duplicates([[1], [2]], labels=[7, 8]).num_distinct == 2


def test_lists_of_tokens_are_compared_as_a_whole():
    samples = [{"input_ids": list(range(k % 5 + 1)), "label": k % 2} for k in range(20)]
    found = profile_duplicates(samples, labels=[k % 2 for k in range(20)])
    assert (found.num_distinct, found.largest, found.num_contradicting) == (5, 4, 10)
    assert profile_duplicates([[2**70, 1, 1], [2**70, 1, 2], [2**70, 1, 1]]).num_distinct == 2


def test_looking_stops_when_the_time_is_over(monkeypatch):
    now = 0

    class Slow:
        def __len__(self):
            return 1_000

        def __getitem__(self, index):
            nonlocal now
            now += 1
            return np.array([index % 3])

    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("batchwright.advise.duplicates.time", clock)
    found = profile_duplicates(Slow(), lengths=np.ones(1_000, int), seconds=20)
    assert found.num_samples == 21
    assert not found.is_complete
    assert found.num_distinct <= 3


@pytest.mark.parametrize(
    ("samples", "options", "said"),
    [
        ([], {}, "no samples"),
        ([object()], {}, "sample 0 holds object, which cannot be compared"),
        (["a", "b"], {"labels": [1]}, "labels: 1 for 2 samples"),
        (["a", "b"], {"lengths": [1]}, "lengths: 1 for 2 samples"),
        (["a", "b"], {"labels": [1, None]}, r"1 of \d labels is missing, labels\[1\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(samples, options, said):
    with pytest.raises(bw.errors.LengthsError, match=said):
        profile_duplicates(samples, **options)


@pytest.mark.slow
def test_many_texts_are_compared_with_few_lines_of_python_each():
    pa = pytest.importorskip("pyarrow")
    size = 300_000
    numbers = np.random.default_rng(0).integers(0, 200_000, size)
    texts = [f"a text with the number {number} and a few more words in it" for number in numbers]
    lengths = np.full(size, 12)
    for samples in (texts, pa.chunked_array([texts])):
        lines, found = python_lines(
            partial(profile_duplicates, samples, lengths=lengths, labels=numbers % 7)
        )
        assert lines < 2 * size
        assert found.num_distinct == np.unique(numbers).size
        assert found.num_contradicting == 0
