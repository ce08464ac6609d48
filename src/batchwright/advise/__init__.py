"""The selection guide: what pays on these data, this machine and this model, with its evidence."""

from batchwright.advise.advice import Advice, Gain
from batchwright.advise.configuration import configuration
from batchwright.advise.data_profile import DataProfile, profile_data
from batchwright.advise.duplicates import Duplicates, first_of_each, profile_duplicates
from batchwright.advise.group_profile import Group, GroupProfile, profile_groups
from batchwright.advise.hardware import Hardware, profile_hardware
from batchwright.advise.label_profile import LabelProfile, profile_labels
from batchwright.advise.learning import LearningTrial, run_learning_trials
from batchwright.advise.model_profile import ModelProfile, profile_model
from batchwright.advise.noise_estimate import NoiseEstimate
from batchwright.advise.price import Price, price_trials
from batchwright.advise.rules import RULES, Evidence, advise
from batchwright.advise.sample_profiles import SampleProfiles, profile_samples
from batchwright.advise.snippets import FRAMEWORKS, snippet
from batchwright.advise.task_evidence import Found, examine_task
from batchwright.advise.trials import Trial, run_trials

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
    "Trial",
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
    "run_learning_trials",
    "run_trials",
    "snippet",
]
