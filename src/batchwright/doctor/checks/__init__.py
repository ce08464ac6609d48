"""The checks, one file for each theme; a new one is a function here."""

from batchwright.doctor.checks.order import (
    classes_of_updates,
    lengths_of_updates,
    mix_of_classes,
    order_of_epochs,
)
from batchwright.doctor.checks.ranks import (
    batches_of_ranks,
    counts_of_ranks,
    samples_of_ranks,
    waiting_for_ranks,
)
from batchwright.doctor.checks.samples import lost_samples, repeated_samples
from batchwright.doctor.finding import Check

CHECKS: tuple[Check, ...] = (
    lost_samples,
    repeated_samples,
    order_of_epochs,
    lengths_of_updates,
    classes_of_updates,
    mix_of_classes,
    samples_of_ranks,
    counts_of_ranks,
    batches_of_ranks,
    waiting_for_ranks,
)
"""All of them."""
