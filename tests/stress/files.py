"""Damage files of every kind, and see what the commands that read them do.

    python -m tests.stress.files --jobs 2 --seed 0 --cases 10000

Each case damages one file and runs one command on it, in a process of its own. It must end with
exit code 0 or 2 and at most one line on standard error, within 1 GB and 10 seconds of computing;
0 only where the result is that of a valid file. A case is a function of its seed: a failure is
seen again with `--seed SEED --cases 1`.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.stress import saved_files, sources

SECONDS = 10
MOST_SECONDS = 300  # by the clock, however busy the machine is
MEGABYTES = 1024
IMPORTED = 300  # of a process that has imported what commands need
ALLOCATED = 4 << 30  # what is only asked for counts, too

SOURCE = str(Path(__file__).resolve().parents[2] / "src")

KINDS = (*saved_files.KINDS, *sources.KINDS)
"""Every kind of file: `Kind.damaged` makes a `Case` of it."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: bytes
    err: bytes
    seconds: float
    megabytes: int
    is_stuck: bool


@dataclass(frozen=True)
class Found:
    """What a case came to."""

    seed: int
    kind: str
    about: str
    code: int
    wrong: str | None


def run_case(seed: int, names=None) -> Found:
    """Damage a file, of some kinds or of any, and run what reads it."""
    rng = np.random.default_rng(seed)
    kinds = [each for each in KINDS if names is None or each.name in names]
    kind = kinds[rng.integers(len(kinds))]
    with tempfile.TemporaryDirectory(prefix="batchwright-stress-") as folder:
        case = kind.damaged(Path(folder), rng)
        own = case.arguments is not None and rng.random() < 0.01
        ended = _in_a_new_process(case, Path(folder)) if own else _in_a_fork(case, Path(folder))
        wrong = _wrong(ended)
        if wrong is None and ended.code == 0:
            wrong = case.refuse(ended.out)
    return Found(seed, kind.name, case.about, ended.code, wrong)


def _wrong(ended: Ended) -> str | None:
    """Say what is wrong with how a command ended, if anything."""
    said = ended.err.decode("utf-8", "replace")
    is_line = said.count("\n") == 1 and said.endswith("\n")
    refused = ended.code == 2
    faults = {
        f"{ended.seconds:.0f} s of computing": ended.is_stuck or ended.seconds > SECONDS,
        f"{ended.megabytes} MB": ended.megabytes > MEGABYTES,
        f"exit code {ended.code}: {said[-300:]}": ended.code not in {0, 2},
        f"exit code 0, and on standard error: {said[-300:]}": ended.code == 0 and bool(said),
        f"not one line: {said[-300:]!r}": refused and not is_line,
        f"control characters: {said!r}": refused and not said[:-1].isprintable(),
        f"output before an error: {ended.out[:100]!r}": refused and bool(ended.out),
    }
    return next((fault for fault, is_so in faults.items() if is_so), None)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (ALLOCATED, ALLOCATED))
    resource.setrlimit(resource.RLIMIT_CPU, (3 * SECONDS, 3 * SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _in_a_fork(case, folder: Path) -> Ended:
    """Run a case in a copy of this process, which has imported everything already."""
    out, err = folder / ".out", folder / ".err"
    own = _own_megabytes() - IMPORTED  # of a test's process, what it does with other tests
    child = os.fork()
    if child == 0:
        _as_child(case.run, folder, out, err)
    usage, status, stuck = _waited(child)
    code = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    megabytes = (usage.ru_maxrss >> 10) - max(0, own)
    return Ended(code, out.read_bytes(), err.read_bytes(), seconds, megabytes, stuck)


def _own_megabytes() -> int:
    """Return what a fork inherits: memory that is no part of a mapped file."""
    _, resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[:3]
    return (int(resident) - int(shared)) * resource.getpagesize() >> 20


def _as_child(run: Callable[[], int], folder: Path, out: Path, err: Path) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        _limit()
        code = run()
    except BaseException:  # noqa: BLE001 -- the traceback is the finding
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _waited(child: int):
    """Wait for a process; end it where it does not end."""
    until, stuck = time.monotonic() + MOST_SECONDS, False
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return usage, status, stuck
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            stuck = True
        time.sleep(0.002)


def _in_a_new_process(case, folder: Path) -> Ended:
    """Run a case as users do."""
    out, err = folder / ".out", folder / ".err"
    with out.open("wb") as first, err.open("wb") as second:
        process = subprocess.Popen(
            [sys.executable, "-m", "batchwright", *case.arguments],
            stdin=subprocess.DEVNULL,
            stdout=first,
            stderr=second,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": SOURCE},
            preexec_fn=_limit,  # noqa: PLW1509
        )
        usage, status, stuck = _waited(process.pid)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    peak = usage.ru_maxrss >> 10
    return Ended(process.returncode, out.read_bytes(), err.read_bytes(), seconds, peak, stuck)


def main(words=None) -> int:
    """Run many cases; return 1 if any is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next have +1")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kinds", help="only these, with commas between them")
    asked = parser.parse_args(words)
    names = None if asked.kinds is None else set(asked.kinds.split(","))
    seeds = range(asked.seed, asked.seed + asked.cases)
    found = []
    context = multiprocessing.get_context("fork")
    with (
        context.Pool(asked.jobs, _ignore_interrupts) as pool,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for each in pool.imap_unordered(partial(run_case, names=names), seeds, chunksize=4):
            found.append(each)
            if each.wrong is not None:
                print(f"\rseed {each.seed} ({each.kind}, {each.about}): {each.wrong}")
            if sys.stderr.isatty() or len(found) % 500 == 0:
                print(f"\r{len(found)} of {asked.cases}", end="", file=sys.stderr, flush=True)
    return _summary(found, asked.kinds)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _summary(found: list[Found], kinds: str | None) -> int:
    print()
    codes = Counter((each.kind, each.code) for each in found)
    for name in sorted({each.kind for each in found}):
        counts = ", ".join(
            f"{count} × exit {code}"
            for (kind, code), count in sorted(codes.items())
            if kind == name
        )
        print(f"{name}: {counts}")
    wrong = sorted((each for each in found if each.wrong is not None), key=lambda each: each.seed)
    print(f"{len(found)} cases, {len(wrong)} wrong")
    if wrong:
        only = "" if kinds is None else f" --kinds '{kinds}'"
        print(f"the smallest: --seed {wrong[0].seed} --cases 1{only}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
