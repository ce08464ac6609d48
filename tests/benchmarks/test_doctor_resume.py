"""The check of resumes runs, and counts what was found and what was not."""

import pytest
from click.testing import CliRunner

from benchmarks.doctor_resume import __main__ as command
from tests.doctor.watched import fork_what_is_watched

from .test_benchmarks import result_of


def test_wrong_and_right_resumes_are_counted_apart() -> None:
    def row(expected, as_expected):
        return {"expected": expected, "as_expected": as_expected}

    rows = [row(["a"], True), row(["a"], False), row([], True), row([], True)]
    assert command.summed(rows) == {"wrong": 2, "wrong_found": 1, "right": 2, "right_clean": 2}


def test_each_script_is_killed_and_resumed_by_its_own_command(tmp_path) -> None:
    for case in command.CASES:
        begin, *resumes = case.commands(tmp_path)
        assert "--resume" not in begin
        assert all(each[-1] == "--resume" for each in resumes)
        assert (command.SCRIPTS / case.script).is_file()
    elastic = next(each for each in command.CASES if each.ranks == (2, 1))
    begin, resume = elastic.commands(tmp_path)
    assert begin[begin.index("--nproc-per-node") + 1] == "2"
    assert "torch.distributed.run" not in resume


@pytest.mark.slow
def test_a_wrong_resume_is_found_and_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "CASES", command.CASES[:1])
    monkeypatch.setenv("PYTHONPATH", "")
    fork_what_is_watched(monkeypatch, tmp_path)
    target = tmp_path / "result.json"
    arguments = ["--seeds", "1", "--output", str(target)]
    done = CliRunner().invoke(command.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    result = result_of(target)
    assert (result["wrong"], result["wrong_found"]) == (1, 1)
    (run,) = result["runs"]
    assert run["found"][0]["level"] == "error"
    assert str(tmp_path) not in target.read_text(encoding="utf-8")
    assert "wrong resumes found: 1 of 1" in done.output
