"""Predictions and scores of trained runs."""

from mnerfeat.prediction.features import require_features
from mnerfeat.prediction.predictions import (
    Prediction,
    predict,
    predictions_text,
    read_predictions,
    write_predictions,
)
from mnerfeat.prediction.predictor import predict_file, predict_post
from mnerfeat.prediction.results import Evaluation, evaluate_predictions, evaluate_runs

__all__ = [
    "Evaluation",
    "Prediction",
    "evaluate_predictions",
    "evaluate_runs",
    "predict",
    "predict_file",
    "predict_post",
    "predictions_text",
    "read_predictions",
    "require_features",
    "write_predictions",
]
