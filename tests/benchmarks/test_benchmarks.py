"""The benchmarks run, say what they saw, and tell nothing of the machine's name or folders."""

import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import machine, planning
from benchmarks.blocks.planner import scale as scale_block
from benchmarks.claims import __main__ as claims_command
from benchmarks.claims import speed
from benchmarks.claims.claim import Claim
from benchmarks.timing import in_turns
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def result_of(path: Path) -> dict:
    text = path.read_text(encoding="utf-8")
    assert str(REPOSITORY) not in text
    result = json.loads(text)
    assert socket.gethostname() not in result["machine"].values()
    assert {"command", "date", "commit", "modified", "machine"} <= result.keys()
    return result


def test_tasks_take_turns() -> None:
    calls: list[tuple[str, int]] = []
    tasks = {name: lambda turn, name=name: calls.append((name, turn)) for name in "ab"}
    times = in_turns(tasks, rounds=2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [len(seconds) for seconds in times.seconds.values()] == [2, 2]
    assert times.ratio("a", "a").median == 1


@pytest.mark.parametrize(
    ("figure", "quick", "verdict"),
    [(1.0, False, "kept"), (1.6, False, "missed"), (1.6, True, "too few"), (0.4, False, "missed")],
)
def test_a_claim_is_kept_within_its_bounds(figure: float, quick: bool, verdict: str) -> None:
    claim = Claim("lengths", "ratio", figure, at_least=0.5, at_most=1.5)
    assert claim.verdict(quick=quick) == verdict


def test_a_promise_that_holds_at_any_size_is_missed_by_a_quick_run_too() -> None:
    assert Claim.true("lengths", "each sample once", seen=False).verdict(quick=True) == "missed"
    assert Claim("lengths", "seconds", 3.0).verdict(quick=True) == "shown"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cannot be kept on one core")
def test_one_core_is_taken_and_given_back() -> None:
    before = os.sched_getaffinity(0)
    with machine.one_core() as pinned:
        assert pinned
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.slow
def test_claims_hold_at_any_size_where_they_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "IMPORT_ROUNDS", 2)
    target = tmp_path / "claims.json"
    arguments = ["--quick", "--output", str(target)]
    done = CliRunner().invoke(claims_command.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    claims = result_of(target)["claims"]
    assert {claim["verdict"] for claim in claims} <= {"kept", "shown", "too few"}
    # What hangs neither on speed nor on many samples.
    told = [claim for claim in claims if claim["claim"] == "dispersion as told ÷ as seen"]
    assert [claim["verdict"] for claim in told] == ["kept", "kept"]


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="reads the peak of memory from /proc")
def test_memory_and_correctness_of_a_large_plan(tmp_path: Path) -> None:
    target = tmp_path / "hundred_million.json"
    done = run_module(
        "benchmarks.hundred_million", "--quick", "--dtype", "uint16", "--output", str(target)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = result_of(target)["rows"]
    assert row["right"]
    # The plan itself takes 8 bytes a sample, so a peak below that was not measured.
    assert 8 < row["peak_bytes_per_sample"] <= 40


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="reads private memory from /proc")
def test_every_sample_of_a_memory_mapped_file_is_checked(tmp_path: Path) -> None:
    target = tmp_path / "scale.json"
    done = run_module(
        "benchmarks.scale", "--quick", "--folder", str(tmp_path), "--output", str(target)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = result_of(target)["rows"]
    assert row["right"]
    assert row["largest_batch"] <= 16_384
    assert row["index_private_mb"] < 200
    assert row["rank_private_mb"] < 200
    assert row["state_bytes"] < 1_000
    assert list(tmp_path.iterdir()) == [target]
    assert "| plan[b], µs | 40 |" in scale_block(result_of(target))


@pytest.mark.slow
def test_planning_reports_ratios_of_every_case(tmp_path: Path) -> None:
    target = tmp_path / "planning.json"
    done = run_module("benchmarks.planning", "--quick", "--rounds", "2", "--output", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    sorts = result_of(target)["sorts"]
    assert set(sorts) == set(planning.SORTS)
    for rows in sorts.values():
        assert len(rows) == 10
        for row in rows:
            for ratio in row["ratio"]["whole epoch"].values():
                assert 0 < ratio["least"] <= ratio["median"] <= ratio["most"]


def test_a_process_has_the_variables_that_it_is_given() -> None:
    # Read where NumPy is imported, so only a new process can have them.
    given = {"NPY_DISABLE_CPU_FEATURES": "X86_V4"}
    assert planning.in_own_process(os.getenv, *given, **given) == "X86_V4"
    assert os.environ.get("NPY_DISABLE_CPU_FEATURES") is None
