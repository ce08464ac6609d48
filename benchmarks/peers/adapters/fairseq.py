"""fairseq: `batch_by_size_vec`, compiled, and what its dataset and iterator do around it."""

import importlib.metadata
import importlib.util

import numpy as np

DISTRIBUTION = "fairseq"

# The package itself does not import beside this Python; its compiled module does, alone.
_COMPILED = next(
    file
    for file in importlib.metadata.files("fairseq")
    if file.name.startswith("data_utils_fast") and file.suffix in {".so", ".pyd"}
)
_SPEC = importlib.util.spec_from_file_location("data_utils_fast", _COMPILED.locate())
_FAST = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FAST)


def planner(lengths, setting):
    lengths = lengths.astype(np.int64)

    def plan(turn):
        rng = np.random.RandomState(turn)
        # As LanguagePairDataset.ordered_indices, with lengths of one side.
        indices = rng.permutation(lengths.size).astype(np.int64)
        indices = indices[np.argsort(lengths[indices], kind="mergesort")]
        cut = _FAST.batch_by_size_vec(
            indices, lengths[indices], setting["budget"], -1, setting["multiple"]
        )
        # As EpochBatchIterator, which shuffles the batches.
        rng.shuffle(cut)
        return cut

    return plan
