"""The selection guide: which techniques help with these data, this machine and this model."""

from batchwright.advise.advice import FRAMEWORKS, Advice, Gain, configuration, snippet
from batchwright.advise.data_profile import DataProfile, profile_data
from batchwright.advise.duplicates import Duplicates, first_of_each, profile_duplicates
from batchwright.advise.machine import Hardware, ModelProfile, profile_hardware, profile_model
from batchwright.advise.noise_estimate import NoiseEstimate
from batchwright.advise.rules import RULES, Evidence, advise
from batchwright.advise.sample_profiles import (
    Group,
    GroupProfile,
    LabelProfile,
    SampleProfiles,
    profile_groups,
    profile_labels,
    profile_samples,
)
from batchwright.advise.task_evidence import Found, Price, examine_task, price_trials
from batchwright.advise.trials import LearningTrial, SpeedTrial

__all__ = [
    "FRAMEWORKS",
    "RULES",
    "Advice",
    "DataProfile",
    "Duplicates",
    "Evidence",
    "Found",
    "Gain",
    "Group",
    "GroupProfile",
    "Hardware",
    "LabelProfile",
    "LearningTrial",
    "ModelProfile",
    "NoiseEstimate",
    "Price",
    "SampleProfiles",
    "SpeedTrial",
    "advise",
    "configuration",
    "examine_task",
    "first_of_each",
    "price_trials",
    "profile_data",
    "profile_duplicates",
    "profile_groups",
    "profile_hardware",
    "profile_labels",
    "profile_model",
    "profile_samples",
    "snippet",
]
