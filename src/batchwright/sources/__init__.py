"""Lengths from files and datasets: `.npy`, Parquet, Arrow, JSON lines, CSV, Hugging Face.

The rest of Batchwright takes an array of lengths, or an index; the functions here make them.
`read_lengths` reads a whole source; `index_shards` measures it shard by shard, in processes or on a
cluster.
"""

from batchwright.sources.index_folder import index_scores, open_index
from batchwright.sources.indexing import index_shards, index_tasks
from batchwright.sources.read import read_lengths
from batchwright.sources.rows import ParquetShards
from batchwright.sources.shards import ShardFacts, index_shard

__all__ = [
    "ParquetShards",
    "ShardFacts",
    "index_scores",
    "index_shard",
    "index_shards",
    "index_tasks",
    "open_index",
    "read_lengths",
]
