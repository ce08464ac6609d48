"""Scripts in processes of their own, forked from one that has imported torch already."""

import multiprocessing
import os
import runpy
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch.distributed.fsdp", "torchdata.stateful_dataloader"]
)


def start(script, *arguments, log=None, environment=(), warnings_fail=False):
    """Run a script as `python SCRIPT ARGUMENTS` does, in a session of its own.

    Args:
        script: Path of the script.
        arguments: What follows it on the command line.
        log: File to which its output is added.
        environment: Variables to set.
        warnings_fail: Whether warnings are errors, as under `-W error`.
    """
    words = [str(script), *map(str, arguments)]
    process = SERVER.Process(target=_run, args=(words, log, dict(environment), warnings_fail))
    process.start()
    return process


def _run(words, log, environment, warnings_fail):
    os.setsid()
    if log is not None:
        with Path(log).open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    if warnings_fail:
        warnings.simplefilter("error")
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def end(process):
    """End a process and what it started: these would find out too, but seconds later."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
