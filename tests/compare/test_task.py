"""What a task refuses when it is made, and what it says of itself."""

import numpy as np
import pytest

from batchwright.compare.task import warm_up_then_decay
from batchwright.errors import BudgetError, LengthsError, TaskError
from tests.compare.conftest import make_task


def test_a_task_counts_the_tokens_of_all_columns(task):
    pairs = np.stack([task.sizes, 2 * task.sizes], axis=1)
    assert make_task(lengths=pairs).num_tokens == 3 * task.num_tokens


def test_without_lengths_all_samples_are_alike():
    assert make_task(lengths=None).num_tokens == 240


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"lengths": [1, 2, 3]}, TaskError, "3 lengths for 240 samples"),
        ({"lengths": [0] * 240}, LengthsError, ""),
        ({"labels": [1, 2]}, TaskError, "Task(labels=…) has 2 for 240 samples"),
        ({"groups": 3}, TaskError, "Task(groups=…) has int for 240 samples"),
        ({"features": np.ones((3, 2))}, TaskError, "Task(features=…) has 3 for 240 samples"),
        ({"model": 3}, TaskError, "Task(model=…) got int, expected a function"),
        ({"max_tokens": 0}, BudgetError, "max_tokens"),
        ({"better": "best"}, ValueError, "better"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused(changes, error, said):
    with pytest.raises(error) as caught:
        make_task(**changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_are_computed_once_and_when_they_are_needed():
    calls = []

    def compute():
        calls.append(1)
        return np.arange(240.0)

    task = make_task(difficulties={"mine": compute})
    assert calls == []
    scores, seconds = task.difficulty()
    assert task.difficulty("mine")[0] is scores
    assert calls == [1]
    assert seconds > 0
    assert task.difficulty("length")[1] == 0
    with pytest.raises(TaskError, match="no difficulty 'other', only: length, mine"):
        task.difficulty("other")


def test_the_default_rate_rises_and_falls_and_never_ends():
    rates = [warm_up_then_decay(share) for share in (0.0, 0.1, 0.2, 0.8, 1.25)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0.4])
