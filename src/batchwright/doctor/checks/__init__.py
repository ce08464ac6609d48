"""The checks, one file for each theme; a new one is a function here."""

from batchwright.doctor.checks.loss import division, mean_of_means, not_cleared, not_finite
from batchwright.doctor.checks.memory import peak
from batchwright.doctor.checks.order import (
    classes_of_updates,
    lengths_of_updates,
    mix_of_classes,
    order_of_epochs,
)
from batchwright.doctor.checks.padding import documents, padding, padding_in_loss
from batchwright.doctor.checks.precision import (
    autocast,
    clipping,
    half_precision,
    loss_scale,
    schedules,
    skipped_updates,
)
from batchwright.doctor.checks.ranks import (
    batches_of_ranks,
    counts_of_ranks,
    samples_of_ranks,
    waiting_for_ranks,
)
from batchwright.doctor.checks.samples import lost_samples, repeated_samples
from batchwright.doctor.checks.shapes import compiled_shapes
from batchwright.doctor.checks.waiting import waiting
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
    padding,
    padding_in_loss,
    documents,
    mean_of_means,
    division,
    not_cleared,
    not_finite,
    loss_scale,
    skipped_updates,
    schedules,
    clipping,
    autocast,
    half_precision,
    peak,
    waiting,
    compiled_shapes,
)
"""All of them."""
