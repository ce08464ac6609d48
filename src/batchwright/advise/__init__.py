"""The selection guide: which techniques help with these data, this machine and this model."""

from batchwright.advise.advice import FRAMEWORKS, Advice, Gain, configuration, snippet
from batchwright.advise.data_profile import DataProfile, Outliers, profile_data
from batchwright.advise.duplicates import Duplicates, first_of_each, profile_duplicates
from batchwright.advise.evidence import Evidence
from batchwright.advise.headline import Headline, headline
from batchwright.advise.learning_trials import LearningTrial
from batchwright.advise.machine import (
    Hardware,
    ModelProfile,
    Range,
    profile_hardware,
    profile_model,
)
from batchwright.advise.noise_estimate import NoiseEstimate
from batchwright.advise.noise_sources import NoiseSource
from batchwright.advise.rules import RULES, advise
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
from batchwright.advise.trials import SpeedTrial, Untried

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
    "Headline",
    "LabelProfile",
    "LearningTrial",
    "ModelProfile",
    "NoiseEstimate",
    "NoiseSource",
    "Outliers",
    "Price",
    "Range",
    "SampleProfiles",
    "SpeedTrial",
    "Untried",
    "advise",
    "configuration",
    "examine_task",
    "first_of_each",
    "headline",
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
