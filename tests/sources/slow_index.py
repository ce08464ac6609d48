"""Indexes a corpus whose every text takes a while; run, and killed, by `test_index_folder`."""

import os
import sys
import time
from pathlib import Path

from batchwright.sources import engines, index_shards


def slow(texts):
    """Count words, slowly; leave the number of this process."""
    folder = Path(os.environ["PIDS"])
    (folder / str(os.getpid())).touch()
    time.sleep(float(os.environ["SECONDS"]))
    return [len(text.split()) for text in texts]


if __name__ == "__main__":
    engines.cores = lambda: 2  # whatever this machine has
    index_shards(sys.argv[1], sys.argv[2], tokenizer=slow, workers=int(sys.argv[3]))
