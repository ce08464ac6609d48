"""The latest loss of every sample, from which orders choose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchwright._array_file import Kind, check_seal, load_arrays, save_arrays, sealed
from batchwright._checks import real_number, whole_number
from batchwright._records import keep_back
from batchwright._states import check_keys, check_that, parsed, state_array, state_integer
from batchwright.errors import LengthsError, PlanError
from batchwright.typing import FloatArray, IntArray, State

_OWNER = "LossTable"
_KIND = Kind("batchwright-loss-table", "1", "a loss table", "Make one with LossTable.save.")

LossArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cut:
    """Copies of the losses when an epoch began: what its plan is made from."""

    epoch: int
    losses: LossArray
    recorded: IntArray


class LossTable:
    """Record the latest loss of every sample during training.

    An epoch's plan is made from the losses as they were when it began (the *cut*), also after a
    resume: save `state_dict()` with every checkpoint. On several ranks, tables have to be the same
    when an epoch begins; `batchwright.torch.LiveLosses` shares them.

    Args:
        num_samples: How many samples there are.
        smoothing: Share of the old loss in the new one (an exponential moving average). 0: the
            latest loss alone counts.

    Attributes:
        losses: float32[n], NaN where a sample has never been seen.
        recorded: int64[n], when each was recorded last, in calls of `record`; 0 where never.
        pending: Losses that are buffered and not yet recorded; no epoch may begin meanwhile.

    Example:
        >>> table = LossTable(3)
        >>> table.record([2, 0, 2], [1.0, 5.0, 3.0])
        >>> table.losses
        array([ 5., nan,  2.], dtype=float32)
    """

    def __init__(self, num_samples: int, *, smoothing: float = 0.0) -> None:
        num_samples = whole_number(_OWNER, "num_samples", num_samples, error=LengthsError)
        expected = "a share of 0 or more, below 1"
        self.smoothing = real_number(
            _OWNER, "smoothing", smoothing, accepts=_is_share, expected=expected, error=LengthsError
        )
        self.losses: LossArray = np.full(num_samples, np.nan, dtype=np.float32)
        self.recorded: IntArray = np.zeros(num_samples, dtype=np.int64)
        self.pending = 0
        self._calls = 0
        self._cut: Cut | None = None

    def record(self, indices: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        """Record losses float[m] of samples int[m]; for a sample that is given twice, the mean.

        A loss that is not finite counts as the largest possible one. Inside a loss function that
        `batchwright.torch.Update.backward` runs, losses are recorded at the end of the update, and
        those of passes that do not count are discarded.
        """
        given = np.asarray(indices)
        if given.size and given.dtype.kind not in "iu":
            raise LengthsError(f"indices are {given.dtype}, expected integers.")
        samples = given.astype(np.int64).ravel()
        values = np.asarray(losses, dtype=np.float64).ravel()
        if samples.size != values.size:
            raise LengthsError(f"{samples.size} indices for {values.size} losses.")
        if not samples.size:
            return
        if samples.min() < 0 or samples.max() >= self.losses.size:
            raise LengthsError(
                f"losses of samples {samples.min()} to {samples.max()}, there are 0 to "
                f"{self.losses.size - 1}."
            )
        largest = float(np.finfo(np.float32).max)
        values = np.clip(np.where(np.isfinite(values), values, largest), -largest, largest)
        if not keep_back(self, lambda: self._write(samples, values)):
            self._write(samples, values)

    def _write(self, samples: IntArray, values: FloatArray) -> None:
        own, place = np.unique(samples, return_inverse=True)
        means = np.bincount(place, weights=values) / np.bincount(place)
        old = self.losses[own].astype(np.float64)
        kept = np.where(np.isnan(old), 0.0, self.smoothing)
        new = kept * np.nan_to_num(old) + (1 - kept) * means
        self._calls += 1
        self.losses[own] = new.astype(np.float32)
        self.recorded[own] = self._calls

    def cut(self, epoch: int) -> Cut:
        """Return the losses that an epoch's plan is made from: those when it was first asked for.

        Another epoch than last time makes a new cut.
        """
        if self._cut is None or self._cut.epoch != epoch:
            if self.pending:
                raise PlanError(
                    f"{self.pending} losses have not been shared among ranks yet. Call sync() of "
                    "LiveLosses on every rank before the next epoch begins."
                )
            self._cut = Cut(epoch, self.losses.copy(), self.recorded.copy())
        return self._cut

    def save(self, path: str | Path) -> None:
        """Write the state as a safetensors file; an existing one is replaced atomically."""
        arrays = self.state_dict()
        numbers = {name: arrays.pop(name) for name in ("calls", "cut")}
        metadata = _KIND.metadata | {"numbers": json.dumps(numbers)}
        save_arrays(path, arrays, sealed(arrays, metadata), LengthsError)

    def load(self, path: str | Path) -> None:
        """Load a file that `save` wrote, or raise LengthsError. Reading never executes code."""
        arrays, metadata = load_arrays(path, _KIND, LengthsError)
        check_seal(path, arrays, metadata, _KIND, LengthsError)
        try:
            state = dict(parsed(metadata.get("numbers", ""))) | arrays
        except (TypeError, ValueError) as error:
            raise LengthsError(f"{path}: damaged. {_KIND.made_by}") from error
        try:
            self.load_state_dict(state)
        except LengthsError as error:
            raise LengthsError(f"{path}: {error}") from error

    def state_dict(self) -> State:
        """Return what an exact resume needs: the table, and the cut of the present epoch."""
        state = {"losses": self.losses.copy(), "recorded": self.recorded.copy()}
        if self._cut is not None:
            state["cut_losses"] = self._cut.losses.copy()
            state["cut_recorded"] = self._cut.recorded.copy()
        return {"calls": self._calls, "cut": self._cut and self._cut.epoch, **state}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Load a state, also where a checkpoint turned its arrays into tensors or lists.

        Raises:
            LengthsError: If it is none for as many samples. The table is unchanged then.
        """
        has_cut = isinstance(state, Mapping) and state.get("cut") is not None
        names = ["losses", "recorded", "calls", "cut"]
        check_keys(state, [*names, "cut_losses", "cut_recorded"] if has_cut else names, _OWNER)
        calls = state_integer(state, "calls", _OWNER)
        losses, recorded = self._columns(state, "losses", "recorded")
        check_that(int(recorded.max()) == calls, "'calls' is not the last of 'recorded'", _OWNER)
        cut = None
        if has_cut:
            before, when = self._columns(state, "cut_losses", "cut_recorded")
            check_that(when <= recorded, "'cut_recorded' is after 'recorded'", _OWNER)
            same = np.isnan(before) | (before == losses) | (when < recorded)
            check_that(same, "'cut_losses' is not 'losses', which has not changed since,", _OWNER)
            cut = Cut(state_integer(state, "cut", _OWNER), before, when)
        self.losses, self.recorded = losses, recorded
        self._calls, self._cut = calls, cut

    def _columns(
        self, state: Mapping[str, object], losses: str, recorded: str
    ) -> tuple[LossArray, IntArray]:
        values = state_array(state, losses, np.float32, self.losses.size, _OWNER)
        when = state_array(state, recorded, np.int64, self.losses.size, _OWNER)
        check_that(~np.isinf(values), f"{losses!r} is infinite", _OWNER)
        check_that(when >= 0, f"{recorded!r} is negative", _OWNER)
        check_that((when == 0) == np.isnan(values), f"{losses!r} contradicts {recorded!r}", _OWNER)
        return values, when


def _is_share(number: float) -> bool:
    return 0 <= number < 1
