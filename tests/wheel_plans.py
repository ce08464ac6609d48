"""Imports what needs no extra, and prints what plans are made: see wheels.py."""

import importlib
import json
import pkgutil
import platform

import numpy as np
import safetensors

import batchwright as bw


def lacking() -> set[str]:
    """Import every module; return the packages that some of them lack."""
    names = set()
    for module in pkgutil.walk_packages(bw.__path__, "batchwright.", onerror=lambda _: None):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            names.add(str(error.name))
    return names


def planners() -> dict[str, bw.Planner]:
    # Whole numbers: logarithms differ between machines.
    random = np.random.default_rng(0)
    lengths = random.integers(1, 32, 5_000) * random.integers(1, 32, 5_000)
    pairs = np.stack([lengths, random.permutation(lengths)], axis=1)
    mixture = bw.Mixture(random.integers(0, 3, lengths.size), weights={0: 3, 1: 2, 2: 1})
    return {
        "tokens": bw.Planner(lengths, max_tokens=4_096, world_size=2, accumulate=4),
        "pairs": bw.Planner(pairs, max_tokens=4_096),
        "packed": bw.Planner(lengths, batching=bw.Packing(4_096), world_size=3),
        "buckets": bw.Planner(lengths, batching=bw.Buckets(8, max_tokens=4_096)),
        "fixed": bw.Planner(lengths, batching=bw.FixedSize(32), cost="quadratic", world_size=4),
        "update": bw.Planner(lengths, max_tokens=2_048, step_tokens=20_000),
        "mixture": bw.Planner(lengths, max_tokens=4_096, order=mixture),
        "easy first": bw.Planner(lengths, max_tokens=4_096, order=bw.Curriculum(lengths)),
    }


def main() -> None:
    for name in bw.__all__:
        getattr(bw, name)
    missing = lacking()
    assert not missing & {"numpy", "safetensors", "batchwright", "None"}, missing
    digests = {
        f"{name} {epoch}": planner(epoch).digest()
        for name, planner in planners().items()
        for epoch in range(3)
    }
    versions = [platform.python_version(), np.__version__, safetensors.__version__]
    print(json.dumps({"versions": versions, "digests": digests}))


if __name__ == "__main__":
    main()
