"""Whether a run resumes rightly: it is killed, resumed, and what both have seen is compared."""

from batchwright.doctor.resuming.check import SECONDS, check_resume

__all__ = ["SECONDS", "check_resume"]
"""The public names."""
