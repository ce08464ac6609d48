"""What an order does to the data over several epochs: who is seen, how often, in what shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchwright._checks import whole_number
from batchwright.errors import PlanError
from batchwright.lengths import Lengths, total_of, totals
from batchwright.order.scores import as_groups, refuse_other_data
from batchwright.planner import Planner
from batchwright.typing import FloatArray, IntArray, State


@dataclass(frozen=True, eq=False)
class Coverage:
    """What some epochs of an order draw: arrays [e], an entry for each epoch, in sequence."""

    epochs: IntArray
    progress: FloatArray  # of the order's schedule, at the middle of the epoch. NaN: it has none
    eligible: FloatArray  # share of the samples that may be drawn then
    draws: IntArray  # samples drawn
    tokens: IntArray  # their tokens
    deferred: IntArray  # draws that did not fit the number of batches
    seen: FloatArray  # share of all samples drawn at least once until the end of the epoch
    most: IntArray  # how often the most frequent sample was drawn until then
    # (Σ c)² ÷ Σ c² of the draws c of each sample until then: as many samples, drawn alike, would
    # vary as much.
    effective_samples: FloatArray
    groups: tuple[object, ...]  # their names; empty if none were given
    shares: FloatArray  # float64[e, g], of each group in the draws
    targets: FloatArray | None  # float64[e, g], what the order aims at. None: it has no such target
    passes: FloatArray  # float64[e, g], draws of each group until then, over its size

    def facts(self) -> State:
        """Return the same as lists and numbers, for JSON."""
        listed = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, value in listed.items():
            if isinstance(value, np.ndarray):
                exact = value.astype(object)
                exact[value != value] = None  # JSON has no NaN  # noqa: PLR0124
                listed[name] = exact.tolist()
        return listed | {"groups": [str(name) for name in self.groups]}

    def __str__(self) -> str:
        """Lay the figures out, an epoch a line."""
        head = ["epoch", "progress", "eligible", "draws", "tokens", "seen", "most", "effective"]
        lines = [head + [str(name) for name in self.groups]]
        for row in range(self.epochs.size):
            cells = [
                f"{self.epochs[row]}",
                _share(self.progress[row]),
                _share(self.eligible[row]),
                f"{self.draws[row]:,}",
                f"{self.tokens[row]:,}",
                _share(self.seen[row]),
                f"{self.most[row]}",
                f"{self.effective_samples[row]:,.0f}",
            ]
            for column in range(len(self.groups)):
                target = "" if self.targets is None else f" of {self.targets[row, column]:.3f}"
                cells.append(f"{self.shares[row, column]:.3f}{target}")
            lines.append(cells)
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in lines
        )


def coverage(
    planner: Planner, *, epochs: Sequence[int] | int = 8, groups: npt.ArrayLike | None = None
) -> Coverage:
    """Count what an order draws, by planning epochs as they will be trained on.

    Args:
        planner: The planner.
        epochs: Which, or how many from the first on.
        groups: [n], group of each sample, to count shares of. None: the groups of the order
            itself, if it has any.

    Returns:
        The figures. One plan for each epoch.

    Raises:
        PlanError: If there is no epoch.
        LengthsError: If groups are not one for each sample.

    Example:
        >>> import batchwright as bw
        >>> order = bw.Curriculum([3, 1, 2, 0], pacing=bw.pacing.constant(share=0.5), epochs=2)
        >>> planner = bw.Planner([5, 5, 5, 5], batching=bw.FixedSize(2), order=order)
        >>> coverage(planner, epochs=3).seen.tolist()
        [0.5, 0.5, 1.0]
    """
    if not isinstance(planner, Planner):
        raise PlanError(f"coverage({planner!r:.60}): expected a Planner.")
    if isinstance(epochs, np.ndarray) and epochs.ndim:
        epochs = epochs.tolist()
    if isinstance(epochs, Sequence) and not isinstance(epochs, str):
        listed = [whole_number("coverage", "epochs", e, least=0, error=PlanError) for e in epochs]
        chosen = np.unique(np.array(listed, dtype=np.int64))
    else:
        chosen = np.arange(whole_number("coverage", "epochs", epochs, least=0, error=PlanError))
    if not chosen.size:
        raise PlanError("coverage of no epoch: expected at least one.")
    given = getattr(planner.order, "groups", None) if groups is None else groups
    names, labels = _labels(given, planner.num_samples)
    sizes = np.bincount(labels, minlength=len(names))
    times = np.zeros(planner.num_samples, dtype=np.int64)
    checked = Lengths.of(planner.given)
    horizon, eligible = (getattr(planner.order, name, None) for name in ("epochs", "eligible"))
    rows: list[State] = []
    for epoch in chosen.tolist():
        plan = planner(epoch)
        progress = np.nan if horizon is None else min(1.0, (epoch + 0.5) / float(horizon))
        share = np.nan if eligible is None else float(eligible(progress)) / planner.num_samples
        times += np.bincount(plan.indices, minlength=times.size)
        of_group = np.bincount(labels[plan.indices], minlength=len(names))
        until = np.bincount(labels, times, minlength=len(names))
        rows.append(
            {
                "progress": progress,
                "eligible": share,
                "draws": plan.indices.size,
                "tokens": total_of(plan.entry_lengths(checked)),
                "deferred": plan.dropped.get("deferred", np.empty(0)).size,
                "seen": np.count_nonzero(times) / times.size,
                "most": int(times.max()),
                "effective_samples": float(times.sum()) ** 2
                / float((times.astype(float) ** 2).sum()),
                "shares": of_group / plan.indices.size,
                "passes": until / np.maximum(sizes, 1),
            }
        )
    targets = _targets(planner, chosen.tolist()) if groups is None else None
    return Coverage(
        epochs=chosen,
        groups=names,
        targets=targets,
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
    )


def _labels(groups: npt.ArrayLike | None, num_samples: int) -> tuple[tuple[object, ...], IntArray]:
    if groups is None:
        return (), np.zeros(num_samples, dtype=np.int64)
    array = as_groups(groups, name="groups")
    refuse_other_data(array.size, num_samples, name="groups")
    names, labels = np.unique(array, return_inverse=True)
    return tuple(names.tolist()), labels.ravel().astype(np.int64)


def _targets(planner: Planner, epochs: list[int]) -> FloatArray | None:
    shares, draws = (getattr(planner.order, name, None) for name in ("shares", "draws"))
    if shares is None or draws is None:
        return None
    aims = [draws(totals(planner.lengths)).targets(epoch).sum(axis=0) for epoch in epochs]
    return np.array([aim / aim.sum() for aim in aims])


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
