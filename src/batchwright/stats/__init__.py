"""Facts about plans, as frozen dataclasses: NumPy only, below everything that prints."""

from batchwright.stats.plan_stats import (
    PlanStats,
    count_distinct,
    dispersion,
    plan_stats,
)

__all__ = ["PlanStats", "count_distinct", "dispersion", "plan_stats"]
