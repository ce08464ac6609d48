"""The errors of Batchwright: one family, each also the built-in that a user would catch.

Every message says what was given, what was expected, and what to do about it.
"""


class BatchwrightError(Exception):
    """The root of the family: catch this to catch every error that is ours."""


class LengthsError(BatchwrightError, ValueError):
    """Lengths that no plan can be made of: NaN, zero, negative, fractional, of a wrong shape."""


class BudgetError(BatchwrightError, ValueError):
    """A budget that cannot be kept, or a setting that contradicts another."""


class PlanError(BatchwrightError, ValueError):
    """Arrays that are no plan, or a plan that cannot be made as asked."""


class PlanMismatchError(PlanError):
    """A plan or a state used with lengths, or a world, that it was not made for."""


class PlanFileError(PlanError):
    """A plan file that is truncated, changed, or no plan at all."""


class SourceError(BatchwrightError, ValueError):
    """A source of lengths that cannot be read."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """A source that is not there."""


class ColumnNotFoundError(SourceError, KeyError):
    """A column that the source does not have."""

    # KeyError prints the repr of its argument, quotes and all; ours is a sentence.
    __str__ = Exception.__str__


class PlotError(BatchwrightError, ValueError):
    """A plot that cannot be drawn: of another format, of nothing, or where no file can be."""


class ScoresError(BatchwrightError, ValueError):
    """Scores, weights or groups that no order can be made of: NaN, negative, too few."""


class MissingExtraError(BatchwrightError, ImportError):
    """An optional dependency that is not installed."""


class PrecisionError(BatchwrightError, ValueError):
    """A precision that the device cannot do, or that processes do not agree on."""


class LossError(BatchwrightError, ValueError):
    """A loss that is no sum over the batch, or a window that weighs nothing."""


class LossScaleError(BatchwrightError, ArithmeticError):
    """A loss scale that sank to its floor: gradients are not finite, whatever the scale."""


class UpdateError(BatchwrightError, RuntimeError):
    """An update that cannot be made: a batch that cannot be split, a rank that failed."""


class TaskError(BatchwrightError, ValueError):
    """A task that cannot be trained as it is described."""


class TaskNotFoundError(TaskError, FileNotFoundError):
    """A task file that is not there."""


class StrategyError(BatchwrightError, ValueError):
    """A strategy that is unknown, or that a task does not allow."""


class ResultFileError(BatchwrightError, ValueError):
    """A file of results that cannot be read or written, or that belongs to something else."""
