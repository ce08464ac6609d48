"""The selection guide: what pays on these data, this machine and this model, with its evidence."""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.data_profile import DataProfile, profile_data
from batchwright.advise.hardware import Hardware, profile_hardware
from batchwright.advise.rules import RULES, Evidence, advise
from batchwright.advise.snippets import FRAMEWORKS, snippet
from batchwright.advise.trials import Trial, run_trials

__all__ = [
    "FRAMEWORKS",
    "RULES",
    "Advice",
    "DataProfile",
    "Evidence",
    "Gain",
    "Hardware",
    "Trial",
    "advise",
    "profile_data",
    "profile_hardware",
    "run_trials",
    "snippet",
]
