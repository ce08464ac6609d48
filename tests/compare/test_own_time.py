"""A clock that leaves out what a thread waited for a core."""

import time
from itertools import pairwise

import pytest

from batchwright.compare import own_time


@pytest.mark.parametrize(
    ("counted", "left_out"),
    [(b"7000000 2500000000 12\n", 2.5), (b"7000000 0 12\n", 0.0), (b"", 0.0), (None, 0.0)],
)
def test_seconds_without_a_core_are_left_out(counted, left_out, tmp_path, monkeypatch):
    file = tmp_path / "schedstat"
    if counted is not None:
        file.write_bytes(counted)
    monkeypatch.setattr(own_time, "SCHEDULED", file)
    before = time.perf_counter()
    measured = own_time.own_time() + left_out
    assert before <= measured + 1e-6
    assert measured <= time.perf_counter() + 1e-6


def test_the_clock_does_not_go_back():
    times = [own_time.own_time() for _ in range(1_000)]
    assert all(later - earlier > -1e-3 for earlier, later in pairwise(times))
