"""Figures say what they mean: all is all, nothing is nothing, and a line is a line."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchwright._format import duration, number, one_line, percent, plural, short


@given(st.floats(0, 1))
def test_only_all_is_100_percent_and_only_nothing_is_0(share):
    text = percent(share)
    assert (text == "100 %") == (share == 1)
    assert (text == "0 %") == (share == 0)
    shown = float(text.strip("<> %"))
    assert shown == pytest.approx(100 * share, abs=0.051)


def test_a_share_above_all():
    assert percent(2.5) == "250.0 %"


@given(st.floats(-1e12, 1e12))
def test_a_number_is_what_it_was_to_three_digits(value):
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.005, abs=0.0051)


@given(st.integers(0, 10**15))
def test_whole_numbers_keep_every_digit(value):
    assert int(number(value).replace(",", "")) == value


def test_round_numbers_are_short():
    assert [short(value) for value in (1, 1_000, 20_000, 5 * 10**6, 10**9)] == [
        "1",
        "1k",
        "20k",
        "5M",
        "1G",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 ms"), (1, "1.00 s"), (59.94, "59.9 s"), (3_600, "60 min 0 s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_plurals():
    assert [plural(n, noun) for n, noun in ((0, "batch"), (1, "batch"), (1_000, "sample"))] == [
        "0 batches",
        "1 batch",
        "1,000 samples",
    ]


@given(st.text())
def test_one_line_is_one_line_that_steers_no_terminal(text):
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.isprintable()


def test_one_line_leaves_a_line_alone():
    assert one_line("größe × 2: 'a'  b") == "größe × 2: 'a' b"
    assert math.isclose(len(one_line("\udcff")), len("\\udcff"))
