"""The figures that are drawn from races against Trainer."""

import pytest

from benchmarks.trainer.figures import figures, table
from benchmarks.trainer.race import ARMS, Row, seconds_to

EVALUATIONS = [
    {"seconds": 10.0, "tokens": 100, "updates": 1, "loss": 5.0},
    {"seconds": 20.0, "tokens": 200, "updates": 2, "loss": 4.0},
]


def row(arm: str, **other: object) -> Row:
    common = {"updates": 2, "accumulate": 1, "tokens": 200, "seconds": 20.0, "at_work": 1.0}
    figures = {"tokens_per_second": 10.0, "padding": 0.1, "worst_batch": 1.0, "peak_bytes": 100}
    learnt = {"loss": 4.0, "evaluations": EVALUATIONS}
    return {"arm": arm, **common, **figures, **learnt, **other}


def race(**trainer: object) -> list[Row]:
    others = {"trainer": trainer, "dense limit": {"loss": None, "evaluations": []}}
    return [row(arm, **others.get(arm, {})) for arm in ARMS]


@pytest.mark.parametrize(("loss", "seconds"), [(5.5, 10.0), (4.5, 15.0), (4.0, 20.0), (3.9, None)])
def test_time_to_a_loss_is_read_between_evaluations(loss: float, seconds: float | None) -> None:
    assert seconds_to(EVALUATIONS, loss) == seconds


def test_ratios_are_planned_over_the_arm() -> None:
    result = figures([race(tokens_per_second=5.0, peak_bytes=400, loss=4.5, seconds=30.0)])
    over = result["arms"][0]["planned_over_it"]
    assert over == {"speed": [2.0], "memory": [0.25], "time": [0.5]}


def test_a_loss_that_was_never_reached_is_said() -> None:
    result = figures([race(loss=3.0), race(loss=4.5)])
    assert result["arms"][0]["planned_over_it"]["time"] == [None, 0.75]
    setting = {"job": "one column", "max_tokens": 1_024, "step_tokens": 4_096}
    shown = list(table({**setting, **result}).columns[-1].cells)
    assert shown[0] == "0.75, 1 never"
