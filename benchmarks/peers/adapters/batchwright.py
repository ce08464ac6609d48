"""Batchwright itself, run in a worker like any peer."""

import numpy as np

import batchwright as bw

VERSION = bw.__version__


def planner(lengths, setting):
    budget = setting["budget"]
    if setting["kind"] == "balance":
        return lambda _: bw.balance(lengths, setting["parts"])
    batching = bw.TokenBudget(budget) if setting["kind"] == "padded" else bw.Packing(budget)
    steps = {key: setting[key] for key in ("world_size", "accumulate") if key in setting}

    def plan(turn):
        return bw.plan(lengths, batching=batching, epoch=turn, **steps)

    return plan


def batches(planned):
    if isinstance(planned, bw.Plan):
        return planned.indices, planned.offsets
    order = np.argsort(planned, kind="stable")
    return order, np.concatenate(([0], np.cumsum(np.bincount(planned))))
