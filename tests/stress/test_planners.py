"""A small share of the random planners; all of them: `python -m tests.stress.planners`."""

import pytest

from tests.stress import planners


@pytest.mark.slow
def test_random_planners_keep_the_guarantees():
    said = []
    assert planners.run(100, 0, say=said.append) is None, "\n".join(said)
