"""What TensorBoard's files hold, read without TensorFlow, which takes seconds to import."""

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def no_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have TensorBoard write files itself, as it does where this module can be imported."""
    name = "tensorboard.compat.notf"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the numbers that were logged under a folder: name → (step, value)."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for step, name, value in _entries(file.read_bytes()):
            found.setdefault(name, []).append((step, value))
    return found


def _entries(content: bytes) -> Iterator[tuple[int, str, float]]:
    from tensorboard.compat.proto.event_pb2 import Event

    start = 0
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        event = Event.FromString(content[start + 12 : start + 12 + length])
        start += 16 + length  # two checksums of 4 bytes
        for value in event.summary.value:
            number = value.tensor.float_val[0] if value.tensor.float_val else value.simple_value
            yield event.step, value.tag, number
