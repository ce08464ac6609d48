"""The loops of the examples: each is run as its head says, and learns."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.launched import launched

REPOSITORY = Path(__file__).resolve().parents[2]
TORCHRUN = [*(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("pytorch", "torch"),
        ("ddp", "torch"),
        ("transformers_trainer", "transformers"),
        ("lightning_trainer", "lightning"),
        ("keras_fit", "keras"),
    ],
)
def test_a_loop_learns(name, needs):
    pytest.importorskip(needs)
    done = launched(
        [*(TORCHRUN if name == "ddp" else [sys.executable]), f"examples/loops/{name}.py"],
        cwd=REPOSITORY,
        env={**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    losses = [
        float(loss) for loss in re.findall(r"^epoch .*loss ([\d.]+)", done.stdout, re.MULTILINE)
    ]
    assert len(losses) >= 2
    assert losses[-1] < losses[0] - 0.2
