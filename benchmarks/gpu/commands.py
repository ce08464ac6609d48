"""The commands on a GPU: `advise` and `compare` on a task, `doctor` on a training loop."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.speed import Row
from benchmarks.machine import REPOSITORY

TASK = "benchmarks/gpu/functions_task.py"

SECONDS = 20
"""For the trials of `advise`."""


def advise(sizes: Sizes) -> Row:
    """Ask for advice on a task."""
    seconds = SECONDS if sizes.name == "full" else 2
    found = _json_of("advise", TASK, "--quick", "--seconds", str(seconds))
    kept = ("technique", "verdict", "short", "gain", "settings")
    advice = [{name: each.get(name) for name in kept} for each in found["advice"]]
    return {"strategy": found["strategy"], "advice": advice, "page": found["page_bytes"]}


def compare(sizes: Sizes) -> Row:
    """Compare strategies on a task, one seed."""
    options = [] if sizes.name == "full" else ["--strategies", "plain,planned"]
    found = _json_of("compare", TASK, "--quick", *options)
    kept = ("name", "precision", "tokens_per_second", "speed", "padding", "peak_bytes", "time")
    arms = [{name: each[name] for name in kept} for each in found["summary"]]
    return {"arms": arms, "device": found["device"], "page": found["page_bytes"]}


def doctor(sizes: Sizes) -> Row:
    """Watch a training loop."""
    tiny = [] if sizes.name == "full" else ["--tiny"]
    watched = [sys.executable, "-m", "benchmarks.gpu.plain_loop", *tiny]
    updates = "40" if sizes.name == "full" else "8"
    found = _json_of("doctor", "--updates", updates, last=["--", *watched])
    return {"findings": found["findings"], "page": found["page_bytes"]}


def _json_of(command: str, *options: str, last: list[str] | None = None) -> Row:
    """Run a command of `batchwright`; return what it prints as JSON, and the size of its page."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        files = ["--html", str(page)]
        files += ["-o", str(Path(folder) / "result.json")] if command == "compare" else []
        begun = perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "batchwright", command, *options, "--json", *files]
            + (last or []),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed with {done.returncode}: {done.stderr[-2_000:]}")
        found: Row = json.loads(done.stdout)
        return found | {"seconds": perf_counter() - begun, "page_bytes": page.stat().st_size}
