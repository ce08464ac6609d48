"""Files that the command is run on, good and bad."""

import numpy as np
import pytest

import batchwright as bw
from tests.cli.command import LENGTHS


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Files of lengths, good and bad, and a saved plan."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "lengths.npy", LENGTHS)
    (folder / "truncated.npy").write_bytes((folder / "lengths.npy").read_bytes()[:-100])
    np.save(folder / "nan.npy", np.array([3.0, np.nan, 5.0]))
    np.save(folder / "zero.npy", np.array([3, 4, 0, 5]))
    np.save(folder / "other.npy", LENGTHS[::-1])
    np.save(folder / "fewer.npy", LENGTHS[:100])
    np.save(folder / "two.npy", LENGTHS.reshape(-1, 2))
    (folder / "table.csv").write_text("id,length,words\n1,3,a b c\n2,5,d\n", encoding="utf-8")
    (folder / "nan.csv").write_text("id,length\n1,3\n2,nan\n", encoding="utf-8")
    plan = bw.plan(LENGTHS, max_tokens=2_048, world_size=2)
    plan.save(folder / "plan.safetensors")
    saved = (folder / "plan.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(saved[: len(saved) // 2])
    for name, place in (("head", 20), ("middle", len(saved) // 2), ("tail", len(saved) - 3)):
        changed = bytearray(saved)
        changed[place] ^= 1
        (folder / f"{name}.safetensors").write_bytes(changed)
    return folder


@pytest.fixture(autouse=True)
def inside(files, monkeypatch):
    monkeypatch.chdir(files)
    monkeypatch.setenv("BATCHWRIGHT_CACHE", str(files / "cache"))
