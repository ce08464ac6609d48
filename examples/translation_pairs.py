"""Real sentence pairs: the help pages of LibreOffice, English and German.

They come from two Debian packages, which are fetched when they are first needed and read without
being installed. Pages of both languages have the same paths, paragraphs the same names.
"""

import html
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).resolve().parents[1] / "build" / "data" / "libreoffice-help"

PACKAGES = {"en": "libreoffice-help-en-us", "de": "libreoffice-help-de"}

_PARAGRAPH = re.compile(r'<(p|h\d)\s[^>]*?id="([^"]+)"[^>]*>(.*?)</\1>', re.DOTALL)
_TAG = re.compile(r"<[^>]*>")


class Pair(NamedTuple):
    """A paragraph in both languages.

    Attributes:
        source: English.
        target: German.
        page: Where it stands: paragraphs of one page are not independent.
    """

    source: str
    target: str
    page: str


class NoPairsError(OSError):
    """The packages could not be had; says what to do."""


def pairs(folder: Path = DATA) -> list[Pair]:
    """Collect the paragraphs that both languages have and that differ, each pair once.

    Guarantees the same list wherever the packages have the same version: by page, then in the
    sequence of the English page.

    Args:
        folder: Where the packages are kept, or are put (13 MB to fetch).

    Raises:
        NoPairsError: If they are not there and cannot be fetched.
    """
    source, target = (_paragraphs(_unpacked(name, folder)) for name in PACKAGES.values())
    found: dict[tuple[str, str], Pair] = {}
    for key, text in source.items():
        if key in target and text != target[key] and any(map(str.isalpha, text)):
            pair = Pair(text, target[key], key[0])
            found.setdefault(pair[:2], pair)
    return list(found.values())


def _unpacked(package: str, folder: Path) -> Path:
    """Return the folder of a package's files, fetching and unpacking it if it is not there."""
    unpacked = folder / package
    if unpacked.is_dir():
        return unpacked
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoPairsError(
            f"{package} is a Debian package, and there is no apt-get here. Unpack it into "
            f"{unpacked} yourself: https://packages.debian.org/{package}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{package}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _run("apt-get", "download", package, folder=folder)
        archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
        _run("dpkg-deb", "-x", archive.name, partial.name, folder=folder)
    except subprocess.CalledProcessError as error:
        said = (error.stderr or "").strip().splitlines()
        raise NoPairsError(
            f"{package} could not be fetched ({said[-1] if said else error}). If apt-get knows no "
            "such package, run: sudo apt-get update"
        ) from error
    archive.unlink()
    return partial.rename(unpacked)


def _run(*command: str, folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)


def _paragraphs(folder: Path) -> dict[tuple[str, str], str]:
    """Read (page, name of the paragraph) → its text."""
    texts = {}
    for path in sorted(folder.rglob("*.html")):
        _, within, page = path.as_posix().partition("/text/")
        if within:
            for _, name, inside in _PARAGRAPH.findall(path.read_text(encoding="utf-8")):
                text = " ".join(html.unescape(_TAG.sub("", inside)).split())
                if text:
                    texts[page, name] = text
    return texts
