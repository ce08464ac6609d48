"""Corpora of several shards, and the reference that their index is compared with."""

import numpy as np

from batchwright import LengthIndex

WORDS = [f"word{number}" for number in range(50)]


def texts_of(size, seed):
    """Make texts of 1 to 40 words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, many)) for many in rng.integers(1, 41, size)]


def write_corpus(folder, sizes, *, suffix="parquet"):
    """Write a shard of texts for each size; return the number of words of each text, by shard."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, size in enumerate(sizes):
        texts = texts_of(size, number)
        table = pa.table({"text": pa.array(texts, pa.string())})
        path = folder / f"part-{number:03d}.{suffix}"
        if suffix == "parquet":
            pyarrow.parquet.write_table(table, path)
        else:
            pyarrow.csv.write_csv(table, path)
        found.append([len(text.split()) for text in texts])
    return found


def check_index(index, lengths):
    """Compare an index with the obvious: all lengths at once, and each shard sorted by itself."""
    flat = np.concatenate([np.array(each, np.int64) for each in lengths])
    whole = LengthIndex.build(flat)
    values, counts = index.histogram()
    assert values.tolist() == whole.values.tolist()
    assert counts.tolist() == whole.counts.tolist()
    assert index.sizes.tolist() == [len(each) for each in lengths]
    assert index.lengths().tolist() == flat.tolist()
    for shard, own in enumerate(lengths):
        by_length = sorted(range(len(own)), key=lambda row: -own[row])
        assert index.rows_of(shard).tolist() == by_length


def contents(folder):
    """Read all files of a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
