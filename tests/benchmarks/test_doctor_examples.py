"""Scripts as the libraries' examples are, under the doctor: each finding was checked by hand."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from batchwright.doctor.diagnosis import diagnose
from batchwright.report.diagnosed import Diagnosed
from benchmarks.blocks.doctor_examples import doctor_examples
from benchmarks.doctor_examples.checked import CHECKED
from benchmarks.doctor_examples.examples import EXAMPLES
from benchmarks.reporting import RESULTS
from tests.doctor.watched import forked

from .test_benchmarks import result_of

FINDING = {"level": "warning", "name": "padding", "figure": "60 % is padding."}


def test_every_finding_was_checked_by_hand():
    result = json.loads((RESULTS / "doctor_examples.json").read_text(encoding="utf-8"))
    found = {(row["script"], each["name"]) for row in result["rows"] for each in row["findings"]}
    assert {row["script"] for row in result["rows"]} == {each.name for each in EXAMPLES}
    assert found == set(CHECKED)


def test_the_table_says_what_was_found_and_what_was_not_checked():
    facts = {
        "command": "c",
        "date": "d",
        "machine": {"cores": 2, "cpu": "a CPU"},
        "rows": [
            {"script": "a", "library": "one", "about": "x", "findings": [FINDING, FINDING]},
            {"script": "b", "library": "two", "about": "y", "findings": []},
        ],
    }
    text = doctor_examples(facts)
    assert "| **a** (one): x | warning: **padding**. 60 % is padding. | not checked |" in text
    assert "|  | warning: **padding**." in text
    assert "| **b** (two): y | nothing found |  |" in text


def test_commands_name_scripts_that_are_there(tmp_path):
    for example in EXAMPLES:
        _, script, *options = example.command(tmp_path / "data", tmp_path / "out")
        text = Path(script).read_text(encoding="utf-8")
        compile(text, script, "exec")
        assert "batchwright" not in text
        assert str(tmp_path / "data" / example.model) in options
        assert "" not in options


def few_functions():
    """Texts for a small model, in place of those of Python's library."""
    return [{"text": f"def add_{n}(x):\n    return x + {n * n}\n" * 40} for n in range(60)]


@pytest.mark.slow
def test_a_script_is_watched(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from benchmarks.doctor_examples import __main__ as command
    from benchmarks.doctor_examples import data

    def run(words, env, **_):
        """Print what `batchwright doctor --json` does, and fork what it watches."""
        at = words.index("--")
        assert words[1:at] == ["-m", "batchwright", "doctor", "--json", "--seconds", "500"]
        seen = forked(words[at + 1 :], folder=tmp_path / "events", env=env)
        return CompletedProcess(words, 0, json.dumps(Diagnosed(diagnose(seen)).as_json()), "")

    monkeypatch.setattr(data, "SIZES", {"functions": 40})
    monkeypatch.setattr(data, "HELD_OUT", 20)
    monkeypatch.setitem(data._READERS, "functions", few_functions)
    monkeypatch.setattr(
        command, "write_data", lambda names: data.write_data(names, tmp_path / "data")
    )
    monkeypatch.setattr(command, "subprocess", SimpleNamespace(run=run))
    target = tmp_path / "result.json"
    options = ["--only", "run_language_model", "--output", str(target)]
    done = CliRunner().invoke(command.main, options, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = result_of(target)["rows"]
    assert row["watched"]["framework"] in {"transformers", "trl"}  # which others may have loaded
    assert row["watched"]["epochs"] == 2
    assert row["watched"]["padding"] in {None, 0.0}
    assert not [each["name"] for each in row["findings"] if each["level"] == "error"]
