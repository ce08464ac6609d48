"""How much memory a training step takes, before it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from batchwright._checks import check_positive
from batchwright._format import mebibytes
from batchwright.batching import TokenBudget
from batchwright.errors import BudgetError
from batchwright.lengths import as_lengths
from batchwright.torch.memory.fitting import Findings, Probe, find, heights, rows_within
from batchwright.torch.memory.steps import Autocast, MakeBatch, Task
from batchwright.torch.update.passes import LossSum
from batchwright.typing import IntArray, IntoLengths

_SHOWN = 0.001

_CURES = {
    "logits": (
        "torch.nn.functional.linear_cross_entropy(hidden, weight, targets, reduction='sum', "
        "options=torch.nn.LinearCrossEntropyOptions()) in place of the last layer and "
        "cross_entropy: it never holds the logits of all tokens"
        if hasattr(functional, "linear_cross_entropy")
        else "the last layer and cross_entropy over chunks of tokens, each inside "
        "torch.utils.checkpoint.checkpoint; newer releases of torch have "
        "torch.nn.functional.linear_cross_entropy"
    ),
    "attention scores": (
        "torch.nn.functional.scaled_dot_product_attention, whose kernels keep no scores; dropout "
        "in attention, a mask or a type can make it fall back to one that does"
    ),
    "activations": "torch.utils.checkpoint.checkpoint around each layer, or autocast to bfloat16",
    "backward pass": "torch.utils.checkpoint.checkpoint around smaller parts, or smaller batches",
    "copies of weights": "parameters in the type that autocast would cast them to",
    "gradients": "fewer parameters with requires_grad, or gradients sharded over ranks",
    "optimizer step": "the optimizer with fused=True, or foreach=False: no temporary copies",
    "optimizer state": "an optimizer that keeps less, or states sharded over ranks",
    "parameters": "parameters in bfloat16, or sharded over ranks",
}


class Part(NamedTuple):
    """Some of the bytes of a peak: their number, their share of it, and what lowers them."""

    name: str
    bytes: int
    share: float
    cure: str | None


@dataclass(frozen=True)
class Explanation:
    """What the peak of a step consists of: parts by use and the largest tensors, largest first.

    Shares and tensors are those of the most similar step that was tried.
    """

    rows: int
    length: int
    peak: int  # bytes, state included
    parts: tuple[Part, ...]
    tensors: tuple[str, ...]

    @property
    def dominant(self) -> Part:
        """The largest part."""
        return self.parts[0]

    def __str__(self) -> str:
        """List the parts, the largest tensors, and what lowers the largest part."""
        lines = [f"{self.rows} × {self.length}: {mebibytes(self.peak)} MiB at the peak of a step"]
        lines += [
            f"  {each.name:<17} {mebibytes(each.bytes):>9} MiB {each.share:6.1%}"
            for each in self.parts
            if each.share >= _SHOWN
        ]
        lines += [f"  e.g. {each}" for each in self.tensors]
        if self.dominant.cure is not None:
            lines.append(f"  to lower {self.dominant.name}, use {self.dominant.cure}")
        return "\n".join(lines)


@dataclass(frozen=True, eq=False, repr=False)
class RowsByLength:
    """The most rows of a batch, as a function of their padded length: int64[m] → int64[m].

    Where attention keeps its scores, longer rows cost more per token: a budget of tokens that is
    right for long rows is too small for short ones. Raises BudgetError for a length beyond the
    table, in which entry L is for rows of length L.

    Example:
        >>> rows = RowsByLength(np.array([9, 9, 4, 2]))
        >>> rows([3, 1]).tolist(), rows
        ([2, 9], RowsByLength(9 rows of length 1 … 2 of length 3))
    """

    rows: IntArray

    def __call__(self, lengths: npt.ArrayLike) -> IntArray:
        """Return the most rows for each length."""
        asked = as_lengths(lengths)
        _check_length(int(asked.max()), self.rows.size - 1)
        most: IntArray = self.rows[asked]
        return most

    def __repr__(self) -> str:
        first, last = int(self.rows[1]), int(self.rows[-1])
        return f"RowsByLength({first} rows of length 1 … {last} of length {self.rows.size - 1})"

    @property
    def max_tokens(self) -> int:
        """The most tokens of a batch at any length, padding included."""
        return int((self.rows * np.arange(self.rows.size)).max())


@dataclass(frozen=True)
class MemoryModel:
    """Predicts the peak memory of a training step from the shape of its batch; suggests budgets.

    Made by `MemoryModel.fit`. The peak is what is held throughout training (the *state*:
    parameters, buffers, optimizer state, gradients that stay) plus what a step adds: ``a + b·B·L
    + c·B·L²`` bytes for B rows of length L, the highest of a few such curves. Budgets keep
    `margin` of a step's bytes free, beyond the largest ratio of measured to predicted bytes.
    """

    findings: Findings = field(repr=False)  # state, curves, shapes tried, confirming steps
    _: KW_ONLY
    shortest: int  # the lengths it was fitted for
    longest: int
    limit: int  # bytes
    margin: float
    device: str  # its type

    @classmethod
    def fit(
        cls,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        loss_sum: LossSum,
        make_batch: MakeBatch,
        *,
        lengths: IntoLengths,
        limit: int,
        autocast: Autocast = None,
        accumulate: int | None = None,
        margin: float = 0.05,
        confirm: bool = True,
        measure: bool = True,
    ) -> Self:
        """Fit a memory model to a training step.

        Runs the step on fake tensors, which take no memory, at about ten shapes that fill the
        limit, and two real steps to measure what kernels take for themselves. Where a step needs
        to see values, growing real steps are measured instead. Model, optimizers and random states
        stay as they were; in real steps a copy of parameters and states is kept on the CPU.

        Args:
            model: The model, on its device, not wrapped for several processes.
            optimizer: Its optimizer, or several.
            loss_sum: ``(model, batch) → the sum of the loss``.
            make_batch: ``(rows, length) → a batch`` of that shape, on the device that the loss
                expects: a tensor, or a dict or tuple of tensors with the rows in dimension 0.
            lengths: integer[n], the lengths of the data.
            limit: Bytes that training may take, state included. On a GPU, leave some of the
                device for what the allocator keeps in reserve.
            autocast: What the forward pass runs in: a type for `torch.autocast`, or a function
                that makes a context. None: nothing.
            accumulate: Batches of an update. 1: gradients are freed after each batch. More, or
                None for unknown: they are there from the start.
            margin: Share of a step's bytes to keep free for fragmentation and the fit's error.
            confirm: Run the two real steps.
            measure: Run growing real steps where fake ones fail.

        Raises:
            BudgetError: If the limit leaves no room for one row of the longest length; if batches
                have other shapes than asked for; if the model cannot be copied.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50))
            >>> memory = MemoryModel.fit(
            ...     model,
            ...     torch.optim.AdamW(model.parameters()),
            ...     lambda model, tokens: model(tokens).logsumexp(-1).sum(),
            ...     lambda rows, length: torch.zeros(rows, length, dtype=torch.long),
            ...     lengths=[4, 64],
            ...     limit=2**20,
            ...     confirm=False,
            ... )
            >>> memory.max_batch(64) * 64 <= memory.max_tokens() < 2_000
            True
            >>> memory.explain(16, 64).dominant.name
            'backward pass'
        """
        check_positive("MemoryModel.fit", limit=limit, accumulate=accumulate)
        if not 0.0 <= margin < 1.0:
            raise BudgetError(f"MemoryModel.fit(margin={margin!r}): expected 0 or more, below 1.")
        distinct = np.unique(as_lengths(lengths)).astype(np.int64)
        several = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else optimizer
        task = Task(model, tuple(several), loss_sum, make_batch, autocast, accumulate != 1)
        memory = cls(
            find(task, distinct, limit, margin=margin, confirm=confirm, measure=measure),
            shortest=int(distinct[0]),
            longest=int(distinct[-1]),
            limit=limit,
            margin=margin,
            device=task.device.type,
        )
        memory.max_batch(memory.longest)  # raises if not even one row fits
        return memory

    @property
    def how(self) -> str:
        """How peaks were found: on ``"fake"`` tensors, or ``"measured"`` in real steps."""
        return "fake" if self.findings.reason is None else "measured"

    @property
    def state_bytes(self) -> int:
        """Bytes held throughout training."""
        return self.findings.state.total

    def peak(self, rows: int, length: int) -> int:
        """Predict the peak of a step of some rows and padded length, in bytes, without the margin.

        Raises:
            BudgetError: If the length is above the longest that was fitted.
        """
        check_positive("peak", rows=rows, length=length)
        _check_length(length, self.longest)
        step = self.findings.ratio * float(heights(self.findings.curves, rows, length))
        return self.state_bytes + int(np.ceil(step))

    def max_batch(self, length: int) -> int:
        """Return how many rows of a padded length fit, at least 1.

        Lengths below the shortest that was fitted count as the shortest.

        Raises:
            BudgetError: If the length is above the longest that was fitted; if not even one row
                fits, naming what takes the most.
        """
        check_positive("max_batch", length=length)
        return int(self._fitting(np.array([length]))[0])

    def rows_by_length(self) -> RowsByLength:
        """Return how many rows fit for every length up to the longest: `max_batch`, as a table."""
        return RowsByLength(self._fitting(np.arange(self.longest + 1)))

    def max_tokens(self) -> int:
        """Return the largest budget of padded tokens that is safe for rows of every length.

        Raises:
            BudgetError: If no single budget suits all lengths.
        """
        lengths = np.arange(self.shortest, self.longest + 1)
        # A budget T allows T // L rows: raise it until some length would get a row too many.
        budget = int(((self._fitting(lengths) + 1) * lengths).min()) - 1
        if budget < self.longest:
            raise BudgetError(
                f"no single budget of tokens suits lengths from {self.shortest} to {self.longest}: "
                f"rows of the shortest allow {budget:,} tokens. Use token_budget, or max_batch per "
                "length."
            )
        return budget

    def token_budget(self, **options: Any) -> TokenBudget:
        """Return a batching that keeps within the limit, with a budget for every length.

        Short rows may hold more tokens than long ones: it is ``TokenBudget(rows.max_tokens,
        max_samples=rows, **options)`` with ``rows = rows_by_length()``.
        """
        rows = self.rows_by_length()
        return TokenBudget(rows.max_tokens, max_samples=rows, **options)

    def explain(self, rows: int, length: int) -> Explanation:
        """Say what the peak of a step consists of, and what lowers it. Print it to read it."""
        peak, ratio = self.peak(rows, length), max(self.findings.ratio, 1.0)

        def unlike(probe: Probe) -> float:
            tokens = np.log(probe.rows * probe.length / (rows * length))
            return float(abs(tokens) + abs(np.log(probe.length / length)))

        probe = min(self.findings.probes, key=unlike)
        parts = dict(probe.parts) or {"the step": 1}
        step = (peak - self.state_bytes) / ratio
        sizes = {name: step * size / sum(parts.values()) for name, size in parts.items()}
        sizes["kernel workspace"] = step * (ratio - 1.0)
        names = ("parameters", "buffers", "gradients", "optimizer state")
        for name, size in zip(names, self.findings.state, strict=True):
            sizes[name] = sizes.get(name, 0.0) + size
        found = [
            Part(name, round(size), size / peak, _CURES.get(name))
            for name, size in sizes.items()
            if round(size)
        ]
        found.sort(key=lambda part: -part.bytes)
        return Explanation(rows, length, peak, tuple(found), probe.tensors)

    def _fitting(self, lengths: IntArray) -> IntArray:
        """Return how many rows of each length fit beside state and margin, at least 1."""
        _check_length(int(lengths.max()), self.longest)
        capacity = (self.limit - self.state_bytes) / ((1 + self.margin) * self.findings.ratio)
        rows = rows_within(self.findings.curves, capacity, np.maximum(lengths, self.shortest))
        if rows.min() < 1:
            length = int(lengths[int(rows.argmin())])
            explanation = self.explain(1, length)
            most = explanation.dominant
            cure = "" if most.cure is None else f" To lower it, use {most.cure}."
            raise BudgetError(
                f"limit={self.limit:,} bytes is below one row of length {length}, which takes "
                f"{explanation.peak:,} and a margin of {self.margin:.0%} of the step. Most of it "
                f"is {most.name} ({most.share:.0%}).{cure}"
            )
        return np.minimum(rows, 2.0**53).astype(np.int64)


def _check_length(length: int, longest: int) -> None:
    if length > longest:
        raise BudgetError(
            f"length {length} is above {longest}, the longest that the memory model was fitted "
            "for. Fit it with such lengths, rounded up if rows are padded to a multiple."
        )
