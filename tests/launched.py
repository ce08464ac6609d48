"""Programs of Python, on one rank or several, in processes of their own."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

ABORTED = "terminate called without an active exception"


def launched(command: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script as `python SCRIPT …` does, or `python -m torch.distributed.run … SCRIPT …`.

    Its processes are forked from one that has imported what the script imports, which takes longer
    than most scripts run.

    Args:
        command: Words: the interpreter, torchrun's module with the number of ranks, the script and
            what follows it.
        **options: `cwd`, `env` and `timeout` of `subprocess.run`.
    """
    words = list(map(str, command[1:]))
    ranks = 1
    if words[:2] == ["-m", "torch.distributed.run"]:
        at = words.index("--nproc-per-node")
        ranks, words = int(words[at + 1]), words[at + 2 :]
    assert words[0].endswith(".py"), f"expected a script, got {words[0]}"
    if ranks == 1:
        return _forked(words, [{}], **options)
    from torch.distributed import TCPStore

    # The ranks meet here, as they meet at torchrun: no port is chosen that another could take.
    store = TCPStore("127.0.0.1", 0, None, is_master=True, wait_for_workers=False)
    return _forked(words, [_place(rank, ranks, store.port) for rank in range(ranks)], **options)


def _place(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what torchrun sets for a rank."""
    found = {"RANK": rank, "LOCAL_RANK": rank, "ROLE_RANK": rank, "GROUP_RANK": 0}
    found |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "ROLE_WORLD_SIZE": ranks}
    found |= {"GROUP_WORLD_SIZE": 1, "MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": 0}
    found |= {"TORCHELASTIC_MAX_RESTARTS": 0}
    texts = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    return {name: str(value) for name, value in found.items()} | texts


def _forked(
    words: list[str],
    places: Sequence[Mapping[str, str]],
    *,
    cwd: object = None,
    env: Mapping[str, str] | None = None,
    timeout: float = PATIENCE,
) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ if env is None else env)
    words = [str(Path(cwd or ".", words[0]).resolve()), *words[1:]]
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "words": words,
            "folder": str(cwd or Path.cwd()),
            "environments": [environment | place for place in places],
            "output": folder,
            "timeout": timeout,
        }
        server = _server()
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        codes = json.loads(server.stdout.readline())
        out, err = (
            "".join(file.read_text() for file in sorted(Path(folder).glob(f"*.{kind}")))
            for kind in ("out", "err")
        )
    if codes is None:
        raise subprocess.TimeoutExpired(words, timeout, out, err)
    return subprocess.CompletedProcess(words, next(filter(None, codes), 0), out, err)


@cache
def _server() -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[1]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.launcher"],
        env=os.environ | {"PYTHONPATH": paths, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        server.send_signal(signal.SIGTERM)
    server.wait()


def run_anew(command: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program as a user does; run it again if torch aborted at its very end.

    A rank that has done everything, and has destroyed its process group, is aborted by torch 2.13
    with gloo about once in 80 runs on a busy machine, in programs without Batchwright too.
    """
    options = {"capture_output": True, "text": True, "timeout": PATIENCE} | options
    done = subprocess.run(command, check=False, **options)
    if done.returncode and ABORTED in done.stderr:
        done = subprocess.run(command, check=False, **options)
    return done
