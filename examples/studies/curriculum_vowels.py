"""Fetch recorded speech: two vowels by nine speakers, as frames of twelve cepstral coefficients.

The set is *Japanese Vowels* (M. Kudo, J. Toyama, M. Shimbo, *Multidimensional Curve Classification
Using Passing-Through Regions*, 1999; UCI archive), which the package aeon carries as text. The
package is downloaded once, kept in the user's cache, and never installed. By hand:

    python -m pip download --no-deps aeon==1.6.0 -d ~/.cache/batchwright
"""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchwright.errors import SourceError, SourceNotFoundError

PACKAGE, VERSION = "aeon", "1.6.0"

WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"

MEMBER = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"

NUM_COEFFICIENTS = 12


@dataclass(frozen=True, eq=False)
class Speech:
    """Utterances, and who speaks.

    Attributes:
        frames: Of each utterance, float32[frames, 12].
        speakers: int64[n], from 0 to 8.
    """

    frames: list[np.ndarray]
    speakers: np.ndarray


def cache() -> Path:
    """Return where the library keeps what it read: `BATCHWRIGHT_CACHE`, or the user's cache."""
    if own := os.environ.get("BATCHWRIGHT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchwright"


def fetch(folder: Path) -> Path:
    """Return the package's file; download it where it is not there yet.

    Raises:
        SourceNotFoundError: If it can neither be found nor downloaded.
    """
    wheel = folder / WHEEL
    if wheel.is_file():
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    done = subprocess.run(
        [*pip, "--only-binary=:all:", "--retries=1", f"{PACKAGE}=={VERSION}", "-d", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not wheel.is_file():
        reason = (done.stderr.strip() or "no file came").splitlines()[-1]
        raise SourceNotFoundError(
            f"The speech comes with {PACKAGE} {VERSION}, which cannot be downloaded ({reason}). "
            f"Offline, put {WHEEL} into {folder}."
        )
    return wheel


def read(wheel: Path, part: str) -> Speech:
    """Read the utterances to train on, or those to test with.

    Args:
        wheel: The package's file.
        part: ``"TRAIN"`` or ``"TEST"``: nobody said the same utterance in both.

    Raises:
        SourceError: If the file is not what it should be.
    """
    try:
        with zipfile.ZipFile(wheel) as opened:
            text = opened.read(MEMBER.format(part=part)).decode()
    except (zipfile.BadZipFile, KeyError) as error:
        raise SourceError(f"{wheel} is not {PACKAGE} {VERSION} ({error}). Delete it.") from error
    return parse(text)


def parse(text: str) -> Speech:
    """Read the text: after a line ``@data``, an utterance a line, its coefficients and speaker.

    Coefficients are separated by colons, frames by commas, and the speaker, from 1, comes last.

    Raises:
        SourceError: If there are no utterances, or one of other than twelve coefficients.
    """
    lines = text.partition("@data\n")[2].splitlines()
    rows = [line.split(":") for line in lines if line]
    if not rows or any(len(row) != NUM_COEFFICIENTS + 1 for row in rows):
        raise SourceError(f"expected utterances of {NUM_COEFFICIENTS} coefficients after @data.")
    frames = [np.array([row.split(",") for row in each[:-1]], dtype=np.float32).T for each in rows]
    return Speech(frames, np.array([int(each[-1]) - 1 for each in rows], dtype=np.int64))
