"""What is not installed is named, with the command that installs it."""

import subprocess
import sys

import numpy as np
import pytest

from batchwright import sources
from batchwright.errors import MissingExtraError

from .conftest import WITH_COLUMNS


@pytest.fixture
def without_pyarrow(monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)


@pytest.mark.parametrize("name", WITH_COLUMNS)
def test_pyarrow(write, name: str, request) -> None:
    path = write(name, {"length": [1]})
    request.getfixturevalue("without_pyarrow")
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[sources\]'") as caught:
        sources.read_lengths(path)
    assert "pyarrow" in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_npy_needs_nothing(tmp_path, without_pyarrow) -> None:
    np.save(tmp_path / "a.npy", np.array([1.0, 2.0]))
    assert sources.read_lengths(tmp_path / "a.npy").tolist() == [1, 2]


def test_tokenizers(write, tmp_path, monkeypatch) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    path = write("data.csv", {"text": ["a"]})
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'batchwright\[sources\]'"):
        sources.read_lengths(path, tokenizer=tmp_path)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import batchwright.sources\n"
        "print({'pyarrow', 'tokenizers', 'datasets', 'rich', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
