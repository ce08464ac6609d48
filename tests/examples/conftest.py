"""Examples are scripts: their folder is on the path when they run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
for folder in (EXAMPLES / "applications", EXAMPLES / "studies"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def library() -> list[str]:
    """The functions of Python's own library: reading them takes seconds."""
    from python_functions import functions

    return functions()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread of torch during a test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
