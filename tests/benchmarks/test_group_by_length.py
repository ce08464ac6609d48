"""The race of `use_plan` against grouping by length: it runs, and its text says what it found."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.blocks.training import grouped
from benchmarks.group_by_length import __main__ as command
from benchmarks.group_by_length.setting import Setting


def row(arm, seconds, loss, **other):
    figures = {"tokens_per_second": 10.0, "peak_bytes": 4, "worst_batch": 8, "padding": 0.5}
    return {"arm": arm, "seconds": 10.0, "seconds_to_loss": seconds, "loss": loss} | figures | other


def test_figures_are_over_the_plain_arm_and_the_text_says_no_more() -> None:
    races = [
        [row("plain", 10.0, 2.0), row("group_by_length", 5.0, 2.5), row("use_plan", 4.0, 2.25)],
        [row("plain", 10.0, 2.0), row("group_by_length", 5.0, 1.5), row("use_plan", None, 2.5)],
    ]
    races = [[each | {"accumulate": 1} for each in race] for race in races]
    job = {"data": "functions", "batch_size": 8, "accumulate": 4, **command.figures(races)}
    over = job["arms"][2]["over_plain"]
    assert over["time"] == [0.4, None]
    assert over["loss"] == [0.25, 0.5]
    machine = {"cores": 2, "cpu": "a CPU"}
    facts = {"command": "c", "date": "d", "machine": machine, "seeds": 2, "jobs": [job]}
    text = grouped(facts)
    assert "0.40 (0.40 – 0.40), never in 1" in text
    assert "+0.375 (+0.250 – +0.500)" in text
    assert "sooner than `group_by_length` in 1 of 2 runs" in text
    assert (
        "below `group_by_length`'s in 1 of 2, and no higher than the plain shuffle's in 0" in text
    )


@pytest.mark.slow
def test_the_race_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Setting("functions", 60, 40, epochs=1, batch_size=1, accumulate=2, learning_rate=1e-3)

    def write_data(setting: Setting, folder: Path) -> Path:
        lengths = np.random.default_rng(0).integers(2, 40, setting.num_samples).tolist()
        samples = [{"input_ids": [n] * n, "labels": [n] * n} for n in lengths]
        path = folder / "data.json"
        path.write_text(json.dumps({"train": samples, "held_out": samples[:5]}))
        return path

    monkeypatch.setattr(command, "SETTINGS", (small,))
    monkeypatch.setattr(command, "ARMS", ("plain", "use_plan"))
    monkeypatch.setattr(command, "write_data", write_data)
    target = tmp_path / "result.json"
    arguments = ["--seeds", "1", "--output", str(target)]
    done = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert str(tmp_path) not in target.read_text(encoding="utf-8")
    (job,) = json.loads(target.read_text(encoding="utf-8"))["jobs"]
    plain, planned = job["races"][0]
    assert plain["tokens"] == planned["tokens"]
    assert len(plain["evaluations"]) == 20
