"""What being watched costs: the processes take turns, end with the same weights, and are compared."""

import pytest
from click.testing import CliRunner

from benchmarks.doctor_overhead.__main__ import CASES, WARM_UP, main, one_round, summed_up


def test_times_are_divided_by_those_of_the_process_as_it_is() -> None:
    rounds = [
        {
            "time": {"alone": 2.0, "watched": 2.0 * ratio, "again": 1.0},
            "processor": {"alone": 1.0, "watched": 1.5, "again": 1.0},
            "same": ratio < 1.2,
        }
        for ratio in (1.0, 1.1, 1.2)
    ]
    found = summed_up(rounds)
    assert found["time"]["median"] == pytest.approx(1.1)
    assert found["time"]["control"] == 0.5
    assert found["processor"]["ratios"] == [1.5, 1.5, 1.5]
    assert found["same"] == 2


def test_updates_that_only_warm_up_are_refused() -> None:
    done = CliRunner().invoke(main, ["--updates", str(WARM_UP)])
    assert done.exit_code == 2


@pytest.mark.slow
def test_a_watched_process_takes_turns_with_two_that_are_not() -> None:
    found = one_round(CASES["two workers"], WARM_UP + 2, 0)
    assert found["same"]
    assert set(found["time"]) == set(found["processor"]) == {"alone", "watched", "again"}
    assert min(*found["time"].values(), *found["processor"].values()) > 0
