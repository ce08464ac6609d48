"""The latest loss of every sample, from which orders choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from batchwright.errors import PlanError, ScoresError
from batchwright.typing import FloatArray, IntArray

if TYPE_CHECKING:
    from pathlib import Path

_METADATA = "batchwright-loss-table"

LossArray = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cut:
    """Losses as they were when an epoch began: what its plan is made from.

    Attributes:
        epoch: The epoch.
        losses: float32[n], NaN where a sample has never been seen.
        recorded: int64[n], when each was recorded last; 0 where never.
    """

    epoch: int
    losses: LossArray
    recorded: IntArray


class LossTable:
    """Live losses, one for each sample.

    Losses are recorded as training goes on, in any sequence. An epoch's plan is made from the
    losses as they were when it began (the *cut*), and goes by that cut until it ends, also after
    a resume: save `state_dict()` with every checkpoint. On several ranks, tables have to be
    the same when an epoch begins; `batchwright.torch.LiveLosses` takes care of that.

    Args:
        num_samples: How many samples there are.
        smoothing: Share of the old loss in the new one (an exponential moving average). 0: the
            latest loss alone counts.

    Attributes:
        losses: float32[n], NaN where a sample has never been seen.
        recorded: int64[n], when each was recorded last, in calls of `record`; 0 where never.
        pending: Losses that were buffered and not yet recorded; no epoch may begin meanwhile.

    Raises:
        ScoresError: If the settings make no sense.

    Example:
        >>> table = LossTable(3)
        >>> table.record([2, 0, 2], [1.0, 5.0, 3.0])
        >>> table.losses
        array([ 5., nan,  2.], dtype=float32)
    """

    def __init__(self, num_samples: int, *, smoothing: float = 0.0) -> None:
        if num_samples < 1 or not 0 <= smoothing < 1:
            raise ScoresError(
                f"LossTable({num_samples}, smoothing={smoothing}): expected at least 1 sample, and "
                "a smoothing of 0 or more, below 1."
            )
        self.losses: LossArray = np.full(num_samples, np.nan, dtype=np.float32)
        self.recorded: IntArray = np.zeros(num_samples, dtype=np.int64)
        self.smoothing = smoothing
        self.pending = 0
        self._calls = 0
        self._cut: Cut | None = None

    def record(self, indices: npt.ArrayLike, losses: npt.ArrayLike) -> None:
        """Take down losses; of a sample that is there twice, their mean.

        A loss that is not finite is taken for the largest there is: the sample counts as hard.

        Args:
            indices: int[m], the samples.
            losses: float[m], their losses.

        Raises:
            ScoresError: If the two differ in number, or a sample is not there.
        """
        samples = np.asarray(indices, dtype=np.int64).ravel()
        values = np.asarray(losses, dtype=np.float64).ravel()
        if samples.size != values.size:
            raise ScoresError(f"{samples.size} indices for {values.size} losses.")
        if not samples.size:
            return
        if samples.min() < 0 or samples.max() >= self.losses.size:
            raise ScoresError(
                f"losses of samples {samples.min()} to {samples.max()}, there are 0 to "
                f"{self.losses.size - 1}."
            )
        values = np.where(np.isfinite(values), values, np.finfo(np.float32).max)
        order = np.argsort(samples, kind="stable")
        ordered = samples[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        sums = np.add.reduceat(values[order], starts)
        means = sums / np.diff(np.append(starts, ordered.size))
        own = ordered[starts]
        old = self.losses[own].astype(np.float64)
        kept = np.where(np.isnan(old), 0.0, self.smoothing)
        new = kept * np.nan_to_num(old) + (1 - kept) * means
        self._calls += 1
        self.losses[own] = new.astype(np.float32)
        self.recorded[own] = self._calls

    def cut(self, epoch: int) -> Cut:
        """Return the losses that an epoch's plan is made from: those of when it first asked.

        Args:
            epoch: The epoch; asking for another one than last time makes a new cut.

        Returns:
            The cut, copies of the columns.

        Raises:
            PlanError: If losses are buffered that no rank has recorded yet.
        """
        if self._cut is None or self._cut.epoch != epoch:
            if self.pending:
                raise PlanError(
                    f"{self.pending} losses have not been shared among ranks yet. Call sync() of "
                    "LiveLosses on every rank before the next epoch begins."
                )
            self._cut = Cut(epoch, self.losses.copy(), self.recorded.copy())
        return self._cut

    def ages(self, percentiles: npt.ArrayLike = (50, 90, 100)) -> FloatArray:
        """Tell how old the losses are: percentiles, in calls of `record` since each was recorded.

        Args:
            percentiles: float[q], between 0 and 100.

        Returns:
            float64[q]; a sample that has never been seen is as old as the table.
        """
        ages: FloatArray = np.percentile(
            self._calls - self.recorded, np.asarray(percentiles, dtype=np.float64)
        )
        return ages

    def save(self, path: str | Path) -> None:
        """Write the state as a safetensors file, beside a checkpoint.

        Args:
            path: Where to; an existing file is replaced once the new one is whole.
        """
        import json  # files are for the few: `import batchwright` does without what reads them
        import os
        from pathlib import Path

        from safetensors.numpy import save_file

        target = Path(path)
        state = self.state_dict()
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        told = {"calls": state["calls"], "cut": state["cut"]}
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        save_file(arrays, unfinished, metadata={_METADATA: json.dumps(told)})
        unfinished.replace(target)

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            ScoresError: If it is no such file, or of another number of samples.
        """
        import json
        from pathlib import Path

        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(Path(path), "numpy") as file:
                told = json.loads((file.metadata() or {})[_METADATA])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ScoresError(
                f"{path}: not a file of a LossTable ({type(error).__name__}: {error})."
            ) from error
        self.load_state_dict(told | arrays)

    def state_dict(self) -> dict[str, Any]:
        """Return what an exact resume needs: the table, and the cut of the present epoch."""
        state = {"losses": self.losses.copy(), "recorded": self.recorded.copy()}
        if self._cut is not None:
            state["cut_losses"], state["cut_recorded"] = self._cut.losses, self._cut.recorded
        return {"calls": self._calls, "cut": self._cut and self._cut.epoch, **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ScoresError: If it is of another number of samples, or no state.
        """
        try:
            losses = np.array(state["losses"], dtype=np.float32)
            recorded = np.array(state["recorded"], dtype=np.int64)
            calls, epoch = int(state["calls"]), state["cut"]
            cut = None
            if epoch is not None:
                columns = (state["cut_losses"], state["cut_recorded"])
                first, second = (np.array(each) for each in columns)
                cut = Cut(int(epoch), first.astype(np.float32), second.astype(np.int64))
        except (KeyError, TypeError, ValueError) as error:
            raise ScoresError(
                f"not a state of LossTable ({type(error).__name__}: {error}). Load what "
                "state_dict() returned."
            ) from error
        sizes = {losses.size, recorded.size} | ({cut.losses.size} if cut else set())
        if sizes != {self.losses.size}:
            raise ScoresError(
                f"the state holds losses of {losses.size:,} samples, the table "
                f"{self.losses.size:,}. Resume with the same data."
            )
        self.losses, self.recorded = losses, recorded
        self._calls, self._cut = calls, cut
