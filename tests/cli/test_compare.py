"""`batchwright compare` and `new-task`, as users start and stop them."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from batchwright.compare.comparison import SHARED
from benchmarks.template_gain import seen
from tests.cli.command import SOURCE, invoke
from tests.patience import PATIENCE

TASK = """
import torch
from torch.nn.functional import cross_entropy

from batchwright.compare import Task
from batchwright.torch import PadCollator

generator = torch.Generator().manual_seed(0)
lengths = torch.randint(1, 40, (400,), generator=generator).tolist()
words = [torch.randint(1, 3, (n,), generator=generator) for n in lengths]
samples = [{"tokens": w, "labels": int((w == 1).sum() > (w == 2).sum())} for w in words]
collate = PadCollator()


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(3, 8, padding_idx=0)
        self.decide = torch.nn.Linear(8, 2)

    def forward(self, tokens):
        return self.decide(self.embed(tokens).sum(1))


def loss_sum(model, batch):
    return cross_entropy(model(batch["tokens"]), batch["labels"], reduction="sum")


def evaluate(model):
    return loss_sum(model, collate(samples[:100])).item() / 100


task = Task(
    samples=samples,
    lengths=lengths,
    collate=collate,
    model=Model,
    optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2),
    loss_sum=loss_sum,
    evaluate=evaluate,
    max_tokens=80,
    step_tokens=160,
    epochs=EPOCHS,
)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, text=TASK, epochs=1):
    Path(path).write_text(text.replace("EPOCHS", str(epochs)), encoding="utf-8")


def start(*args):
    environment = os.environ | {"PYTHONPATH": SOURCE, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "batchwright", "compare", *args],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args):
    result = invoke("compare", *args)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_batch_size_of_the_command_is_the_baseline():
    write("task.py")
    options = ("--strategies", "plain,planned", "--seeds", "1", "--evaluations", "2")
    code, out, err = run("task.py", *options, "--batch-size", "24", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["batch_size"] == 24
    plain, planned = result["plans"]["plain"], result["plans"]["planned"]
    assert plain["num_batches"] == planned["num_batches"] == math.ceil(result["num_samples"] / 24)
    code, out, err = run("task.py", *options, "--batch-size", "16")
    assert code == 2
    assert "another comparison (other max_tokens, step_tokens, batch_size" in err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_advice_on_a_task_takes_a_batch_size_too():
    write("task.py")
    done = invoke("advise", "task.py", "--updates", "4", "--batch-size", "24", "--json")
    assert done.exit_code == 0, done.stderr
    data = json.loads(done.stdout)["data"]
    assert (data["batch_size"], data["batch_size_is_given"]) == (24, True)


def test_batches_that_exceed_the_budget_are_said_and_not_refused(here, capsys):
    from batchwright.cli.compare import _chosen

    write(here / "task.py", TASK.replace("max_tokens=80", "max_tokens=80, batch_size=24"))
    task, _ = _chosen(str(here / "task.py"), None, null=False, quick=False, batch_size=None)
    assert (task.batch_size, task.max_tokens) == (24, 80)
    said = capsys.readouterr().err
    assert "batchwright: plain, grouped: batches of 24 samples are not cut to the budget" in said
    assert "max_tokens is 80" in said


CHANGES_FOLDER = """
import os
from pathlib import Path

os.chdir("data")
print("reading", Path("words.txt").read_text())
"""


@pytest.mark.slow
def test_a_task_may_print_and_change_the_folder(here, monkeypatch):
    """What it prints is no result; outputs are where the command was given."""
    monkeypatch.setenv(SHARED, "0")
    Path("data").mkdir()
    Path("data", "words.txt").write_text("a b", encoding="utf-8")
    late = 'reduction="sum") + 0 * len(Path("words.txt").read_text())'
    write("task.py", CHANGES_FOLDER + TASK.replace('reduction="sum")', late))
    options = ("--strategies", "plain", "--seeds", "1", "--evaluations", "2", "--html", "page.html")
    code, out, err = run("task.py", *options, "--json")
    assert code == 0, err
    assert json.loads(out)["task"] == "task.py"
    assert err == "reading a b\n"
    os.chdir(here)
    assert Path("task.compare.json").is_file()
    assert Path("page.html").is_file()
    fails = TASK.replace("(model, batch):", "(model, batch):\n    1 / 0")
    write("task.py", CHANGES_FOLDER + fails)
    code, _, err = run("task.py", *options, "--restart")
    assert code == 2
    assert f"{here / 'task.py'}, line 32: loss_sum failed with ZeroDivisionError" in err


@pytest.mark.slow
def test_a_new_task_runs_and_shows_the_gain(here):
    assert invoke("new-task", "mine.py").exit_code == 0
    task = Path("mine.py").read_text()
    assert "permutation(len(texts))" in task
    # Less of Python's help, shorter training.
    write("mine.py", task.replace("permutation(len(texts))", "permutation(len(texts))[:600]"))
    options = ("--quick", "--json", "--evaluations", "5", "--threads", "1")
    code, out, err = run("mine.py", *options, "--strategies", "plain,planned")
    assert code == 0
    assert "batches of 32 samples are not cut to the budget" in err
    result = json.loads(out)
    assert result["complete"]
    plain, planned, dense = result["summary"]
    assert (plain["name"], planned["name"], dense["name"]) == ("plain", "planned", "dense limit")
    assert planned["peak_bytes"] > 0
    shown = seen(result)
    assert shown.padding[0] > 0.6
    assert shown.padding[1] < 0.1
    assert shown.computed < 0.6
    assert plain["metric"] < 0.7 * result["runs"][0][0]["evaluations"][0]["metric"]
    assert abs(shown.gain) < 0.05 * plain["improved"]
    assert result["said"]
    assert json.loads(Path("mine.compare.json").read_text())["runs"] == result["runs"]
    assert not Path("mine.compare.json.state").exists()


def test_a_new_task_overwrites_nothing(here):
    write("mine.py", "precious")
    result = invoke("new-task", "mine.py")
    assert result.exit_code == 2
    assert "mine.py exists already" in result.stderr
    assert Path("mine.py").read_text() == "precious"


@pytest.mark.slow
def test_results_are_shown_again_and_seeds_are_added(here):
    write("task.py")
    first = run("task.py", "--seeds", "2", "--strategies", "plain,planned", "-o", "r.json")
    assert first[0] == 0
    assert "planned batches" in " ".join(first[1].split())
    assert "Wrote r.json" in first[1]
    kept = json.loads(Path("r.json").read_text())["runs"]
    again = run("task.py", "--seeds", "2", "--strategies", "plain,planned", "-o", "r.json")
    assert "--restart measures again" in again[1]
    assert json.loads(Path("r.json").read_text())["runs"] == kept
    more = run("task.py", "--seeds", "3", "--strategies", "plain,planned", "-o", "r.json")
    assert more[0] == 0
    runs = json.loads(Path("r.json").read_text())["runs"]
    assert runs[:2] == kept
    assert len(runs) == 3


@pytest.mark.slow
def test_a_result_of_something_else_is_not_overwritten(here, monkeypatch):
    write("task.py")
    assert run("task.py", "--quick", "--strategies", "plain", "-o", "r.json")[0] == 0
    kept = Path("r.json").read_bytes()
    code, out, err = run("task.py", "--quick", "--strategies", "planned", "-o", "r.json")
    assert (code, out) == (2, "")
    assert "r.json holds the result of another comparison (other strategies)" in err
    monkeypatch.setenv(SHARED, "0")
    code, _, err = run("task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert (code, "(other shared_process)" in err) == (2, True)
    monkeypatch.setenv(SHARED, "1")
    write("task.py", TASK + "\n# changed")
    code, _, err = run("task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert (code, "before yours was edited" in err) == (2, True)
    assert Path("r.json").read_bytes() == kept
    Path("r.json").write_text('{"format": 1')
    code, _, err = run("task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert code == 2
    assert "r.json is no result of batchwright compare" in err
    assert err.count("\n") == 1
    code, _, _ = run("task.py", "--quick", "--strategies", "plain", "-o", "r.json", "--restart")
    assert code == 0


WAITS = """

import pathlib
import time

calls = 0
without_waiting = loss_sum


def loss_sum(model, batch):
    global calls
    calls += 1
    if calls == STOP_AT:
        wait()
    return without_waiting(model, batch)


def wait():
    pathlib.Path("waits").touch()
    while not pathlib.Path("goes on").exists():
        time.sleep(0.01)


if STOP_AT == 0:
    wait()
"""


def interrupted(stop_at, *args):
    """Interrupt a comparison at a call of its loss, or at 0 where the task is read."""
    before, after = TASK.split("\n\ntask = Task(")
    waits = WAITS.replace("STOP_AT", str(stop_at))
    write("task.py", f"{before}{waits}\n\ntask = Task({after}", epochs=3)
    process = start(*args)
    deadline = time.monotonic() + PATIENCE
    while not Path("waits").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    Path("goes on").touch()
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err


@pytest.mark.slow
def test_an_interrupt_before_training_leaves_nothing(here):
    ended = interrupted(0, "task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert ended == (130, "batchwright: interrupted\n")
    assert not Path("r.json").exists()


@pytest.mark.slow
def test_an_interrupt_leaves_a_valid_result_that_a_second_start_goes_on_with(here):
    options = ("task.py", "--quick", "--strategies", "plain,planned", "-o", "r.json")
    ended = interrupted(700, *options)
    assert ended == (130, "batchwright: interrupted; the same command continues with r.json.\n")
    result = json.loads(Path("r.json").read_text())
    assert not result["complete"]
    assert Path("r.json.state").exists()
    assert all(each["spent"]["updates"] for each in result["unfinished"])
    code, _, err = run(*options)
    assert (code, err) == (0, "")
    result = json.loads(Path("r.json").read_text())
    assert result["complete"]
    assert not Path("r.json.state").exists()
    # What was measured in two starts is what one start measures.
    reference = run(*options[:-1], "whole.json")
    assert reference[0] == 0
    whole = json.loads(Path("whole.json").read_text())
    for one, other in zip(result["runs"][0], whole["runs"][0], strict=True):
        assert [each["metric"] for each in one["evaluations"]] == [
            each["metric"] for each in other["evaluations"]
        ]


INTERRUPTS_ONCE = """
import pathlib
import signal

loss_sums = 0


def interrupting(model, batch):
    global loss_sums
    loss_sums += 1
    if loss_sums == 80 and not pathlib.Path("interrupted").exists():
        pathlib.Path("interrupted").touch()
        signal.raise_signal(signal.SIGINT)
    return loss_sum(model, batch)
"""


@pytest.mark.slow
def test_a_state_that_is_cut_short_costs_that_seed_only(here):
    text = TASK.replace("loss_sum=loss_sum", "loss_sum=interrupting")
    write("task.py", text.replace("generator =", f"{INTERRUPTS_ONCE}\ngenerator =", 1), epochs=3)
    options = ("task.py", "--quick", "--strategies", "plain", "-o", "r.json")
    assert run(*options)[0] == 130
    state = Path("r.json.state")
    state.write_bytes(state.read_bytes()[:1_000])
    code, _, err = run(*options)
    assert (code, err) == (0, "")
    assert json.loads(Path("r.json").read_text())["complete"]


@pytest.mark.slow
def test_a_twin_is_recognised(here):
    write("task.py")
    code, out, _ = run("task.py", "--null", "--seeds", "2", "--strategies", "planned")
    assert code == 0
    assert "Self-check" in out
    assert "planned and its own twin are the same" in " ".join(out.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        (TASK.replace('reduction="sum"', 'reduction="mean"'), (), "looks like a mean"),
        (TASK.replace("lengths=lengths", "lengths=lengths[:-1]"), (), "has 399 for 400"),
        (TASK.replace("lengths=lengths", "lengths=lengths[::-1]"), (), "lengths do not match"),
        (TASK.replace(".sum(1))", ".sum(1) * float('nan'))"), (), "loss_sum returned nan"),
        (TASK.replace("    loss_sum=loss_sum,\n", ""), (), "argument: 'loss_sum'"),
        (TASK.replace("max_tokens=80", "max_tokens=20"), (), "max_tokens=20"),
        (TASK, ("--strategies", "plan"), "(kind='plan')"),
        (TASK, ("--strategies", "packed"), "collate_packed"),
        (TASK, ("--strategies", "plain,planned+curriculum:mine"), "no difficulty 'mine'"),
        (TASK, ("--strategies", "no.toml"), "no.toml: there is no such file"),
        (TASK, ("--seeds", "0"), "0 is not in the range 1<=x<="),
    ],
)
def test_bad_input_is_refused_in_a_line_before_long_work_starts(here, text, args, said):
    write("task.py", text, epochs=10**9)  # training it would never end
    code, out, err = run("task.py", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not Path("task.compare.json").exists()


LATE = """

calls = 0

def late(model, batch):
    global calls
    calls += 1
    if calls > 20:
        FAIL
    return loss_sum(model, batch)

import dataclasses
task = dataclasses.replace(task, loss_sum=late)
"""


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ("raise RuntimeError('boom\\nat last')", "late failed with RuntimeError: boom at last."),
        ("model(torch.zeros(2, 2).bool())", "forward failed with RuntimeError: "),
        ("raise SystemExit('bye')", "late called sys.exit()."),
    ],
)
def test_a_task_that_fails_in_the_middle_is_reported_with_the_line(here, fail, said):
    text = TASK + LATE.replace("FAIL", fail)
    write("task.py", text)
    code, out, err = run("task.py", "--seeds", "1", "--strategies", "plain")
    assert (code, out) == (2, "")
    function = said.split()[0]
    begins = text.replace("EPOCHS", "1").split("\n").index
    line = 1 + (begins("        " + fail) if function == "late" else begins(FORWARD))
    assert err.startswith(f"batchwright: task.py, line {line}: {said}")
    assert err.count("\n") == 1


def test_a_task_that_fails_when_it_is_checked_is_reported_with_the_line(here):
    text = TASK + LATE.replace("calls > 20", "calls == 1").replace("FAIL", "batch['no']")
    write("task.py", text)
    code, out, err = run("task.py", "--seeds", "1", "--strategies", "plain")
    line = 1 + text.replace("EPOCHS", "1").split("\n").index("        batch['no']")
    said = f"batchwright: task.py, line {line}: loss_sum failed with KeyError: 'no'.\n"
    assert (code, out, err) == (2, "", said)


@pytest.mark.usefixtures("here")
def test_scores_that_fail_are_reported_with_the_line():
    text = TASK.replace("epochs=", "batch_size=8, difficulties={'own': lambda: 1 / 0}, epochs=")
    write("task.py", text)
    code, _, err = run("task.py", "--strategies", "plain+curriculum:own")
    line = 1 + text[: text.index("batch_size=8")].count("\n")
    assert code == 2
    assert err.startswith(f"batchwright: task.py, line {line}: <lambda> failed with ZeroDivision")


FORWARD = "        return self.decide(self.embed(tokens).sum(1))"


def test_a_missing_task_is_refused(here):
    result = invoke("compare", "no.py")
    assert result.exit_code == 2
    assert "no.py: there is no such file" in result.stderr
