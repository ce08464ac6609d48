"""Scripts with a known defect: the doctor calls it by its name, and not where it is repaired."""

import pytest

from batchwright.doctor.diagnosis import diagnose
from batchwright.doctor.launching import watch
from benchmarks.doctor_defects.__main__ import figures, summary, table
from benchmarks.doctor_defects.defects import DEFECTS, FRAMEWORKS, SCRIPTS, first_of_each
from benchmarks.doctor_defects.watching import Outcome, Watched, outcome_of
from tests.doctor.watched import forked
from tests.launched import launched


def seen(*findings: tuple[str, str], failure: str = "") -> Watched:
    rows = tuple({"name": name, "level": level, "figure": "Some."} for name, level in findings)
    return Watched(rows, seconds=1.0, failure=failure)


def test_thirty_scripts_over_five_frameworks_and_more():
    assert len(DEFECTS) == 30
    assert len(FRAMEWORKS) > 5
    assert {each.script for each in DEFECTS} == set(SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda each: each.name)
def test_a_script_says_its_command_and_has_one_switch(defect):
    text = defect.script.read_text(encoding="utf-8")
    assert text.count("--repaired") == 1
    assert 2 <= text.count("REPAIRED") <= 3
    assert ("torchrun" in text) == (defect.ranks > 1)
    assert defect.command(repaired=True)[-2:] == [str(defect.script), "--repaired"]


@pytest.mark.parametrize(
    ("broken", "repaired", "is_found", "is_gone"),
    [
        (seen(("samples lost", "error")), seen(), True, True),
        (seen(("samples lost", "error")), seen(("samples lost", "error")), True, False),
        (seen(("samples lost", "warning")), seen(("samples lost", "info")), True, True),
        (seen(("samples lost", "info")), seen(), False, True),
        (seen(("padding", "error")), seen(("padding", "warning")), False, True),
        (seen(), seen(("samples lost", "error")), False, False),
        (seen(failure="Traceback"), seen(), False, True),
    ],
)
def test_a_defect_is_found_by_its_name(broken, repaired, is_found, is_gone):
    (defect,) = [each for each in DEFECTS if each.name == "buckets_drop_their_rest"]
    outcome = Outcome(defect, broken, repaired)
    assert (outcome.is_found, outcome.is_gone) == (is_found, is_gone)
    result = figures([outcome])
    assert (result["found"], result["gone"]) == (is_found, is_gone)
    assert result["false_errors"] == len(repaired.errors)
    assert summary([outcome]).startswith(f"found: {is_found:d} of 1; ")
    assert table([outcome]).row_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("defect", first_of_each()[1:], ids=lambda each: each.framework)
def test_a_defect_of_each_framework_is_found(defect, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # A fork beside threads of ranks may wait for ever, and Keras has one backend in a process.
    is_alone = defect.ranks > 1 or defect.framework == "keras"
    watched = watch if is_alone else forked
    (tmp_path / "events").mkdir()
    run = watched(defect.command(repaired=False), folder=tmp_path / "events")
    assert run.exit_code == 0, run.notes
    assert defect.finding in {each.name for each in diagnose(run).findings}


@pytest.mark.slow
def test_a_defect_is_found_by_the_command_and_gone_where_it_is_repaired():
    defect = first_of_each()[0]
    outcome = outcome_of(defect)
    assert not outcome.broken.failure
    assert outcome.is_found, outcome.broken.findings
    assert outcome.is_gone, outcome.repaired.findings
    assert not outcome.repaired.errors


@pytest.mark.slow
@pytest.mark.parametrize("repaired", [False, True])
def test_scripts_run_without_the_doctor(repaired, tmp_path):
    (defect,) = [each for each in DEFECTS if each.name == "class_sorted_not_shuffled"]
    done = launched(defect.command(repaired=repaired), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 1: loss" in done.stdout
