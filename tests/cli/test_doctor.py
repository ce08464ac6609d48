"""`batchwright doctor`: a script is watched as it is; report, JSON, page, exit codes."""

import json
import shlex
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from batchwright.cli.doctor import doctor
from tests.cli.command import invoke, run, start
from tests.doctor.watched import fork_what_is_watched
from tests.patience import PATIENCE
from tests.report.reader import facts_of, text_of

# Samples of 2 to 30 tokens, padded; one epoch, or as many as --epochs says.
SCRIPT = """
import sys

import torch
from torch.utils.data import DataLoader

torch.manual_seed(0)
torch.set_num_threads(1)
samples = [torch.randint(1, 50, (2 + 7 * n % 29,)) for n in range(96)]


def collate(some):
    return torch.nn.utils.rnn.pad_sequence(some, batch_first=True)


loader = DataLoader(samples, batch_size=8, shuffle=True, collate_fn=collate)
model = torch.nn.Sequential(torch.nn.Embedding(50, 8, padding_idx=0), torch.nn.Linear(8, 50))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
print("a line of the script", flush=True)
for epoch in range(2):
    for tokens in loader:
        scores = model(tokens[:, :-1]).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(scores, tokens[:, 1:].flatten(), ignore_index=0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
"""

NEVER_CLEARED = SCRIPT.replace("        optimizer.zero_grad()\n", "")

WAITS = """
import time
print("begun", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(NEVER_CLEARED, encoding="utf-8")
    (tmp_path / "waits.py").write_text(WAITS, encoding="utf-8")
    (tmp_path / "says.py").write_text("import sys; print(sys.argv[1:])\n", encoding="utf-8")
    return tmp_path


@pytest.fixture
def by_forks(folder, monkeypatch):
    """Have scripts forked from a process that has imported torch; return the options of each run."""
    return fork_what_is_watched(monkeypatch, folder)


def python(*words):
    return ("--", sys.executable, *map(str, words))


@pytest.mark.slow
def test_a_script_is_watched_and_the_verdict_comes_last(folder, by_forks):
    done = invoke("doctor", *python("wrong.py"))
    assert (done.exit_code, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "24 updates, 2 whole epochs, watched for" in said
    assert "gradients not cleared: " in said
    assert "1 error" in said.partition(" found. ")[0][-40:]


@pytest.mark.slow
def test_strict_fails_where_an_error_is_found_and_json_stands_alone(folder):
    code, out, err = run("doctor", "--strict", "--json", *python("wrong.py"))
    assert code == 1
    assert err.decode().splitlines() == ["a line of the script"]
    facts = json.loads(out)
    (error,) = [each for each in facts["findings"] if each["level"] == "error"]
    assert error["name"] == "gradients not cleared"
    assert set(error) >= {"name", "level", "figure", "cost", "cure"}
    assert facts["verdict"].startswith("1 error")
    assert (facts["exit_code"], facts["stopped"]) == (0, "run")
    assert facts["watched"]["updates"] == 24
    assert facts["watched"]["lengths"]["num_samples"] == 96
    assert facts["gain"]["planned_padding"] < facts["gain"]["padding"]


@pytest.mark.slow
def test_a_right_script_passes_and_its_page_and_lengths_are_written(folder, by_forks):
    options = ("--strict", "--html", "page.html", "--lengths", "lengths.npy", "--keep", "seen")
    done = invoke("doctor", *options, *python("train.py"))
    assert (done.exit_code, done.stderr) == (0, "")
    said = " ".join(done.stdout.split())
    assert "Wrote lengths.npy: 96 lengths, in the order of the data set." in said
    lengths = np.load(folder / "lengths.npy")
    assert lengths.tolist() == [2 + 7 * n % 29 for n in range(96)]
    html = (folder / "page.html").read_text(encoding="utf-8")
    assert facts_of(html)["verdict"] in text_of(html)
    assert [each["level"] for each in facts_of(html)["findings"]].count("error") == 0
    assert list((folder / "seen").glob("*.jsonl"))
    assert "What was recorded is in seen." in said


# A checkpoint every fourth update; resumed, the epoch begins anew, with the same samples first.
SAVES = (
    SCRIPT.replace(
        'print("a line',
        """if "--resume" in sys.argv:
    model.load_state_dict(torch.load("state.pt"))
print("a line""",
    )
    + """        done = done + 1 if "done" in globals() else 1
        if done % 4 == 0:
            torch.save(model.state_dict(), "state.pt")
"""
)


@pytest.mark.slow
def test_a_run_is_killed_and_resumed(folder, by_forks):
    (folder / "saves.py").write_text(SAVES, encoding="utf-8")
    resume = shlex.join([sys.executable, "saves.py", "--resume"])
    done = invoke(
        "doctor", "--strict", "--json", "--kill", "6", "--resume", resume, *python("saves.py")
    )
    assert done.exit_code == 1
    assert [each["to_stderr"] for each in by_forks] == [True, True]
    facts = json.loads(done.stdout)
    assert "samples repeated on resume" in [each["name"] for each in facts["findings"]]
    assert facts["watched"]["updates"] == 6
    killed, resumed = facts["resumed"]
    assert killed["exit_code"] == -signal.SIGKILL
    assert resumed["command"] == [sys.executable, "saves.py", "--resume"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "updates", "stopped"),
    [(("--updates", "5"), 5, "updates"), (("--epochs", "1"), 12, "epochs")],
)
def test_a_run_ends_when_that_was_asked_for(folder, by_forks, options, updates, stopped):
    done = invoke("doctor", "--json", *options, *python("train.py"))
    facts = json.loads(done.stdout)
    found = (done.exit_code, facts["watched"]["updates"], facts["stopped"])
    assert found == (0, updates, stopped)


@pytest.mark.parametrize("separator", [("--",), ()])
def test_what_follows_the_command_is_the_commands(folder, capfd, separator):
    words = (sys.executable, "says.py", "--json", "--updates", "x", "--", "-h")
    done = invoke("doctor", "--updates", "3", *separator, *words)
    assert done.exit_code == 0
    assert "['--json', '--updates', 'x', '--', '-h']" in capfd.readouterr().out
    assert "No update was seen" in done.stdout.splitlines()[-1]


def test_what_could_not_be_checked_passes_unless_that_is_strict(folder, capfd):
    for options, code in (((), 0), (("--strict",), 1)):
        done = invoke("doctor", *options, *python("-c", "1"))
        assert done.exit_code == code
        assert "No update was seen" in done.stdout


@pytest.mark.parametrize("words", [("-c", "raise SystemExit(5)"), ("nowhere.py",)])
def test_a_command_that_fails_does_not_pass_and_that_is_said_first(folder, capfd, words):
    done = invoke("doctor", *python(*words))
    assert done.exit_code == 1
    first, *_, last = filter(None, done.stdout.splitlines())
    assert ": failed, 0 updates, watched for" in first
    code = 5 if "-c" in words else 2
    assert f"The command failed with exit code {code}, before its first update." in done.stdout
    assert last.endswith("said about it.")
    facts = json.loads(invoke("doctor", "--json", *python(*words)).stdout)
    assert facts["verdict"].startswith(f"The command failed with exit code {code}, before")
    assert (facts["failed"], facts["exit_code"]) == (True, code)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Missing argument 'COMMAND...'"),
        (("train.py",), "train.py is a script"),
        (("no-such-command-here",), "there is no such command"),
        (("--unknown", "3", "python"), "No such option"),
        (("--updates", "0", "python"), "0 is not in the range"),
        (("--seconds", "0", "python"), "expected more than 0"),
        (("--seconds", "nan", "python"), "not a finite number"),
        (("--html", "train.py", sys.executable, "train.py"), "is used by this command"),
        (("--html", "nowhere/page.html", sys.executable, "train.py"), "--html"),
        (("--lengths", "a.npy", "--html", "a.npy", sys.executable), "is used by this command"),
        (("--keep", ".", sys.executable), "is not empty"),
        (("--kill", "3", sys.executable), "are for --resume COMMAND"),
        (("--workers", "3", sys.executable), "are for --resume COMMAND"),
        (("--resume", "a", "--kill", "3", "--after-save", "b"), "exclude one another"),
        (("--resume", "a", "--updates", "3", "b"), "do not go with --resume"),
        (("--resume", "python 'train.py", sys.executable), "No closing quotation"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(folder, capfd, words, said):
    done = invoke("doctor", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("batchwright: ")
    assert said in done.stderr
    assert "a line of the script" not in capfd.readouterr().out


def test_a_page_needs_its_packages_before_anything_runs(folder, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = invoke("doctor", "--html", "page.html", *python("says.py"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        "batchwright: A page (--html) needs the package jinja2, which is not installed. "
        "Run: pip install 'batchwright[report]'.\n"
    )
    assert "[]" not in capfd.readouterr().out


def test_help_shows_how_a_command_is_given():
    done = invoke("doctor", "--help")
    assert done.exit_code == 0
    assert "batchwright doctor -- python train.py" in done.stdout
    said = " ".join(done.stdout.split())
    assert "Exit code: 0, whatever is found; 1 if the command fails by itself" in said
    assert "what the command prints goes to standard error" in said
    assert "needs the extra: batchwright[report]" in said
    assert "[default: (120; no limit with --updates or --epochs" in said
    named = [each.opts[0] for each in doctor.params if each.opts[0].startswith("--")]
    assert len(named) > 10
    assert [each for each in named if each not in done.stdout] == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_in_the_report(folder, number):
    process = start("doctor", *python("waits.py"))
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, b"")
    assert b"No update was seen" in out.splitlines()[-1]


@pytest.mark.slow
def test_two_interrupts_end_in_a_line(folder):
    waits = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAITS
    (folder / "waits.py").write_text(waits, encoding="utf-8")
    process = start("doctor", *python("waits.py"))
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    again = threading.Timer(1, process.send_signal, [signal.SIGINT])
    again.start()
    out, err = process.communicate(timeout=PATIENCE)
    again.join()
    assert (process.returncode, out, err) == (130, b"", b"batchwright: interrupted\n")


@pytest.mark.slow
def test_what_a_closed_reader_leaves_is_no_traceback(folder):
    process = start("doctor", *python("says.py"), stdout=subprocess.PIPE)
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert b"batchwright: " not in error
    assert process.wait(PATIENCE) == 1
