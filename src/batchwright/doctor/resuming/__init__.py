"""Whether a run resumes correctly: it is killed and resumed, and the two runs are compared."""

from batchwright.doctor.resuming.check import SECONDS, check_resume

__all__ = ["SECONDS", "check_resume"]
"""The public names."""
