"""Every code block of README.md and of the documentation runs."""

import contextlib
import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from yaml import YAMLError

from tests.docs.blocks import ROOT, Block, blocks_of, pages
from tests.docs.commands import NOT_RUN, checked, commands_of, reason_not_to_run
from tests.docs.preparations import ENVIRONMENT, PREPARED
from tests.docs.run_page import patched, run_block, run_page
from tests.patience import PATIENCE

PAGES = [page for page in pages() if blocks_of((ROOT / page).read_text(encoding="utf-8"))]

OF_ITS_OWN = {*ENVIRONMENT, "docs/frameworks/compiled.md"}
"""Pages that get a process: of other variables, or of a framework that stays in it."""

LARGE = {"docs/frameworks/ray.md": ("ray", "tensorboardX")}
"""What pages need that `make setup` does not install."""


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page: str, tmp_path: Path) -> None:
    for name in LARGE.get(page, ()):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if page in OF_ITS_OWN:
        _run_alone(page, tmp_path)
        return
    # Here, where torch is loaded. What a page's frameworks warn of is theirs.
    random, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        with contextlib.chdir(tmp_path), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_page(page, tmp_path)
    finally:
        torch.set_rng_state(random)
        torch.set_num_threads(threads)


def _run_alone(page: str, folder: Path) -> None:
    variables = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.run_page", page],
        cwd=folder,
        env=os.environ | variables | ENVIRONMENT.get(page, {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_with_blocks_is_prepared_and_no_other() -> None:
    assert set(PREPARED) == set(PAGES)


def test_pages_have_blocks_of_every_kind() -> None:
    """The search can fail: where it found nothing, nothing would be run."""
    found = [
        block for page in PAGES for block in blocks_of((ROOT / page).read_text(encoding="utf-8"))
    ]
    assert {"python", "bash", "toml", "text"} <= {block.language for block in found}
    assert sum(block.language == "python" for block in found) > 20


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "unknown_name\n"),
        ("python", "assert 1 > 2\n"),
        ("bash", "batchwright plan lengths.npy --max-token 5\n"),
        ("bash", "batchwright compare examples/applications/translation.py --swift\n"),
        ("bash", "python -m benchmarks.planning --quickly\n"),
        ("bash", "pip install 'batchwright[tea]'\n"),
        ("bash", "brew tea\n"),
        ("toml", "a ="),
        ("json", "{"),
        ("yaml", "a: ["),
        ("", "x = 1\n"),
    ],
)
def test_a_block_that_does_not_run_is_told(language: str, code: str, tmp_path: Path) -> None:
    with pytest.raises((NameError, AssertionError, ValueError, YAMLError)):
        run_block(Block(language, "", code, 1), {}, Path("page.md"), tmp_path)


def test_what_a_command_is_said_to_print_it_prints(tmp_path: Path) -> None:
    printed = ["a table\n  of  2 lines\n"]
    run_block(Block("text", "", "of  2 lines\n", 1), {}, Path("page.md"), tmp_path, printed)
    with pytest.raises(AssertionError, match="3 lines"):
        run_block(Block("text", "", "of  3 lines\n", 1), {}, Path("page.md"), tmp_path, printed)


def test_what_is_not_run_has_a_reason_that_is_needed() -> None:
    """No reason stands for nothing: each is that of a command in some page."""
    commands = [
        words
        for page in PAGES
        for block in blocks_of((ROOT / page).read_text(encoding="utf-8"))
        if block.language == "bash"
        for words in commands_of(block.code)
    ]
    reasons = {reason_not_to_run(words) for words in commands}
    assert reasons == {None, *NOT_RUN.values()}


@pytest.mark.parametrize(
    ("page", "lines"), [("torch", 4), ("accelerate", 4), ("transformers", 3), ("lightning", 6)]
)
def test_a_plan_takes_few_lines(page: str, lines: int) -> None:
    text = (ROOT / f"docs/frameworks/{page}.md").read_text(encoding="utf-8")
    diffs = [block.code for block in blocks_of(text) if block.language == "diff"]
    assert diffs
    for diff in diffs:
        assert sum(line.startswith("+") for line in diff.splitlines()) <= lines


def test_a_diff_applies_once() -> None:
    assert patched("a\nb\nc\n", " a\n-b\n@@\n+d\n c\n") == "a\nd\nc\n"
    for other in ("a\nb\n", "b\nc\nb\nc\n"):
        with pytest.raises(AssertionError, match="no such lines"):
            patched(other, " b\n-c\n")


def test_options_are_looked_up_as_words() -> None:
    checked(["batchwright", "compare", "examples/applications/translation.py", "--seeds", "3"])
    with pytest.raises(AssertionError, match="--seed-s"):
        checked(["batchwright", "compare", "examples/applications/translation.py", "--seed-s"])
