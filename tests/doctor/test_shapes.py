"""Findings on models that are compiled for each shape."""

from dataclasses import replace

import numpy as np
import pytest

from batchwright.doctor.checks.shapes import compiled_shapes
from batchwright.doctor.records import Batch, Rank, Run, Update

COMPILING, RUNNING = 6.0, 0.25  # seconds
FOUND = [("a shape per update for the compiler", "warning")]


def compiled(widths, is_slow, *, compilations, first=COMPILING, **rank):
    """A run with one batch an update; `is_slow`: whether an update compiles, by its number."""
    clock, updates = 0.0, []
    for number, width in enumerate(widths):
        seconds = first if number == 0 else COMPILING if is_slow(number) else RUNNING
        updates.append(Update((Batch(None, 8, width),), (), start=clock, end=clock + seconds))
        clock += seconds
    facts = {"compiles": True, "num_compilations": compilations, **rank}
    return Run((Rank(0, 1, loaders=(), updates=tuple(updates), **facts),))


def found(run):
    return [(each.name, each.level) for each in compiled_shapes(run)]


RAGGED = list(range(20, 60))  # forty shapes


def test_eight_compilations_and_then_none():
    """As torch does with `dynamic=False`: eight shapes, then it runs uncompiled."""
    (finding,) = compiled_shapes(compiled(RAGGED, lambda number: number < 8, compilations=8))
    assert (finding.name, finding.level) == FOUND[0]
    assert "40 shapes of batches in 40 updates, and 8 compilations" in finding.figure
    assert "5 updates with a new shape took 6.00 s, a quick one takes 0.25 s" in finding.figure
    assert "uncompiled" in finding.cost
    assert any("bw.Buckets(8, max_tokens=472)" in line for line in finding.code)
    assert 0.5 < finding.share < 1


def test_every_shape_is_compiled():
    run = compiled(RAGGED, lambda number: True, compilations=40)
    assert found(run) == FOUND


def test_new_shapes_among_known_ones():
    widths = np.repeat(np.arange(20, 32), 5)
    run = compiled(widths, lambda number: number % 5 == 0, compilations=12)
    assert found(run) == FOUND


@pytest.mark.parametrize(
    "run",
    [
        # Dynamic shapes, in a model of one graph and in one of six.
        compiled(RAGGED, lambda number: number < 2, compilations=2),
        compiled(RAGGED, lambda number: number < 3, compilations=18),
        # As many shapes as are allowed.
        compiled(np.tile(np.arange(8), 5), lambda number: number < 8, compilations=8),
        compiled(RAGGED, lambda number: number < 8, compilations=8, compiles=False),
        # Long batches take longer, and nothing is compiled.
        compiled(RAGGED, lambda number: False, compilations=9),
        Run((Rank(0, 1, (), (), compiles=True, num_compilations=20),)),
        Run(ranks=()),
    ],
)
def test_what_is_compiled_once_is_right(run):
    assert found(run) == []


def test_updates_of_varying_length_are_no_compilations():
    rng = np.random.default_rng(0)
    widths = rng.integers(20, 119, 40)
    clock, updates = COMPILING, []
    updates.append(Update((Batch(None, 8, 61),), (), start=0.0, end=clock))
    for width in widths:
        seconds = RUNNING * width / 20
        updates.append(Update((Batch(None, 8, int(width)),), (), start=clock, end=clock + seconds))
        clock += seconds
    rank = Rank(0, 1, (), tuple(updates), compiles=True, num_compilations=12)
    assert found(Run((rank,))) == []


def test_runs_without_times_are_left_alone():
    run = compiled(RAGGED, lambda number: True, compilations=40)
    (rank,) = run.ranks
    timeless = tuple(replace(each, start=0.0, end=0.0) for each in rank.updates)
    assert found(Run((replace(rank, updates=timeless),))) == []
