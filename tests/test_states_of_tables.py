"""States of `LossTable` and `Dynamics`: exact after any checkpoint, refused if edited."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch

import batchwright as bw
from batchwright.difficulty import Dynamics, noise_rate, out_of_fold
from tests.test_array_files import a_table, dynamics_of, state_of

GOOD = a_table().state_dict()
DYNAMICS = dynamics_of().state_dict()


def as_tensors(state):
    return {
        name: torch.as_tensor(value) if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }


def as_json(state):
    listed = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in state.items()
    }
    return json.loads(json.dumps(listed))


FORMS = {
    "arrays": dict,
    "tensors": as_tensors,
    "lists": as_json,
    "pickled": lambda state: pickle.loads(pickle.dumps(state)),  # noqa: S301
    "numpy scalars": lambda state: {
        name: np.int64(value) if isinstance(value, int) else value for name, value in state.items()
    },
    "double": lambda state: {
        name: value.astype(np.float64) if getattr(value, "dtype", 0) == np.float32 else value
        for name, value in state.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", [a_table, dynamics_of, lambda: bw.LossTable(5)])
def test_a_state_may_have_been_through_a_checkpoint(form, make):
    made = make()
    other = Dynamics(5, decay=0.8) if isinstance(made, Dynamics) else bw.LossTable(5)
    other.load_state_dict(FORMS[form](made.state_dict()))
    assert repr(state_of(other)) == repr(state_of(made))
    if isinstance(made, bw.LossTable):
        assert other.losses.dtype == np.float32
        assert other.recorded.dtype == np.int64


WRONG_TABLES = {
    "nothing": {},
    "none": None,
    "a list": [1, 2],
    **{f"without {name}": {k: v for k, v in GOOD.items() if k != name} for name in GOOD},
    "another key": GOOD | {"more": 1},
    "a cut of no epoch": GOOD | {"cut": None},
    "shorter in the cut": GOOD | {"cut_recorded": np.arange(3)},
    "2-D": GOOD | {"losses": GOOD["losses"].reshape(1, 5)},
    "text": GOOD | {"losses": ["a"] * 5},
    "objects": GOOD | {"losses": [None] * 5},
    "ragged": GOOD | {"losses": [[1], [1, 2], 1, 1, 1]},
    "booleans": GOOD | {"losses": np.ones(5, dtype=bool)},
    "complex": GOOD | {"losses": np.ones(5, dtype=complex)},
    "fractions": GOOD | {"recorded": GOOD["recorded"] + 0.5},
    "too large for the type": GOOD | {"losses": GOOD["losses"].astype(float) * 1e300},
    "too fine for the type": GOOD | {"losses": GOOD["losses"].astype(float) + 1e-12},
    "infinite": GOOD | {"losses": np.where(np.isnan(GOOD["losses"]), np.nan, np.inf)},
    "negative times": GOOD | {"recorded": -GOOD["recorded"]},
    "losses of samples never seen": GOOD | {"losses": np.ones(5, dtype=np.float32)},
    "no losses of samples seen": GOOD | {"losses": np.full(5, np.nan)},
    "the cut after the table": GOOD | {"cut_recorded": GOOD["cut_recorded"] * 2, "calls": 2},
    "another loss in the cut": GOOD | {"cut_losses": GOOD["cut_losses"] + np.float32(1)},
    "epoch -1": GOOD | {"cut": -1},
    "epoch 1.5": GOOD | {"cut": 1.5},
    **{
        f"calls {calls!r}": GOOD | {"calls": calls}
        for calls in (10**30, -1, 1, 3, None, 2.0, "2", [2, 2], True, float("nan"))
    },
}


def test_an_edited_state_of_losses_is_refused_and_changes_nothing():
    table = a_table()
    before = repr(state_of(table))
    for wrong, state in WRONG_TABLES.items():
        with pytest.raises(bw.errors.LengthsError, match="not a state of LossTable") as error:
            pytest.fail(f"{wrong}: {table.load_state_dict(state)}")
        assert "\n" not in str(error.value)
        assert repr(state_of(table)) == before, wrong


def edited(name, index, value):
    column = DYNAMICS[name].copy()
    column[index] = value
    return DYNAMICS | {name: column}


WRONG_DYNAMICS = {
    "nothing": {},
    "none": None,
    **{f"without {name}": {k: v for k, v in DYNAMICS.items() if k != name} for name in DYNAMICS},
    "another key": DYNAMICS | {"more": np.zeros(5)},
    "other samples": {name: value[:3] for name, value in DYNAMICS.items()},
    "another decay": DYNAMICS | {"decay": np.array([0.5])},
    "decays": DYNAMICS | {"decay": np.array([0.8, 0.8])},
    "a decay of text": DYNAMICS | {"decay": "0.8"},
    "half a time": edited("count", 0, 2.5),
    "infinitely often": edited("count", 0, np.inf),
    "never, and yet": edited("count", 0, 0),
    "a confidence above 1": edited("confidence", 0, 1.5),
    "a confidence of NaN": edited("confidence", 0, np.nan),
    "a negative spread": edited("spread", 0, -1),
    "right more often than seen": edited("correct", 0, 9),
    "forgotten more often than seen": edited("forgotten", 0, 9),
    "a margin of NaN": edited("margin", 0, np.nan),
    "a negative error": edited("error", 0, -1),
    "neither right nor wrong": edited("first", 0, 5),
    "last never seen": edited("last", 0, -1),
    "2-D": DYNAMICS | {"loss": DYNAMICS["loss"].reshape(1, 5)},
}


def test_an_edited_state_of_dynamics_is_refused_and_changes_nothing():
    dynamics = Dynamics(5, decay=0.8)
    before = repr(state_of(dynamics))
    for wrong, state in WRONG_DYNAMICS.items():
        with pytest.raises(bw.errors.LengthsError, match="state") as error:
            pytest.fail(f"{wrong}: {dynamics.load_state_dict(state)}")
        assert "\n" not in str(error.value)
        assert repr(state_of(dynamics)) == before, wrong


def test_losses_of_any_size_are_recorded_as_a_state_can_keep_them():
    table = bw.LossTable(4)
    table.record([0, 1, 2, 3], [1e300, -1e300, np.inf, np.nan])
    assert np.isfinite(table.losses).all()
    bw.LossTable(4).load_state_dict(table.state_dict())


def test_a_state_is_a_copy():
    table = a_table()
    before = repr(state_of(table))
    for value in table.state_dict().values():
        if isinstance(value, np.ndarray):
            value[:] = 0
    assert repr(state_of(table)) == before


@pytest.mark.parametrize("indices", [[0.7, 1.2], [True, False], ["0", "1"], [None, 1]])
def test_indices_of_losses_are_whole_numbers(indices):
    with pytest.raises(bw.errors.LengthsError, match="indices"):
        bw.LossTable(3).record(indices, [1.0, 2.0])


@pytest.mark.parametrize("size", [0, -1, 2.5, "3", None, True])
def test_sizes_are_whole_numbers(size):
    with pytest.raises(bw.errors.LengthsError, match=r"LossTable\("):
        bw.LossTable(size)


@pytest.mark.parametrize("make", [a_table, dynamics_of, lambda: bw.LossTable(5)])
def test_tables_can_be_pickled(make):
    made = make()
    assert repr(state_of(pickle.loads(pickle.dumps(made)))) == repr(state_of(made))  # noqa: S301


def scores_of_many_kinds():
    """One object of each public class of scores, after use."""
    features = np.random.default_rng(0).normal(size=(40, 3))
    labels = np.arange(40) % 2
    folds = out_of_fold(features, labels)
    order = bw.SelfPaced(a_table(), noise_rate=0.2)
    order(np.array([5, 5, 5, 5, 5]), seed=0, epoch=1)
    return {
        "table": a_table(),
        "dynamics": dynamics_of(),
        "folds": folds,
        "noise": noise_rate(folds.probabilities, labels),
        "order": order,
        "dropping": bw.UnbiasedDropping(a_table(), drop=0.2, until=9),
    }


@pytest.mark.slow
def test_scores_reach_processes_that_are_spawned():
    made = scores_of_many_kinds()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        returned = pool.map(identity, made.values())
    for one, other in zip(made.values(), returned, strict=True):
        assert plain(one) == plain(other)


def plain(value):
    """Take an object apart into what can be compared."""
    if isinstance(value, np.ndarray):
        return repr((value.dtype, value.tolist()))
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [type(value), plain(vars(value))] if hasattr(value, "__dict__") else value


def identity(value):
    return value
