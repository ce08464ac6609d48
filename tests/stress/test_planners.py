"""A small share of the random planners; all of them: `python -m tests.stress.planners`."""

import pytest

from tests.stress import planners


@pytest.mark.slow
@pytest.mark.parametrize("constrained", [False, True])
def test_random_planners_keep_the_guarantees(constrained):
    said = []
    assert planners.run(100, 0, constrained=constrained, say=said.append) is None, "\n".join(said)
