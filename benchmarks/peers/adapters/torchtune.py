"""torchtune: `PackedDataset`, which packs tokens, not lengths."""

from torchtune.datasets import PackedDataset

DISTRIBUTION = "torchtune"


class Samples:
    """Samples whose every token is the sample's own number, so that packs tell who is in them."""

    def __init__(self, lengths):
        self.lengths = lengths.tolist()

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        tokens = [index] * self.lengths[index]
        return {"tokens": tokens, "labels": tokens}


def planner(lengths, setting):
    samples = Samples(lengths)
    return lambda _: PackedDataset(samples, max_seq_len=setting["budget"], padding_idx=-1)


def batches(planned):
    rows = []
    for pack in planned.packs:
        starts = pack["seq_lens"].cumsum(0) - pack["seq_lens"]
        rows.append([index for index in pack["tokens"][starts].tolist() if index >= 0])
    return rows
