"""Reads an epoch of Parquet shards on nodes of two ranks, as far as it is told.

torchrun --nproc-per-node 4 shards_job.py INDEX STATE OUTPUT BATCHES

Goes on from STATE if that file exists, and writes it. Every rank writes what it read to OUTPUT.
"""

import json
import os
import sys
from pathlib import Path

from torch import distributed

import batchwright as bw
from batchwright.sources import ParquetShards, open_index
from batchwright.torch import PlanLoader

RANKS_PER_NODE, OPEN = 2, 2


def main(folder: str, state: Path, output: Path, batches: int) -> None:
    distributed.init_process_group("gloo")
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    index = open_index(folder)
    order = bw.Blocks(open_blocks=OPEN, ranks_per_node=RANKS_PER_NODE)
    planner = bw.Planner(index, max_tokens=100, order=order, world_size=ranks)
    dataset = ParquetShards(index, ["text", "id"], open_shards=2 * OPEN)
    loader = PlanLoader(dataset, planner, collate_fn=list)
    if state.exists():
        loader.load_state_dict(json.loads(state.read_text()))
    read = []
    for taken, batch in enumerate(loader, 1):
        assert sum(len(row["text"].split()) for row in batch) <= 100
        read.append([row["id"] for row in batch])
        if taken == batches:
            break
    distributed.barrier()
    if rank == 0:
        state.write_text(json.dumps(loader.state_dict()))
    facts = {"read": read, "reads": dataset.reads}
    (output / f"{rank}.json").write_text(json.dumps(facts))
    distributed.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
