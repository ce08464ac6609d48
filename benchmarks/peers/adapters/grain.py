"""grain: first-fit and best-fit packing into a few open rows."""

import grain
import numpy as np
from grain.experimental import BestFitPackIterDataset, FirstFitPackIterDataset

DISTRIBUTION = "grain"
_PACKERS = {"first": FirstFitPackIterDataset, "best": BestFitPackIterDataset}


class Samples:
    """Samples of one byte a token, all views of one array."""

    def __init__(self, lengths):
        self.lengths = lengths.tolist()
        self.tokens = np.zeros(max(self.lengths), dtype=np.int8)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        return {"tokens": self.tokens[: self.lengths[index]], "index": index}


def planner(lengths, setting):
    source = grain.MapDataset.source(Samples(lengths))

    def plan(turn):
        shuffled = source.shuffle(seed=turn).to_iter_dataset(grain.ReadOptions(num_threads=0))
        rows = _PACKERS[setting["fit"]](
            shuffled,
            length_struct={"tokens": setting["budget"]},
            num_packing_bins=setting["rows"],
            seed=turn,
            meta_features=("index",),
        )
        return [list(row["index"]) for row in rows]

    return plan
