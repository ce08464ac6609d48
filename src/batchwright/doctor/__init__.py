"""What is wrong with a training run: it is watched as it is, and what was seen is checked."""

from batchwright.doctor.diagnosis import Diagnosis, diagnose
from batchwright.doctor.finding import Finding, Level
from batchwright.doctor.records import Run

__all__ = ["Diagnosis", "Finding", "Level", "Run", "diagnose"]
"""The public names."""
