"""A share of `tests.stress.states`, and that it sees what it should."""

import pytest

from tests.stress import states


@pytest.mark.slow
def test_edited_states_are_refused_or_mean_the_same():
    said = []
    assert states.run(400, 0, say=said.append) is None
    assert "refused" in said[-1]


@pytest.mark.slow
def test_a_state_that_is_accepted_though_wrong_is_seen(monkeypatch):
    monkeypatch.setattr("batchwright._states._checksum", lambda fields: "same for all")
    assert states.run(200, 0, say=lambda line: None) is not None
