"""A script under `batchwright doctor`: what was found in it, as it is and repaired."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import machine
from benchmarks.doctor_defects.defects import Defect

LIMIT = 180.0
"""Seconds that a script may take."""

LEVELS = ("info", "warning", "error")
"""Up to the worst."""


@dataclass(frozen=True)
class Watched:
    """What the doctor says of a script."""

    findings: tuple[Mapping[str, Any], ...]
    seconds: float
    failure: str = ""  # the end of its messages, where it has no report

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Return the finding of a name."""
        return next((each for each in self.findings if each["name"] == name), None)

    @property
    def errors(self) -> list[str]:
        """Names of what is found at the level of errors."""
        return [each["name"] for each in self.findings if each["level"] == "error"]


@dataclass(frozen=True)
class Outcome:
    """A defect, and what was found with it and without it."""

    defect: Defect
    broken: Watched
    repaired: Watched

    @property
    def is_found(self) -> bool:
        """Whether the defect is called by its name, as more than good to know."""
        found = self.broken.find(self.defect.finding)
        return found is not None and found["level"] != "info"

    @property
    def is_gone(self) -> bool:
        """Whether the repaired script no longer has the finding, or has it at a lower level."""
        before = self.broken.find(self.defect.finding)
        after = self.repaired.find(self.defect.finding)
        if before is None or after is None:
            return after is None
        return LEVELS.index(after["level"]) < LEVELS.index(before["level"])

    def as_json(self) -> dict[str, Any]:
        """Return what the result file keeps."""
        runs = {"broken": self.broken, "repaired": self.repaired}
        return {
            "script": self.defect.name,
            "framework": self.defect.framework,
            "ranks": self.defect.ranks,
            "finding": self.defect.finding,
            "is_found": self.is_found,
            "is_gone": self.is_gone,
            "false_errors": self.repaired.errors,
            **{
                name: {
                    "seconds": round(run.seconds, 1),
                    "findings": [
                        {key: each[key] for key in ("name", "level", "figure")}
                        for each in run.findings
                    ],
                    **({"failure": run.failure} if run.failure else {}),
                }
                for name, run in runs.items()
            },
        }


def outcome_of(defect: Defect) -> Outcome:
    """Watch a script with its defect, and repaired."""
    return Outcome(defect, watch(defect, repaired=False), watch(defect, repaired=True))


def watch(defect: Defect, *, repaired: bool) -> Watched:
    """Run a script under the doctor, in a folder of its own.

    Args:
        defect: The script.
        repaired: Whether it is repaired.
    """
    sources = os.pathsep.join([str(machine.REPOSITORY / "src"), str(machine.REPOSITORY)])
    environment = os.environ | {"PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "batchwright", "doctor", "--json", "--"]
    command += defect.command(repaired=repaired)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Watched((), time.perf_counter() - started, f"took more than {LIMIT:.0f} s")
    seconds = time.perf_counter() - started
    try:
        findings = json.loads(done.stdout)["findings"]
    except (json.JSONDecodeError, KeyError):
        return Watched((), seconds, (done.stdout + done.stderr)[-1_000:])
    return Watched(tuple(findings), seconds)
