"""Training a tagger: one call from posts and cached image tensors to a run folder."""

from mnerfeat.training.config import TrainingConfig
from mnerfeat.training.fitting import TrainingData, train

__all__ = ["TrainingConfig", "TrainingData", "train"]
