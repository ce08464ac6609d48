"""A plan for any constructed `transformers.Trainer`."""

from batchwright.integrations.transformers.training import use_plan

__all__ = ["use_plan"]
