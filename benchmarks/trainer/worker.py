"""One arm in a process of its own: ``worker.py ARM SETTING``, a name and a JSON object."""

import json
import os
import sys

import torch

from benchmarks.trainer.setting import Setting
from benchmarks.trainer.turns import Turns


def main() -> None:
    """Prepare the job, then train as requests come in."""
    # What a library prints must not be taken for an answer.
    turns = Turns(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    torch.set_num_threads(1)
    arm, setting = sys.argv[1], Setting(**json.loads(sys.argv[2]))
    if arm.startswith("trainer"):
        from benchmarks.trainer.by_trainer import train
    else:
        from benchmarks.trainer.by_plan import train
    train(setting, arm, turns)


if __name__ == "__main__":
    main()
