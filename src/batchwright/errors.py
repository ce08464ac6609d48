"""The errors of Batchwright: one family, each also the built-in that a user would catch.

Every message says what was given, what was expected, and what to do about it.
"""

__all__ = [
    "BatchwrightError",
    "BudgetError",
    "ColumnNotFoundError",
    "LengthsError",
    "LossError",
    "MissingExtraError",
    "PlanError",
    "PrecisionError",
    "SourceError",
    "SourceNotFoundError",
    "TaskError",
    "UpdateError",
]


class BatchwrightError(Exception):
    """The root of the family: catch this to catch every error of Batchwright."""


class LengthsError(BatchwrightError, ValueError):
    """Lengths, scores, weights or groups that cannot be used: NaN, negative, too few."""


class BudgetError(BatchwrightError, ValueError):
    """A budget that cannot be kept, or a setting that contradicts another."""


class PlanError(BatchwrightError, ValueError):
    """A plan, a plan file or a state that is damaged, or was made for other lengths."""


class SourceError(BatchwrightError, ValueError):
    """A file or data set that cannot be read, or a file that cannot be written."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A file that does not exist."""


class ColumnNotFoundError(SourceError, KeyError):
    """A column that the source does not have."""

    # KeyError prints the repr of its argument, quotes and all; ours is a sentence.
    __str__ = Exception.__str__


class PrecisionError(BatchwrightError, ValueError):
    """A precision that the device does not support, or that ranks do not agree on."""


class LossError(BatchwrightError, ValueError):
    """A loss that is not a sum over the rows of the batch, or an update of weight zero."""


class UpdateError(BatchwrightError, RuntimeError):
    """An update that cannot be made: gradients that are never finite, a rank that failed."""


class TaskError(BatchwrightError, ValueError):
    """A task that cannot be trained as described, or a strategy that it does not allow."""


class MissingExtraError(BatchwrightError, ImportError):
    """An optional dependency that is not installed."""
