"""What became of a run that was restarted: see scripts/restarted.py."""

import json
import tempfile
from collections import Counter
from pathlib import Path

import torch

from tests.integrations.scripts.restarted import EPOCHS, LENGTHS, planned_updates, train
from tests.stress.elastic import read_lines, updates_of


def end_legs(folder, endings):
    """Say how the legs of a run will end."""
    (folder / "endings.json").write_text(json.dumps(endings), encoding="utf-8")


def legs_of(folder):
    """Return for each leg in which update it began, and on how many ranks."""
    count = len(list(folder.glob("*-0.jsonl")))
    firsts = [read_lines(folder / f"{leg}-0.jsonl")[0] for leg in range(count)]
    return [(each["begin"], each["ranks"]) for each in firsts]


def updates_read(folder, leg):
    """Return the updates of which rank 0 read something in a leg."""
    lines = read_lines(folder / f"{leg}-0.jsonl")
    return sorted({line["update"] for line in lines if "update" in line})


def check_run(folder):
    """Check the legs that count against the plan, and a run that nobody disturbed."""
    updates, _ = updates_of(folder)
    assert updates == planned_updates()
    counts = Counter(sample for update in updates for sample in update)
    assert counts == dict.fromkeys(range(LENGTHS.size), EPOCHS)
    with tempfile.TemporaryDirectory() as alone:
        end_legs(Path(alone), [])
        train(Path(alone), load=lambda: None, save=lambda state: None)
        expected = torch.load(Path(alone, "weights.pt"))
    off = torch.load(folder / "weights.pt") - expected
    assert off.norm() <= 1e-6 * expected.norm()


def is_in_mid_epoch(update):
    return update % (len(planned_updates()) // EPOCHS) != 0
