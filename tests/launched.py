"""Programs that torch launches on several ranks."""

import subprocess
from collections.abc import Sequence
from typing import Any

from tests.patience import PATIENCE

ABORTED = "terminate called without an active exception"


def launched(command: Sequence[object], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program, and run it again if torch aborted at its very end.

    A rank that has done everything, and has destroyed its process group, is aborted by torch 2.13
    with gloo about once in 80 runs on a busy machine, in programs without Batchwright too.
    """
    options = {"capture_output": True, "text": True, "timeout": PATIENCE} | options
    done = subprocess.run(command, check=False, **options)
    if done.returncode and ABORTED in done.stderr:
        done = subprocess.run(command, check=False, **options)
    return done
