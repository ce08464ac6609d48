"""A task that somebody wrote from the documentation alone, unchanged: it ran at the first try."""

import json
import shutil
import sysconfig
from pathlib import Path

import pytest

from tests.cli.command import invoke

TASK = Path(__file__).resolve().parent / "new_user_task.py"


@pytest.mark.slow
def test_a_task_written_from_the_documentation_alone_runs(tmp_path, monkeypatch):
    assert len(TASK.read_text(encoding="utf-8").splitlines()) <= 40
    # Its samples are the functions of Python's standard library: a part of it trains faster.
    library = tmp_path / "library"
    library.mkdir()
    for module in ("calendar", "codecs", "gettext", "heapq", "ipaddress", "mimetypes", "queue"):
        shutil.copy(Path(sysconfig.get_path("stdlib"), f"{module}.py"), library)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    monkeypatch.chdir(tmp_path)
    options = ("--strategies", "plain,planned", "--evaluations", "3", "--output", "out.json")
    done = invoke("compare", str(TASK), "--quick", *options)
    assert done.exit_code == 0, done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    plain, planned, _ = result["summary"]
    assert planned["padding"] < plain["padding"]
    untrained = result["runs"][0][0]["evaluations"][0]["metric"]
    assert max(plain["metric"], planned["metric"]) < untrained / 2
