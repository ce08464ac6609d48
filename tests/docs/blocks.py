"""The code blocks of a page, as a reader sees them."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: What it is said to be written in; "" where nothing is said.
        title: The name of the file that it shows; "" for none.
        code: What it holds.
        line: Of the page, where its code begins; from 1.
    """

    language: str
    title: str
    code: str
    line: int


def blocks_of(text: str) -> list[Block]:
    """Find the fenced blocks of a page, those in lists and quotations included.

    Example:
        >>> blocks_of('A list:\\n\\n- one\\n\\n  ```toml title="a.toml"\\n  x = 1\\n  ```\\n')
        [Block(language='toml', title='a.toml', code='x = 1\\n', line=6)]
    """
    found = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence" and token.map is not None:
            language = re.match(r"\{?\.?(\w*)", token.info)
            title = re.search(r'title="([^"]*)"', token.info)
            found.append(
                Block(
                    language=language[1] if language else "",
                    title=title[1] if title else "",
                    code=_with_files(token.content),
                    line=token.map[0] + 2,
                )
            )
    return found


def _with_files(code: str) -> str:
    """Put files in the place of the lines that name them, as the documentation does."""
    return re.sub(
        r'--8<-- "(.+)"\n', lambda found: (ROOT / found[1]).read_text(encoding="utf-8"), code
    )


def pages() -> list[str]:
    """List the pages of the documentation, by their path from the top of the repository."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [file.relative_to(ROOT).as_posix() for file in files]
