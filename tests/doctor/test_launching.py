"""A command runs as it would alone, is ended with all that it has started, and leaves nothing."""

import ast
import json
import os
import runpy
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from dataclasses import replace
from pathlib import Path

import pytest

from batchwright.doctor import processes
from batchwright.doctor.launching import SITE, watch
from batchwright.doctor.notes import gap_of, notes_of
from batchwright.doctor.reading import read_run
from batchwright.doctor.records import Run
from batchwright.errors import SourceError, SourceNotFoundError
from tests.doctor.runs import run_of, shuffles, with_ranks
from tests.patience import PATIENCE

SCRIPT = Path(__file__).with_name("plain_script.py")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows others' variables")

PRINTS = "import sys; print('said'); print('complained', file=sys.stderr); sys.exit(3)"

TELLS = """
import json, os, sys
names = ("PYTHONPATH", "BATCHWRIGHT_DOCTOR", "BATCHWRIGHT_DOCTOR_OPTIONS", "MINE")
json.dump({name: os.environ.get(name) for name in names}, open(sys.argv[1], "w"))
"""

# A process that ends at no signal, and has started another in a group of its own.
STAYS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
other = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
started = subprocess.Popen([sys.executable, "-c", other], start_new_session=True)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {started.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(1000)
"""

# A launcher of two ranks, the second of which is over after a moment.
RANKS = """
import os, subprocess, sys
code = "import sys, time; time.sleep(float(sys.argv[1]))"
ranks = [
    subprocess.Popen([sys.executable, "-c", code, seconds], env=os.environ | {"RANK": str(rank)})
    for rank, seconds in enumerate(sys.argv[1:])
]
for each in ranks:
    each.wait()
"""


def python(code, *words):
    return [sys.executable, "-c", code, *map(str, words)]


def is_alive(process):
    """Return whether a process runs; one that is over and was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in {"Z", "X"}


def wait_for(happened):
    limit = time.monotonic() + PATIENCE
    while not (found := happened()):
        assert time.monotonic() < limit
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("to_stderr", [False, True])
def test_output_and_exit_code_pass_through(capfd, to_stderr):
    run = watch(python(PRINTS), to_stderr=to_stderr)
    out, err = capfd.readouterr()
    assert "said" in (err if to_stderr else out)
    assert "said" not in (out if to_stderr else err)
    assert "complained" in err
    assert (run.exit_code, run.stopped, run.ranks) == (3, "run", ())
    assert run.notes == ("The command failed with exit code 3, before its first update.",)
    assert list(run.command) == python(PRINTS)
    assert run.seconds > 0


@pytest.mark.parametrize("before", [None, "", "/one:/two"])
def test_the_environment_is_added_to(tmp_path, before):
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"MINE": "stays"} | ({} if before is None else {"PYTHONPATH": before})
    watch(python(TELLS, tmp_path / "told"), updates=5, workers=0, env=variables)
    told = json.loads((tmp_path / "told").read_text())
    assert told["MINE"] == "stays"
    assert told["PYTHONPATH"] == (f"{SITE}:/one:/two" if before else str(SITE))
    assert json.loads(told["BATCHWRIGHT_DOCTOR_OPTIONS"]) == {"updates": 5, "workers": 0}
    assert not Path(told["BATCHWRIGHT_DOCTOR"]).exists()
    assert "BATCHWRIGHT_DOCTOR" not in os.environ


def test_what_was_written_is_kept_where_that_was_asked_for(tmp_path):
    folder = tmp_path / "new" / "folder"
    watch(python(TELLS, tmp_path / "told"), folder=folder)
    assert json.loads((tmp_path / "told").read_text())["BATCHWRIGHT_DOCTOR"] == str(folder)
    assert folder.is_dir()
    (folder / "events").write_text("")
    with pytest.raises(SourceError, match="is not empty"):
        watch(python(PRINTS), folder=folder)
    with pytest.raises(SourceError, match="Name a new folder"):
        watch(python(PRINTS), folder=folder / "events")


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        ([], SourceError, "a command is needed"),
        ([""], SourceError, "a command is needed"),
        (["train.py"], SourceError, "-- python train.py"),
        (["./a b/train.py", "--fast"], SourceError, "-- python './a b/train.py'"),
        (["no-such-command-here"], SourceNotFoundError, "there is no such command"),
        (["./not_there.sh"], SourceNotFoundError, "there is no such command"),
    ],
)
def test_what_cannot_be_started_is_refused_with_what_to_do(command, error, said):
    with pytest.raises(error, match=said) as raised:
        watch(command)
    assert "\n" not in str(raised.value)


def test_a_program_of_another_machine_is_refused(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF of no machine")
    program.chmod(0o755)
    with pytest.raises(SourceError, match="cannot be started"):
        watch([str(program)])


@LINUX
@pytest.mark.slow
def test_a_run_ends_in_time_with_all_that_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    pids = tmp_path / "pids"
    run = watch(python(STAYS, pids), seconds=3)
    assert (run.stopped, run.exit_code) == ("seconds", None)
    assert run.notes[-1].startswith("No update was made within")
    wait_for(lambda: not any(map(is_alive, map(int, pids.read_text().split()))))


@pytest.mark.parametrize("is_told", [True, False], ids=["by the kernel", "by looking"])
def test_the_end_of_a_command_is_waited_for(monkeypatch, is_told):
    def refuse(_):
        raise OSError

    if not is_told:
        monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert not processes.ends_within(process, 0.01)
        process.stdin.close()
        assert processes.ends_within(process, PATIENCE)
        assert process.returncode == 0


@LINUX
@pytest.mark.slow
def test_an_interrupt_ends_the_run_and_what_was_seen_is_returned(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE", 0.5)
    pids = tmp_path / "pids"

    def interrupt(seen):
        assert (seen.updates, seen.passes) == (0, 0)
        if pids.exists():
            raise KeyboardInterrupt

    run = watch(python(STAYS, pids), on_progress=interrupt)
    assert (run.stopped, run.exit_code) == ("interrupt", None)
    wait_for(lambda: not any(map(is_alive, map(int, pids.read_text().split()))))


@LINUX
@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(tmp_path):
    pids = tmp_path / "pids"
    code = f"from batchwright.doctor.launching import watch; watch({python(STAYS, pids)!r})"
    source = str(Path(__file__).resolve().parents[2] / "src")
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": source},
        stderr=subprocess.PIPE,
    )
    started = wait_for(lambda: pids.exists() and [int(each) for each in pids.read_text().split()])
    assert all(map(is_alive, started))
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for what does not end
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begun < processes.GRACE
    assert b"KeyboardInterrupt" in said
    wait_for(lambda: not any(map(is_alive, started)))


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "stopped"),
    [(("1000", "1"), "hang"), (("1000", "1000"), "seconds"), (("3", "1"), "run")],
)
def test_ranks_that_wait_for_one_that_is_over_are_ended(monkeypatch, ranks, stopped):
    monkeypatch.setattr(processes, "_SCAN", 0.1)
    # The last rank goes on for two seconds alone, which is no reason to end it.
    monkeypatch.setattr(processes, "_PATIENCE", 60 if stopped == "run" else 1)
    run = watch(python(RANKS, *ranks), seconds=8 if stopped == "seconds" else 300)
    assert run.stopped == stopped
    assert ("A rank ended" in " ".join(run.notes)) == (stopped == "hang")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "updates", "stopped"), [({"epochs": 1}, 26, "epochs"), ({"kill": 7}, 7, "run")]
)
def test_a_run_is_seen(capfd, options, updates, stopped):
    run = watch([sys.executable, str(SCRIPT)], **options)
    assert len(run.ranks[0].updates) == updates
    assert run.stopped == stopped
    assert run.exit_code == (-signal.SIGKILL if "kill" in options else 0)
    assert run.notes == ()  # also where it was to be killed


@pytest.mark.slow
def test_two_ranks_of_torchrun_are_seen(capfd):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    run = watch([sys.executable, *launcher, str(SCRIPT), "--distributed"], updates=5)
    assert [(each.rank, len(each.updates)) for each in run.ranks] == [(0, 5), (1, 5)]
    assert (run.stopped, run.exit_code, run.world_size) == ("updates", 0, 2)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["python", "-I", "train.py"], "leave out -I"),
        (["/usr/bin/python3.12", "-uE", "train.py"], "leave out -E"),
        (["env", "A=1", "python3", "-X", "importtime", "-I", "t.py"], "leave out -I"),
        (["python", "-Werror", "-S", "train.py"], "leave out -S"),
        (["docker", "run", "image", "python", "t.py"], "docker starts programs"),
        (["/usr/bin/ssh", "host", "python", "t.py"], "ssh starts programs"),
        (["python", "train.py", "-I"], "No optimizer step of torch"),
        (["python", "-c", "1", "-I"], "No optimizer step of torch"),
        (["python", "-m", "train", "-E"], "No optimizer step of torch"),
        (["python", "-WE", "train.py"], "No optimizer step of torch"),
        (["bash", "train.sh"], "No optimizer step of torch"),
        ([], "No optimizer step of torch"),
    ],
)
def test_why_nothing_was_seen(command, said):
    (note,) = notes_of(Run((), command=command, exit_code=0))
    assert said in note


def test_the_first_line_of_a_script_may_be_why(tmp_path):
    script = tmp_path / "launch"
    script.write_text("#!/opt/bin/python3 -sE\nimport train\n")
    script.chmod(0o755)
    (note,) = notes_of(Run((), command=[str(script)], exit_code=0))
    assert "leave out -E" in note


@pytest.mark.parametrize(
    ("fields", "updates", "said"),
    [
        ({"exit_code": 1}, 4, "failed with exit code 1, after 4 updates."),
        ({"exit_code": -9}, 1, "was ended by signal 9 (Killed), after 1 update."),
        ({"exit_code": 1}, 0, "failed with exit code 1, before its first update."),
        ({"stopped": "hang"}, 4, "A rank ended"),
        ({"stopped": "seconds", "seconds": 120.0}, 0, "within 2 min 0 s: give it more time"),
    ],
)
def test_how_a_run_ended_is_said(fields, updates, said):
    run = run_of(*shuffles(4 * max(updates, 1), epochs=1), command=("python", "train.py"))
    if not updates:
        run = replace(run, ranks=())
    (note,) = notes_of(replace(run, **fields))
    assert said in note


def test_nothing_is_said_of_a_run_that_went_well_or_was_killed_by_us():
    run = run_of(*shuffles(8), command=("python", "train.py"), exit_code=0)
    assert notes_of(run) == ()
    killed = with_ranks(replace(run, exit_code=-9), lambda rank: replace(rank, ended="killed"))
    assert notes_of(killed) == ()
    assert not killed.has_failed
    assert gap_of(run) == ""


def test_a_run_that_we_have_ended_has_not_failed():
    run = run_of(*shuffles(8), exit_code=1)
    assert run.has_failed
    for stopped in ("updates", "epochs", "seconds", "interrupt", "hang"):
        assert not replace(run, stopped=stopped).has_failed
    assert not replace(run, exit_code=None).has_failed


@pytest.mark.parametrize("exit_code", [0, 1])
def test_where_torch_is_not_it_is_said_which_python_to_name(exit_code):
    run = Run((), ("python", "t.py"), exit_code=exit_code, without_torch=("/a/bin/python",))
    note = notes_of(run)[-1]
    assert note.startswith("torch is not installed in /a/bin/python, which ran the command. Name ")
    assert "needs no batchwright" in note


@pytest.fixture
def other_python(tmp_path):
    """The interpreter of another environment, which is empty."""
    venv.EnvBuilder(symlinks=True).create(tmp_path / "environment")
    return tmp_path / "environment" / "bin" / "python"


TRAINS = """
import sys
import torch

weight = torch.nn.Parameter(torch.ones(3))
optimizer = torch.optim.SGD([weight], 0.1)
for batch in torch.utils.data.DataLoader(torch.randn(40, 3), batch_size=4):
    (batch * weight).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
assert not any(name.startswith("batchwright") for name in sys.modules)
"""


def test_the_environment_of_the_script_may_lack_torch(other_python):
    run = watch([str(other_python), "-c", "import torch"])
    assert run.has_failed
    assert run.without_torch == (str(other_python),)
    assert [note[:32] for note in run.notes] == [
        "The command failed with exit cod",
        "torch is not installed in " + str(other_python)[:6],
    ]


@pytest.mark.slow
def test_the_environment_of_the_script_needs_no_batchwright(other_python):
    import torch

    packages = sysconfig.get_path("purelib", vars={"base": str(other_python.parents[1])})
    Path(packages, "others.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = watch([str(other_python), "-c", TRAINS], env=variables)
    assert (run.exit_code, run.notes) == (0, ())
    (rank,) = run.ranks
    assert len(rank.updates) == 10
    assert rank.trained.num_samples == 40


def test_an_interpreter_that_is_too_old_is_named(tmp_path, monkeypatch):
    """Its hooks are not read: what there is in a newer language would not be understood."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    monkeypatch.setenv("BATCHWRIGHT_DOCTOR", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(SITE / "sitecustomize.py"))
    assert read_run(tmp_path).notes == (
        f"{sys.executable} is not watched: that needs Python 3.10 or newer.",
    )


def test_hooks_are_written_for_the_oldest_python_that_is_watched():
    for each in SITE.parent.rglob("*.py"):
        oldest = (3, 6) if each.parent == SITE else (3, 10)
        ast.parse(each.read_text(encoding="utf-8"), feature_version=oldest)


def test_runs_without_a_loader_are_not_said_to_be_checked():
    run = run_of(*shuffles(8), loader={"trains": False})
    assert gap_of(run).startswith("No loader was seen")
    assert gap_of(Run(())) == ""
