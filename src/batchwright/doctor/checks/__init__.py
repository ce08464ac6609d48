"""The checks, one file for each theme; a new one is a function here."""

from batchwright.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
"""All of them."""
