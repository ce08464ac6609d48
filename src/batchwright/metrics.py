"""What an update was worth, as plain numbers for any logger."""

import math
from typing import Protocol

from batchwright.stats.running import Figures


class _Session(Protocol):
    @property
    def skipped(self) -> int: ...
    @property
    def splits(self) -> int: ...


class _Update(Protocol):
    @property
    def session(self) -> _Session: ...
    @property
    def scale(self) -> float: ...
    @property
    def seconds(self) -> float: ...


class _Window(Protocol):
    @property
    def figures(self) -> Figures | None: ...
    @property
    def seconds(self) -> float: ...


def of(update: _Update, window: _Window) -> dict[str, float]:
    """Return the figures of an update that has ended.

    - `padding`: the share of the tokens as laid out that is padding, 0 to 1.
    - `tokens`: real tokens.
    - `tokens_per_second`: real tokens a second, from waiting for the batches to the end of the
      update.
    - `dispersion`: how unlike the data the update is in length. A plain shuffle comes to 1 in the
      mean of many updates, more even updates to less, and length-sorted ones to tens or hundreds.
      The mean over an epoch is about that of ``plan.stats``.
    - `data_wait`: the share of that time that the loop waited for batches, 0 to 1.
    - `loss_scale`: what the loss was multiplied by; 1 where nothing is scaled.
    - `skipped`: updates so far that were not applied, over the whole run.
    - `splits`: batches so far that were split for lack of memory, of this rank in this process.

    The first four are of all ranks together, without communication, and come from the plan: they
    are missing without a `Planner` (another loader, or one `Plan`, which holds no lengths). Times
    are this rank's. Until the update has ended, they are missing. No tensor is read.

    Costs some microseconds and about 50 ns for each sample of the update. The first call also goes
    through all lengths; of a `LengthIndex` it makes them, 8 bytes a sample.

    Args:
        update: From `Precision.update`, once its ``with`` block has ended.
        window: The window of that update, from `windows`.

    Example:
        >>> import torch
        >>> from batchwright import Planner
        >>> from batchwright.torch import PadCollator, PlanLoader, Precision, windows
        >>> dataset = [torch.ones(n, 1) for n in (5, 3, 8, 2)]
        >>> planner = Planner([len(each) for each in dataset], max_tokens=16, accumulate=2)
        >>> loader = PlanLoader(dataset, planner, collate_fn=PadCollator())
        >>> model, precision = torch.nn.Linear(1, 1), Precision("fp32")
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> for window in windows(loader):
        ...     with precision.update(model, optimizer, weight=window.tokens) as update:
        ...         for batch in window:
        ...             update.backward(lambda model, rows: model(rows).square().sum(), batch)
        ...     found = of(update, window)
        >>> found["tokens"], round(found["padding"], 2), found["skipped"]
        (18.0, 0.18, 0.0)
    """
    found: dict[str, float] = {}
    figures, seconds = window.figures, window.seconds + update.seconds
    if figures is not None:
        found |= {
            "padding": figures.padding,
            "tokens": float(figures.tokens),
            "dispersion": figures.dispersion,
        }
    if seconds > 0 and math.isfinite(seconds):
        found["data_wait"] = window.seconds / seconds
        if figures is not None:
            found["tokens_per_second"] = figures.tokens / seconds
    return found | {
        "loss_scale": float(update.scale),
        "skipped": float(update.session.skipped),
        "splits": float(update.session.splits),
    }
