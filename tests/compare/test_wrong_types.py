"""What is of a wrong type is refused at the door, in one line: TOML, tasks, options."""

import pytest

from batchwright.compare import Strategy, load_task
from batchwright.compare.strategy import parse_strategies, read_strategies
from batchwright.errors import BatchwrightError, TaskError
from tests.cli.command import invoke
from tests.cli.test_compare import TASK, write
from tests.compare.conftest import make_task

NAN, INF = float("nan"), float("inf")

TABLES = {
    "kind": ["3", '["planned"]', "{ a = 1 }", '""', "true", '"plan"'],
    "order": ["3", '["shuffle"]', "{ a = 1 }", '"shuffle:x"', '"curriculum:"', '"up"', "true"],
    "precision": ["16", '["bf16"]', "{ a = 1 }", '""', '"half"'],
    "max_tokens": [
        '"80"',
        "80.5",
        "true",
        "-5",
        "0",
        "nan",
        "inf",
        "2020-01-01",
        "{ a = 1 }",
        "[]",
    ],
    "step_tokens": ['"many"', "-1", "0.5", "true", "[[[1]]]", "9223372036854775807000"],
    "batch_size": ['"x"', "0", "-1", "2.5", "100000000000000000000", "[8]"],
    "pad_to_multiple_of": ['"8"', "[8]", "0", "{ a = 1 }"],
    "mixing": ['["x"]', "{ a = 1 }", "0", '""'],
    "oversize": ['"what"', '["drop"]', "3"],
    "num_shapes": ['"many"', "0", "[2]"],
    "unknown": ["1"],
}


@pytest.mark.parametrize("setting", TABLES)
def test_a_setting_of_a_wrong_type_is_refused(setting, tmp_path):
    kind = {"num_shapes": "buckets", "batch_size": "plain"}.get(setting, "planned")
    task, path = make_task(), tmp_path / "mine.toml"
    for value in TABLES[setting]:
        text = f"[mine]\n{setting} = {value}\n"
        path.write_text(text if setting == "kind" else f'{text}kind = "{kind}"\n', "utf-8")
        with pytest.raises(BatchwrightError) as caught:
            read_strategies(path)[0].planner(task, seed=0)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "mine = 3",
        'mine = ["a"]',
        '[[mine]]\nkind = "plain"',
        '[""]\nkind = "plain"',
        '["dense limit"]\nkind = "plain"',
        '[mine]\nkind = "plain"\n[mine.deep]\na = 1',
        "[mine]\nmixing = " + "[" * 2_000 + "]" * 2_000,
        "[" + ".".join(["a"] * 3_000) + "]",
        "[mine",
        "",
    ],
)
def test_a_file_of_another_shape_is_refused(text, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(TaskError, match=r"mine\.toml|expected a name|'deep'|kind='a'") as caught:
        read_strategies(path)[0].planner(make_task(), seed=0)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe[a]")
    with pytest.raises(TaskError, match="cannot be read"):
        read_strategies(path)


@pytest.mark.parametrize("names", ["", " ", ",", "plain+", "plain++bf16", "plain+curriculum:", "x"])
def test_names_that_are_none_are_refused(names):
    with pytest.raises(TaskError):
        parse_strategies(names)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""},
        {"name": 3},
        {"order": 3},
        {"order": dict},
        {"options": None},
        {"options": [("mixing", "update")]},
        {"kind": None},
        {"precision": []},
    ],
)
def test_a_strategy_of_wrong_types_is_refused(settings):
    with pytest.raises(TaskError):
        Strategy(**{"name": "mine"} | settings)


WRONG = {
    "samples": [None, 3, lambda: 3, iter([1])],
    "lengths": [3, "x", [], [-1] * 240, ["a"] * 240, [None] * 240, [NAN] * 240, [1.5] * 240, {}],
    "max_tokens": [None, 0, -1, 2.5, NAN, "x", True, [80], 2**70],
    "step_tokens": [None, 0, -1, 2.5, NAN, "x", True, [80], 2**70],
    "epochs": [None, 0, -1, 2.5, NAN, "x", True, [1], 2**70],
    "clip": [0, -1.0, NAN, "x", True, [1]],
    "metric": [None, "", 3, NAN, [], max],
    "better": [None, "", "more", 3, []],
    "difficulties": [None, [], "x", 3, {3: [1]}],
    "strategies": ["plain", 3, [3], [None], {}],
    "device": ["", "nowhere", 3.5, []],
    "labels": [3, [], [1], lambda: 3],
    "groups": [3, [], [1], lambda: 3],
    "features": [3, [], [1]],
    **dict.fromkeys(("collate", "model", "optimizer", "evaluate"), (None, 3, "x", [])),
    **dict.fromkeys(("loss_sum", "schedule"), (None, 3, "x", [])),
    **dict.fromkeys(("weigh", "collate_packed"), (3, "x", [])),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_task_of_a_wrong_type_is_refused(name):
    for value in WRONG[name]:
        with pytest.raises(BatchwrightError) as caught:
            make_task(**{name: value})
        assert "\n" not in str(caught.value), value


def test_a_task_file_that_ends_the_process_is_refused(tmp_path):
    path = tmp_path / "task.py"
    for text, said in [
        ("import sys\nsys.exit(0)\n", r"line 2: it called sys\.exit"),
        ("raise SystemExit\n", r"line 1: it called sys\.exit"),
        ("def task():\n    exit()\n", r"line 2: task called sys\.exit"),
        ("\x00", "it failed with"),
        ("(" * 500, "it failed with"),
        ("x = 1\n", "defines no `task`"),
        ("task = 3\n", "of type int"),
    ]:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(TaskError, match=said) as caught:
            load_task(path)
        assert "\n" not in str(caught.value)


OPTIONS = [
    ("compare", "--target", "nan"),
    ("compare", "--target", "inf"),
    ("compare", "--seeds", "nan"),
    ("compare", "--seeds", "9999999999"),
    ("compare", "--seed", "-1"),
    ("compare", "--evaluations", "0"),
    ("compare", "--evaluations", "1000000000"),
    ("compare", "--threads", "0"),
    ("compare", "--strategies", "--json"),
    ("compare", "--html", "--json"),
    ("compare", "-o", "--json"),
    ("advise", "--seconds", "nan"),
    ("advise", "--seconds", "inf"),
    ("advise", "--seconds", "0.5"),
    ("advise", "--seconds", "x"),
    ("advise", "--updates", "0"),
    ("advise", "--updates", "1e3"),
    ("advise", "--updates", "99999999999999999999"),
    ("advise", "--html", "--json"),
    ("advise", "--max-tokens", "99999999999999999999"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_an_option_of_a_wrong_type_is_refused(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("task.py", TASK, epochs=10**6)  # training it would not end
    command, *rest = options
    done = invoke(command, "task.py", *rest)
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    # What was given, or the option: --seconds inf, or -o.
    assert any(each in done.stderr for each in rest)
    assert [each.name for each in tmp_path.iterdir()] == ["task.py"]


def test_seconds_and_updates_are_not_given_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("task.py")
    done = invoke("advise", "task.py", "--seconds", "5", "--updates", "5")
    assert done.exit_code == 2
    assert "give one" in done.stderr
