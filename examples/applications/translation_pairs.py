"""Real sentence pairs: the help pages of LibreOffice, English and German.

They come from two Debian packages, which are fetched when they are first needed and read without
being installed. Pages of both languages have the same paths, paragraphs the same names.
"""

import html
import re
from pathlib import Path
from typing import NamedTuple

from debian_packages import DATA, unpacked

FOLDER = DATA / "libreoffice-help"

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


def pairs(folder: Path = FOLDER) -> list[Pair]:
    """Collect the paragraphs that both languages have and that differ, each pair once.

    Guarantees the same list wherever the packages have the same version: by page, then in the
    sequence of the English page.

    Args:
        folder: Where the packages are kept, or are put (13 MB to fetch).

    Raises:
        NoPackageError: If they are not there and cannot be fetched.
    """
    source, target = (_paragraphs(unpacked(name, folder)) for name in PACKAGES.values())
    found: dict[tuple[str, str], Pair] = {}
    for key, text in source.items():
        if key in target and text != target[key] and any(map(str.isalpha, text)):
            pair = Pair(text, target[key], key[0])
            found.setdefault(pair[:2], pair)
    return list(found.values())


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
