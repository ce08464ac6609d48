"""A share of `tests.stress.states`, and that it sees what it should."""

import itertools

import pytest

from batchwright.resume import Position
from tests.stress import states


@pytest.mark.slow
def test_edited_states_are_refused_or_mean_the_same():
    said = []
    assert states.run(400, 0, say=said.append) is None
    assert "refused" in said[-1]


def test_a_state_that_is_accepted_though_wrong_is_seen(monkeypatch):
    epochs = itertools.count()
    monkeypatch.setattr(
        "batchwright.torch.data.batch_sampler.read_position", lambda *given: Position(next(epochs))
    )
    said = []
    assert states.run(20, 0, say=said.append) is not None
    assert any("accepted, and it is another" in line for line in said)


def test_a_raw_error_is_seen(monkeypatch):
    monkeypatch.setattr("batchwright.torch.data.batch_sampler.read_position", lambda *given: 1 / 0)
    said = []
    assert states.run(20, 0, say=said.append) is not None
    assert any("ZeroDivisionError" in line for line in said)
