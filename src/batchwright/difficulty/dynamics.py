"""Difficulty by how training went: running figures per sample, updated with every batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from batchwright._array_file import Kind, check_seal, load_arrays, save_arrays, sealed
from batchwright._checks import whole_number
from batchwright._format import one_line
from batchwright._records import keep_back
from batchwright._states import check_keys, check_that, state_array
from batchwright.difficulty.scores import (
    SMALLEST,
    as_labels,
    as_probabilities,
    check_classes,
)
from batchwright.errors import LengthsError
from batchwright.order.scores import as_array
from batchwright.typing import FloatArray, IntArray, LengthArray, State

COLUMNS: dict[str, type[np.generic]] = {
    **dict.fromkeys(("count", "confidence", "spread", "correct", "forgotten"), np.float32),
    **dict.fromkeys(("margin", "error", "loss"), np.float32),
    **dict.fromkeys(("first", "last"), np.int8),
}
"""What is kept of each sample, 34 bytes: how often it was seen; mean and sum of squared deviations
of p; how often it was right, and forgotten; sums of margins and errors; the decaying sum of losses;
and whether it was right the first and the last time, or -1."""

_OWNER = "Dynamics"
_KIND = Kind(
    "batchwright-dynamics", "2", "training dynamics", "Make such a file with Dynamics.save."
)

_Columns: TypeAlias = dict[str, np.ndarray]


class Dynamics:
    """Training dynamics: what the model said of each sample every time it saw it.

    Fill it while training, with what the forward pass computes anyway. Samples that were never
    recorded have NaN in every figure. A sample that occurs twice in a batch counts twice, in the
    order of the batch.

    Args:
        num_samples: n.
        decay: The share of an older loss that `ema_loss` keeps with every new one.

    Raises:
        LengthsError: There are no samples, or the decay is not in [0, 1).

    Source:
        Swayamdipta et al., 2020, arXiv:2009.10795 (`confidence`, `variability`, `correctness`);
        Toneva et al., 2018, arXiv:1812.05159 (`forgetting`); Paul et al., 2021, arXiv:2107.07075
        (`el2n`); Pleiss et al., 2020, arXiv:2001.10528 (`aum`).

    Example:
        >>> dynamics = Dynamics(3)
        >>> for p in (0.2, 0.9, 0.4):  # of the right class, of two
        ...     dynamics.record([1], [[p, 1 - p]], [0])
        >>> dynamics.confidence
        array([nan, 0.5, nan])
        >>> dynamics.forgetting  # learnt once, then forgotten
        array([nan,  1., nan])
    """

    def __init__(self, num_samples: int, *, decay: float = 0.9) -> None:
        size = whole_number("Dynamics", "num_samples", num_samples, error=LengthsError)
        if not 0 <= decay < 1:
            raise LengthsError(f"Dynamics(decay={decay!r}): expected a share from 0 to below 1.")
        self.decay = float(decay)
        self._columns = {name: np.zeros(size, dtype) for name, dtype in COLUMNS.items()}
        self._columns["first"][:] = self._columns["last"][:] = -1

    @property
    def num_samples(self) -> int:
        """How many samples there are."""
        return self._columns["count"].size

    @property
    def count(self) -> IntArray:
        """int64[n]: how often each sample was recorded."""
        return self._columns["count"].astype(np.int64)

    @property
    def confidence(self) -> FloatArray:
        """float64[n]: mean probability of the labelled class. Low is hard, or wrong."""
        return self._seen(self._columns["confidence"])

    @property
    def variability(self) -> FloatArray:
        """float64[n]: standard deviation of that probability. High is ambiguous."""
        return np.sqrt(self._mean("spread"))

    @property
    def correctness(self) -> FloatArray:
        """float64[n]: share of the times that the label was the first choice."""
        return self._mean("correct")

    @property
    def forgetting(self) -> FloatArray:
        """float64[n]: how often right was followed by wrong; infinite where never right."""
        columns = self._columns
        return self._seen(np.where(columns["correct"] > 0, columns["forgotten"], np.inf))

    @property
    def el2n(self) -> FloatArray:
        """float64[n]: mean of ``‖p − y‖₂``, y one-hot. High is hard, or wrong."""
        return self._mean("error")

    @property
    def aum(self) -> FloatArray:
        """float64[n]: mean of the label's logit minus the largest other. Low is suspicious."""
        return self._mean("margin")

    @property
    def ema_loss(self) -> FloatArray:
        """float64[n]: exponential moving average of the loss, in nats, without a bias to 0."""
        count = self._columns["count"].astype(np.float64)
        weight = 1 - self.decay**count
        return self._seen(self._columns["loss"] / np.where(count > 0, weight, 1.0))

    def record(
        self,
        indices: npt.ArrayLike,
        outputs: npt.ArrayLike,
        labels: npt.ArrayLike,
        *,
        logits: bool = False,
    ) -> None:
        """Record what the model said of a batch.

        Inside a loss function that `batchwright.torch.Update.backward` runs, this is done at the
        end of the update, and passes that do not count are forgotten.

        Args:
            indices: integer[m], which samples.
            outputs: float[m, k], probabilities of the classes, at least 1e-12; or logits.
            labels: integer[m], classes from 0 to k - 1.
            logits: Whether `outputs` are logits.

        Raises:
            LengthsError: Indices or labels do not fit, or outputs are not finite or not
                distributions. Nothing was recorded then.
        """
        members = as_array(indices, "indices")
        if not members.size:
            return
        is_integer = members.ndim == 1 and members.dtype.kind in "iu"
        if not is_integer or members.min() < 0 or members.max() >= self.num_samples:
            raise LengthsError(
                f"indices are {one_line(members, 60)}: expected integer[m], samples 0 to "
                f"{self.num_samples - 1}."
            )
        rows = _rows(outputs, as_labels(labels, members.size), self.decay, is_logits=logits)

        def write() -> None:
            order = np.argsort(members, kind="stable")
            ordered = members[order]
            occurrence = np.arange(members.size) - np.searchsorted(ordered, ordered)
            for k in range(int(occurrence.max()) + 1):  # mostly once: samples seldom come twice
                own = order[occurrence == k]
                self._append(members[own], {name: values[own] for name, values in rows.items()})

        if not keep_back(self, write):
            write()

    def merge(self, other: Dynamics) -> None:
        """Add what another recorded, on another rank say, as if recorded here after what is here.

        Raises:
            LengthsError: The other has another number of samples, or another decay.
        """
        if (other.num_samples, other.decay) != (self.num_samples, self.decay):
            raise LengthsError(
                f"Dynamics of {other.num_samples} samples with decay {other.decay} cannot be "
                f"merged into those of {self.num_samples} with {self.decay}."
            )
        members = np.flatnonzero(other._columns["count"])
        self._append(members, {name: c[members] for name, c in other._columns.items()})

    def state_dict(self) -> State:
        """Return copies of all arrays, by name."""
        state = {name: column.copy() for name, column in self._columns.items()}
        return state | {"decay": np.array([self.decay])}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Replace everything by what `state_dict` returned, which a checkpoint may have converted.

        Raises:
            LengthsError: The state is of other samples or another decay, or was edited; nothing
                changed then.
        """
        check_keys(state, [*COLUMNS, "decay"], _OWNER)
        decay = state_array(state, "decay", np.float64, 1, _OWNER)
        check_that(decay == self.decay, f"its decay is not {self.decay}", _OWNER)
        size = self.num_samples
        loaded = {name: state_array(state, name, COLUMNS[name], size, _OWNER) for name in COLUMNS}
        _check_columns(loaded)
        self._columns = loaded

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all.

        Raises:
            LengthsError: The file cannot be written.
        """
        state = self.state_dict()
        save_arrays(path, state, sealed(state, _KIND.metadata), LengthsError)

    @classmethod
    def load(cls, path: str | Path) -> Dynamics:
        """Read what `save` wrote. Reading never executes code.

        Raises:
            LengthsError: The file is missing, truncated, changed, or another kind of file.
        """
        state, metadata = load_arrays(path, _KIND, LengthsError)
        check_seal(path, state, metadata, _KIND, LengthsError)
        try:
            dynamics = cls(state["count"].size, decay=state["decay"].item())
            dynamics.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise LengthsError(f"{path}: {error}. {_KIND.made_by}") from error
        return dynamics

    def _seen(self, values: np.ndarray) -> FloatArray:
        return np.where(self._columns["count"] > 0, values.astype(np.float64), np.nan)

    def _mean(self, name: str) -> FloatArray:
        count = np.maximum(self._columns["count"].astype(np.float64), 1)
        return self._seen(self._columns[name] / count)

    def _append(self, members: np.ndarray, new: _Columns) -> None:
        """Append histories of distinct samples to theirs."""
        old = {name: column[members].astype(np.float64) for name, column in self._columns.items()}
        n, m = old["count"], new["count"].astype(np.float64)
        # Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983.
        gap = new["confidence"] - old["confidence"]
        seam = (old["last"] == 1) & (new["first"] == 0)
        joined = {name: old[name] + new[name] for name in ("correct", "margin", "error")} | {
            "count": n + m,
            "confidence": old["confidence"] + gap * m / (n + m),
            "spread": old["spread"] + new["spread"] + gap**2 * n * m / (n + m),
            "forgotten": old["forgotten"] + new["forgotten"] + seam,
            "loss": old["loss"] * self.decay**m + new["loss"],
            "first": np.where(n > 0, old["first"], new["first"]),
            "last": new["last"],
        }
        for name, values in joined.items():
            self._columns[name][members] = values


def _check_columns(columns: _Columns) -> None:
    """Raise unless `record` can have made these columns."""
    count = columns["count"]
    # Rows of float16 may add up to a hundredth more than 1.
    largest = {"confidence": 1.01, "correct": count, "forgotten": count, "first": 1, "last": 1}
    for name, values in columns.items():
        least = -np.inf if name in {"margin", "loss"} else 0
        fits = np.isfinite(values) & (values >= least) & (values <= largest.get(name, np.inf))
        if name in {"count", "correct", "forgotten"}:
            fits &= values == np.floor(values)
        unseen = -1 if name in {"first", "last"} else 0
        check_that(np.where(count > 0, fits, values == unseen), f"{name!r} cannot be so", _OWNER)


def _rows(
    outputs: npt.ArrayLike, labels: LengthArray, decay: float, *, is_logits: bool
) -> _Columns:
    """Return the history that each row of a batch is by itself."""
    if is_logits:
        z = as_array(outputs, "logits").astype(np.float64)
        if z.ndim != 2 or not np.isfinite(z).all():
            raise LengthsError(f"logits have shape {list(z.shape)} or are not finite: float[m, k].")
        log_p = z - z.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        p = np.exp(log_p)
    else:
        p = as_probabilities(outputs, "outputs")
        log_p = np.log(np.maximum(p, SMALLEST))
    check_classes(labels, p.shape)
    rows = np.arange(labels.size)
    of_label, others = log_p[rows, labels], log_p.copy()
    others[rows, labels] = -np.inf
    miss = p.copy()
    miss[rows, labels] -= 1
    right = p.argmax(axis=1) == labels
    return {
        "count": np.ones(labels.size),
        "confidence": p[rows, labels],
        "spread": np.zeros(labels.size),
        "correct": right,
        "forgotten": np.zeros(labels.size),
        # A margin of logits is one of log-probabilities: softmax shifts all of them alike.
        "margin": of_label - others.max(axis=1),
        "error": np.linalg.norm(miss, axis=1),
        "loss": -of_label * (1 - decay),
        "first": right,
        "last": right,
    }
