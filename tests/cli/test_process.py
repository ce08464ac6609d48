"""How the process begins and ends: help, what it loads, interrupts, pipes, full disks."""

import signal
import subprocess
from pathlib import Path

import pytest

import batchwright as bw
from batchwright.cli import main
from tests.cli.command import BUDGET, PLAN, invoke, run, start
from tests.patience import PATIENCE


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_needs_no_asking(args):
    result = invoke(*args)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Usage: batchwright" in result.stdout
    assert [name for name in ("plan", "inspect", "--version") if name not in result.stdout] == []


@pytest.mark.parametrize("command", ["plan", "inspect"])
def test_help_of_a_command(command):
    result = invoke(command, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"Usage: batchwright {command}" in result.stdout


def test_the_version_is_the_librarys(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"batchwright {bw.__version__}\n"
    assert run("--version") == (0, f"batchwright {bw.__version__}\n".encode(), b"")


def test_main_returns_the_exit_code(capsys):
    assert main([*BUDGET, "--json"]) == 0
    assert main([*PLAN, "--max-tokens", "2"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_command_says_what_to_install(missing):
    code = f"import sys; sys.modules[{missing!r}] = None\n"
    process = start(code=code + "from batchwright.cli import main; sys.exit(main(['--help']))")
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (2, b"")
    assert err == b"the command needs click and rich: pip install 'batchwright[cli]'\n"


@pytest.mark.parametrize("args", [["--help"], [*BUDGET, "--json"]])
def test_neither_help_nor_a_plan_of_an_array_loads_what_it_does_not_need(args):
    code = (
        "import sys; from batchwright.cli import main; assert 'click' not in sys.modules;"
        "main(sys.argv[1:]); print(*sorted(sys.modules), file=sys.stderr)"
    )
    process = start(*args, code=code)
    loaded = set(process.communicate(timeout=PATIENCE)[1].decode().split())
    assert "click" in loaded
    assert (
        loaded & {"pyarrow", "datasets", "torch", "pandas", "tokenizers", "rich.console"} == set()
    )


def test_a_reader_that_goes_away_is_no_matter():
    process = start(*BUDGET)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_full_disk_is_one_line(options):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = start(*BUDGET, *options, stdout=full)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert err.startswith(b"batchwright: ")
    assert err.count(b"\n") == 1


PLANS_ON_AND_ON = """
import sys
import batchwright as bw
from batchwright.cli import main

plan = bw.Planner.__call__

def on_and_on(self, epoch):
    print("planning", flush=True)
    while True:
        plan(self, epoch)

bw.Planner.__call__ = on_and_on
sys.exit(main(sys.argv[1:]))
"""


def test_an_interrupt_is_one_line_and_exit_code_130():
    process = start(*BUDGET, "--mixing", "update", code=PLANS_ON_AND_ON)
    assert process.stdout.readline() == b"planning\n"
    while True:  # an interrupt may fall into a callback that swallows it: press again
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=5)
            break
        except subprocess.TimeoutExpired:
            continue
    assert (process.returncode, out, err) == (130, b"", b"batchwright: interrupted\n")
