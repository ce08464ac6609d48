"""What the doctor predicts beside what is seen: the benchmark says how far it is off, and runs."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from rich.console import Console

from batchwright.doctor.gains import Gain
from benchmarks.doctor_gains import __main__ as command
from tests.doctor.watched import as_script, fork_what_is_watched
from tests.launched import launched

GAIN = Gain(32, 1, 1, 0.5, 4, 8, 0.01, 128, 1_000, 1.2, 60, planned_tokens_per_second=1_100.0)


def test_a_prediction_is_near_within_both_limits() -> None:
    seen = {"padding": 0.012, "tokens_per_second": 1_000.0}
    found = command.off(GAIN.planned_padding, GAIN, seen)
    assert found["padding_off"] == pytest.approx(-0.002)
    assert found["speed_off"] == pytest.approx(0.1)
    assert found["is_near"]
    assert not command.off(0.01, GAIN, seen | {"padding": 0.03})["is_near"]
    assert not command.off(0.01, GAIN, seen | {"tokens_per_second": 900.0})["is_near"]


def test_an_unknown_speed_is_not_near() -> None:
    unknown = Gain(32, 1, 1, 0.5, 4, 8, 0.01, 128, 1_000, 1.2, 60)
    seen = {"padding": 0.01, "tokens_per_second": 1_000.0}
    found = command.off(0.01, unknown, seen)
    assert found["speed_off"] is None
    assert not found["is_near"]
    gain = {"padding": 0.5, "planned_padding": 0.01}
    gain |= {"tokens_per_second": None, "planned_tokens_per_second": None}
    shown = Console(width=120)
    with shown.capture() as text:
        shown.print(command.table([{"job": "one", "gain": gain, "seen": seen, **found}]))
    assert "1.0% → 1.0%" in text.get()


@pytest.mark.slow
def test_a_job_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_what_is_watched(monkeypatch, tmp_path, "benchmarks.doctor_gains.__main__.watch")

    def run(words, cwd, **_):
        return launched(as_script(words), cwd=cwd)

    monkeypatch.setattr(command, "subprocess", SimpleNamespace(run=run, PIPE=None))
    target = tmp_path / "result.json"
    arguments = ["--quick", "--updates", "8", "--job", "docstrings", "--output", str(target)]
    done = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert str(tmp_path) not in target.read_text(encoding="utf-8")
    (job,) = json.loads(target.read_text(encoding="utf-8"))["jobs"]
    assert job["gain"]["padding"] > 0.4
    assert abs(job["padding_off"]) < 0.05
    assert job["seen"]["updates"] == 8
