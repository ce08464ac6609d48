"""Forks the processes of scripts, once it has imported what they import: see launched.py.

Reads a request on each line of its input and answers with the exit codes of the ranks; null where
time ran out. It is a process of its own since it must have no threads when it forks.
"""

import ast
import atexit
import gc
import json
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

SHARED = {
    "accelerate",
    "batchwright",
    "datasets",
    "lightning",
    "numpy",
    "peft",
    "sentence_transformers",
    "tests",
    "torch",
    "torchdata",
    "transformers",
    "trl",
}
"""What is imported here. The rest, each process imports itself: Keras reads its environment."""

SITE = Path(__file__).parents[1] / "src" / "batchwright" / "doctor" / "watch" / "site"

HOOKED = ("torch.serialization", "torch.nn.utils.clip_grad", "safetensors.torch")
"""Modules of whose functions others have copies."""


def import_for(script: Path) -> None:
    """Execute those imports of a script, and of the helpers that it imports, that are shared."""
    code = ast.parse(script.read_text(encoding="utf-8"))
    for node in code.body:
        match node:
            case ast.Import(names=[ast.alias(name=name), *_]):
                pass
            case ast.ImportFrom(module=str(name)):
                pass
            case _:
                continue
        if name.partition(".")[0] in SHARED:
            alone = ast.Module([node], type_ignores=[])
            exec(compile(alone, str(script), "exec"), {})  # noqa: S102


def run(words: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    """Run a script in this process, which ends with it."""
    code: Any = 1
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number, kind in ((1, "out"), (2, "err")):
        file = os.open(f"{output}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    sys.path[0] = str(Path(words[0]).parent)
    gc.unfreeze()
    if "BATCHWRIGHT_DOCTOR" in environment:
        watch()
    try:
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            sys.stderr.write(f"{error.code}\n")
    except BaseException:  # noqa: BLE001 (as an interpreter does)
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def watch() -> None:
    """Hook this process as `batchwright doctor` does where a process begins.

    Functions that were imported by their names are replaced there, too.
    """
    runpy.run_path(str(SITE / "sitecustomize.py"))
    hooked = {
        id(each.__wrapped__): each
        for name in HOOKED
        if name in sys.modules
        for each in vars(sys.modules[name]).values()
        if callable(each) and hasattr(each, "__wrapped__")
    }
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if id(value) in hooked and value is hooked[id(value)].__wrapped__:
                setattr(module, name, hooked[id(value)])


def codes_of(ranks: dict[int, int], timeout: float) -> list[int] | None:
    """Wait for the ranks; where one fails, end the others, as torchrun does."""
    codes: dict[int, int] = {}
    end = time.monotonic() + timeout
    parent = os.getppid()
    try:
        while len(codes) < len(ranks):
            process, status = os.waitpid(-1, os.WNOHANG)
            if process in ranks:
                codes[ranks[process]] = os.waitstatus_to_exitcode(status)
                if any(codes.values()):
                    kill(ranks)
            elif time.monotonic() > end or os.getppid() != parent:
                return None
            else:
                time.sleep(0.01)
        return [codes[rank] for rank in range(len(ranks))]
    finally:
        kill(ranks)  # and what they have started


def kill(processes: dict[int, int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        import_for(Path(request["words"][0]))
        gc.collect()
        gc.freeze()
        ranks = {}
        for rank, environment in enumerate(request["environments"]):
            process = os.fork()
            if not process:
                output = f"{request['output']}/{rank}"
                run(request["words"], request["folder"], environment, output)
            ranks[process] = rank
        answers.write(json.dumps(codes_of(ranks, request["timeout"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
