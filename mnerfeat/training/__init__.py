"""Training a tagger: one call from posts and cached image tensors to a run folder."""

from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.data import load_training_data
from mnerfeat.training.plan import Plan, carry_out
from mnerfeat.training.trainer import TrainingData, train

__all__ = ["Plan", "TrainingConfig", "TrainingData", "carry_out", "load_training_data", "train"]
