"""verl: Karmarkar–Karp differencing, as it shares a batch among ranks."""

from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

DISTRIBUTION = "verl"


def planner(lengths, setting):
    lengths = lengths.tolist()
    return lambda _: get_seqlen_balanced_partitions(lengths, setting["parts"], equal_size=False)
