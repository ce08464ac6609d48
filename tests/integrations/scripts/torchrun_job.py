"""Trains under torchrun, which restarts it: see restarted.py.

torchrun --nproc-per-node 2 --max-restarts 1 torchrun_job.py FOLDER
"""

import gc
import sys
from pathlib import Path

import torch
from torch import distributed

from tests.integrations.scripts.restarted import train


def main(folder):
    saved = folder / "saved.pt"

    def load():
        return torch.load(saved) if saved.exists() else None

    def save(state):
        if distributed.get_rank() == 0:
            partial = saved.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(saved)

    distributed.init_process_group("gloo")
    try:
        train(folder, load, save)
    finally:  # the threads of a group that outlives the interpreter abort the process
        gc.collect()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
