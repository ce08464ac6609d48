"""Arms in processes of their own: as in one process, alike, idle while they wait, and none left."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from batchwright.compare import Settings, Strategy, load_task
from batchwright.compare.arm_process import _refuse_differences, can_start
from batchwright.compare.arm_server import Entry, _Commands
from batchwright.compare.comparison import SHARED, shares_process
from batchwright.compare.race import Race
from batchwright.errors import TaskError
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]

JOB = """
import os
import pathlib
import subprocess
import sys
import warnings

from tests.compare.conftest import loss_sum, make_task

print("reading the data")
if pathlib.Path("processes").exists():
    (pathlib.Path("processes") / str(os.getpid())).touch()


def failing(model, batch):
    if pathlib.Path("starts").exists():
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        (pathlib.Path("processes") / str(started.pid)).touch()
    if pathlib.Path("warns").exists():
        warnings.warn("odd data")
    return batch["no"] if pathlib.Path("fails").exists() else loss_sum(model, batch)


def task(quick=False):
    return make_task(120 if quick else 240, loss_sum=failing)
"""

NAMES = ("plain", "planned+curriculum")
STRATEGIES = [Strategy.named(name) for name in NAMES]
SETTINGS = Settings(evaluations=3, longer=0.0)


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(SHARED)
    path = tmp_path / "job.py"
    path.write_text(JOB, encoding="utf-8")
    return path


def learnt(run):
    return [
        (each.name, each.spent.tokens, each.dispersion, [seen.metric for seen in each.evaluations])
        for each in run
    ]


def cpu_seconds(pid):
    """Return what the threads of a process have computed, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
def test_arms_learn_the_same_in_processes_of_their_own(job, capfd):
    """Also from a state; while they wait they compute nothing, and errors in them name their arm."""
    task = load_task(job)
    capfd.readouterr()
    whole = Race(task, STRATEGIES, seed=0, settings=SETTINGS)
    for _ in whole.turns():
        pass
    with Race(task, STRATEGIES, seed=0, settings=SETTINGS, processes=True) as race:
        begun = race.state_dict()
        for _ in race.turns():
            pass
        assert learnt(race.outcomes()) == learnt(whole.outcomes())
        for apart, beside in zip(race.outcomes(), whole.outcomes(), strict=True):
            assert apart.peak_bytes == pytest.approx(beside.peak_bytes, rel=0.1)
            assert apart.spent.seconds > 0
        assert "reading the data" not in "".join(capfd.readouterr())

        race.load_state_dict(begun)
        for _, _ in zip(range(20), race.turns(), strict=False):
            pass
        resumed = Race(task, STRATEGIES, seed=0, settings=SETTINGS)
        resumed.load_state_dict(race.state_dict())
        for _ in resumed.turns():
            pass
        assert learnt(resumed.outcomes()) == learnt(whole.outcomes())

        processes = [arm._process for arm in race.arms]
        if Path("/proc/self/stat").exists():
            before = sum(cpu_seconds(each.pid) for each in processes)
            time.sleep(1.0)
            assert sum(cpu_seconds(each.pid) for each in processes) - before <= 0.1
        Path("warns").touch()
        with pytest.warns(UserWarning, match="odd data"):
            race.arms[0].update()
        Path("fails").touch()
        line = 1 + JOB[: JOB.index("    return batch")].count("\n")
        with pytest.raises(TaskError, match=rf"job.py, line {line}: failing .* KeyError: 'no'\."):
            race.arms[2].update()
        Path("fails").unlink()
        Path("warns").unlink()
        Path("processes").mkdir()
        Path("starts").touch()
        for arm in race.arms[:2]:
            arm.update()
        assert len(list(Path("processes").iterdir())) >= 2
        processes[1].send_signal(signal.SIGKILL)
        said = r"arm 'planned\+curriculum' was ended by signal 9 .* memory ran out"
        with pytest.raises(TaskError, match=said):
            race.arms[1].update()
        race.arms[0].release()  # as a process that is killed does
        assert processes[0].wait(timeout=PATIENCE) == 0
    assert all(each.poll() is not None for each in processes)
    assert_none_is_left()


def assert_none_is_left():
    """Check that the processes which read the task have ended, or do soon."""
    deadline = time.monotonic() + PATIENCE
    left = {int(each.name) for each in Path("processes").iterdir()}
    assert left
    while left:
        assert time.monotonic() < deadline
        left = {each for each in left if is_running(each)}
        time.sleep(0.01)


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and ") Z " in stat.read_text(encoding="utf-8"))


WAITS = """
import time

calls = 0


def waiting(model, batch):
    global calls
    calls += 1
    if calls == 40:
        pathlib.Path("waits").touch()
        while not pathlib.Path("goes on").exists():
            time.sleep(0.01)
    return loss_sum(model, batch)


def task(quick=False):
    return make_task(120 if quick else 240, lengths=None, loss_sum=waiting, epochs=50)
"""


def waiting(job):
    """Start the command, and wait until an arm computes without an end."""
    job.write_text(JOB + WAITS, encoding="utf-8")
    Path("processes").mkdir()
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY / 'src'}{os.pathsep}{REPOSITORY}"}
    options = ["compare", "job.py", "--strategies", "plain", "--seeds", "1", "-o", "r.json"]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "batchwright", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + PATIENCE
    while not Path("waits").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("interrupts", [1, 2])
def test_an_interrupt_leaves_no_process(job, interrupts):
    """The first one keeps what was measured; the second one ends an arm in the midst of it."""
    process = waiting(job)
    process.send_signal(signal.SIGINT)
    if interrupts == 1:
        Path("goes on").touch()
    else:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    printed, said = err.splitlines()
    assert printed == "reading the data"
    assert said.startswith("batchwright: interrupted")
    assert Path("r.json.state").exists() == (interrupts == 1)
    assert_none_is_left()


@pytest.fixture
def _as_before():
    kept = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    torch.random.set_rng_state(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002


DRAWN = """
import numpy as np
import torch

from tests.compare.conftest import Counter, make_task

rng = np.random.default_rng()


class Drawn(Counter):
    def __init__(self):
        super().__init__()
        self.decide[1].bias.data[:] = torch.from_numpy(rng.normal(size=2))


given = make_task()
samples = [each | {"labels": int(rng.integers(2))} for each in given.samples] * 8
names = set(map(str, range(240)))
"""


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("make_task()", None),
        ("make_task(collate=lambda some: given.collate(some) | {'more': torch.rand(3)})", None),
        ("make_task(int(rng.integers(200, 300)))", "lengths differ. .* at random"),
        ("make_task(1_920, samples=samples)", "samples differ. .* fixed seed"),
        ("make_task(model=Drawn)", "first weights differ. .* torch's"),
    ],
)
def test_tasks_that_differ_from_process_to_process_are_refused(job, made, said):
    job.write_text(f"{DRAWN}\ntask = {made}\n", encoding="utf-8")
    task = load_task(job)
    entry = Entry(str(job), False, None, STRATEGIES[0], 0, False, torch.get_num_threads(), {})
    found = [_Commands().begin(entry) for _ in range(2)]
    if said is None:
        _refuse_differences("job.py", task, found)
    else:
        with pytest.raises(TaskError, match=rf"^job.py: each arm .* their {said}"):
            _refuse_differences("job.py", task, found)


class Own(Strategy):
    """A strategy that only this module has."""


def test_arms_share_a_process_only_where_they_have_to_or_are_asked_to(job, monkeypatch):
    task = load_task(job, quick=True)
    assert task.origin == (str(job), True, str(job.parent))
    assert not shares_process(task, STRATEGIES)
    assert shares_process(task, STRATEGIES, shared_process=True)
    assert shares_process(replace(task, clip=None), STRATEGIES)
    assert shares_process(task, [Strategy("mine", order=lambda *_: None)])
    monkeypatch.setattr(Own, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Own", Own, raising=False)
    assert not can_start(task, [Own("mine")])
    monkeypatch.setenv(SHARED, "1")
    assert shares_process(task, STRATEGIES)
