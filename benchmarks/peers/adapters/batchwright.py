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

    known = bw.Planner(lengths, batching=batching, **steps) if setting.get("again") else None

    def plan(turn):
        planned = known(turn) if known else bw.plan(lengths, batching=batching, epoch=turn, **steps)
        return planned.indices, planned.offsets

    return plan


def batches(planned):
    if isinstance(planned, tuple):
        return planned
    order = np.argsort(planned, kind="stable")
    return order, np.concatenate(([0], np.cumsum(np.bincount(planned))))
