"""Words are those of `str.split`, whatever separates them."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright.sources.words import _OTHER_SPACES, count_words

pa = pytest.importorskip("pyarrow")

SPACES = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
# What shares bytes with spaces, too: U+2010, U+0080, U+1681, U+3001, and what has four bytes.
CHARACTERS = [*SPACES, *"ab.-_é", "\u2010", "\u0080", "\u1681", "\u3001", "\u205e", "🙂", "\0"]

texts_of_spaces = st.lists(st.text(st.sampled_from(CHARACTERS), max_size=12), max_size=20)


def test_all_spaces_are_known():
    assert [space for space in SPACES if not space.isascii()] == list(_OTHER_SPACES)


@given(texts=texts_of_spaces | st.lists(st.text(max_size=20)), is_large=st.booleans())
def test_counts_are_those_of_split(texts, is_large):
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    array = pa.array(texts, pa.large_string() if is_large else pa.string())
    expected = [len(text.split()) for text in texts]
    assert count_words(array).tolist() == expected
    for start in range(min(3, len(texts))):
        assert count_words(array[start:]).tolist() == expected[start:]
        assert count_words(array[: len(texts) - start]).tolist() == expected[: len(texts) - start]
