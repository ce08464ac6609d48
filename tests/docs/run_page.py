"""Run every block of a page in the present folder, one after the other, as a reader would.

python -m tests.docs.run_page docs/start.md
"""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import yaml

from tests.docs.blocks import ROOT, Block, blocks_of
from tests.docs.commands import checked, commands_of, reason_not_to_run, run
from tests.docs.preparations import PREPARED, Names, make_smaller

Printed = list[str]

READERS: dict[str, Callable[[str], object]] = {
    "toml": tomllib.loads,
    "json": json.loads,
    "yaml": yaml.safe_load,
}
"""What reads a block that is no program."""


def run_block(
    block: Block, names: Names, page: Path, folder: Path, printed: Printed | None = None
) -> None:
    """Run a block, or read it where it is no program.

    Args:
        block: The block.
        names: What Python blocks share.
        page: Where it stands.
        folder: Where it runs.
        printed: What the page's commands have printed so far; added to.
    """
    printed = [] if printed is None else printed
    if block.title:
        _write(block, folder / block.title)
    if block.language == "python" and not block.title:
        # As many lines in front as the page has, so that an error names the page's own line.
        code = "\n" * (block.line - 1) + block.code
        exec(compile(code, str(page), "exec"), names)  # noqa: S102
    elif block.language == "python":
        compile(block.code, block.title, "exec")
    elif block.language == "bash":
        for words in commands_of(block.code):
            if reason_not_to_run(words) is None:
                printed.append(run(words, folder))
            else:
                checked(words)
            if words[:2] == ["batchwright", "new-task"]:
                make_smaller(folder / words[2])
    elif block.language in READERS:
        READERS[block.language](block.code)
    elif block.language == "text":
        known = {line.strip() for each in printed for line in each.splitlines()}
        unknown = [line for line in block.code.splitlines() if line.strip() not in known]
        assert not printed or not unknown, f"no command of the page printed {unknown}"
    elif block.language != "diff" or not block.title:
        message = (
            f"{page}:{block.line}: a block of {block.language or 'no language'}. Say what it is: "
            "python, bash, diff, toml, json, yaml, or text: what the commands before have printed, or a "
            "drawing."
        )
        raise AssertionError(message)


def _write(block: Block, file: Path) -> None:
    code = block.code
    if block.language == "diff":
        code = patched(file.read_text(encoding="utf-8"), code)
    file.write_text(code, encoding="utf-8")


def patched(text: str, diff: str) -> str:
    """Apply a diff, whose parts are set apart by lines of @@.

    Example:
        >>> patched("a\\nb\\nc\\n", " a\\n-b\\n@@\\n+d\\n c\\n")
        'a\\nd\\nc\\n'
    """
    for part in diff.split("@@\n"):
        lines = part.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"the file has no such lines, or has them twice:\n{before}"
        text = text.replace(before, after)
    return text


def run_page(page: str, folder: Path) -> None:
    """Run every block of a page."""
    path = ROOT / page
    blocks = blocks_of(path.read_text(encoding="utf-8"))
    assert page in PREPARED, f"tests/docs/preparations.py does not say what {page} begins with"
    printed: Printed = []
    names = {"__name__": "__main__"} | PREPARED[page](folder)
    for block in blocks:
        try:
            run_block(block, names, path, folder, printed)
        except BaseException:
            sys.stderr.write(f"in the block of {page}:{block.line}\n")
            raise


if __name__ == "__main__":
    run_page(sys.argv[1], Path.cwd())
