"""Task files, good and bad."""

import sys
import textwrap

import pytest

from batchwright.cli.compare import TEMPLATE
from batchwright.compare import Task, load_task
from batchwright.compare.task_file import errors_of_task
from batchwright.errors import SourceNotFoundError, TaskError

GOOD = TEMPLATE.read_text(encoding="utf-8")


def written(folder, text):
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_a_task_may_have_a_small_form(tmp_path):
    path = written(tmp_path, GOOD)
    small, whole = load_task(path, quick=True), load_task(path)
    assert isinstance(small, Task)
    assert small.epochs < whole.epochs


def test_modules_beside_the_file_can_be_imported(tmp_path):
    (tmp_path / "beside_it.py").write_text(GOOD, encoding="utf-8")
    assert isinstance(load_task(written(tmp_path, "from beside_it import task")), Task)


def test_functions_can_import_modules_beside_the_file_later(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "needed_later.py").write_text("from torch.nn import Linear", encoding="utf-8")
    late = GOOD.replace("model=Writer", "model=lambda: __import__('needed_later').Linear(1, 2)")
    for _ in range(2):
        task = load_task(written(tmp_path, late))
    assert task.model().out_features == 2
    assert sys.path.count(str(tmp_path)) == 1


def test_a_file_sees_no_arguments_of_the_command(tmp_path, monkeypatch):
    given = ["batchwright", "compare", "mine.py", "--seeds", "3"]
    monkeypatch.setattr(sys, "argv", given)
    parses = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    assert isinstance(load_task(written(tmp_path, parses + GOOD)), Task)
    assert sys.argv is given


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "mine.py: it defines no `task`"),
        ("task = 3", "`task` is of type int"),
        ("def task(): return None", "`task` is of type NoneType"),
        ("x = 1\ntask = x / 0", "mine.py, line 2: it failed with ZeroDivisionError"),
        ("def task(quick):\n    return [][1]", "mine.py, line 2: task failed with IndexError"),
        ("task = (", "mine.py, line 1: it failed with SyntaxError"),
        ("import no_such_module", "mine.py, line 1: it failed with ModuleNotFoundError"),
        (
            "from batchwright.compare import Task\ntask = Task(samples=[1])",
            "mine.py, line 2: it failed with TypeError",
        ),
        (
            GOOD.replace("loss_sum=loss_sum,", ""),
            "required keyword-only argument: 'loss_sum'.",
        ),
        (GOOD.replace("for each in training]", "for each in samples]"), "expected one for each"),
    ],
)
def test_a_bad_file_is_refused_in_a_line_that_names_it(tmp_path, text, said):
    with pytest.raises(TaskError) as caught:
        load_task(written(tmp_path, text), quick=True)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"no\.py: there is no such file"):
        load_task(tmp_path / "no.py")


def test_a_place_is_named_once(tmp_path):
    """Also where the file fails as another process reads it."""
    path = written(tmp_path, "x = 1 / 0")
    with pytest.raises(TaskError) as caught, errors_of_task(path):
        load_task(path)
    assert str(caught.value).count("line 1") == 1
