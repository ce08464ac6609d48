"""One process of several: runs cases with the others and writes down what came of each.

    python SCRIPT RANK WORLD_SIZE FOLDER [CASE ...]

Results are written after each case, so that what a hang leaves behind can still be read.
"""

import datetime as dt
import gc
import hashlib
import json
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import distributed

PATIENCE = dt.timedelta(seconds=600)
"""After this a rank that waits in vain gives up: long, as a slow machine is no hang."""


def run(cases):
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world_size,
        timeout=PATIENCE,
    )
    results = {}
    chosen = sys.argv[4:] or [case.__name__ for case in cases]
    for case in [each for each in cases if each.__name__ in chosen]:
        gc.freeze()  # an update that runs out of memory collects garbage: not all of torch
        began = time.monotonic()
        torch.manual_seed(0)
        try:
            results[case.__name__] = case(rank)
        except Exception:  # noqa: BLE001 (told to the test)
            results[case.__name__] = traceback.format_exc()
        print(f"rank {rank}: {case.__name__}, {time.monotonic() - began:.2f} s", flush=True)  # noqa: T201
        (folder / f"{rank}.json").write_text(json.dumps(results))


def caught(attempt):
    """Return the name and the sentence of the error that an attempt ends in."""
    try:
        attempt()
    except Exception as error:  # noqa: BLE001 (which one, is the question)
        return [type(error).__name__, str(error)]
    return None


def digest(tensors):
    """Return a hash of tensors, bit for bit."""
    together = hashlib.sha256()
    for tensor in tensors:
        together.update(tensor.detach().contiguous().numpy().tobytes())
    return together.hexdigest()
