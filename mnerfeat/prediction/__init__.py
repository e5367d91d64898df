"""A trained run put to use: predictions for posts, and scores on a split."""

from mnerfeat.prediction.evaluating import (
    Evaluation,
    evaluate_predictions,
    evaluate_runs,
    require_features,
)
from mnerfeat.prediction.posting import predict_file, predict_post
from mnerfeat.prediction.predicting import (
    Prediction,
    predict,
    predictions_text,
    read_predictions,
    write_predictions,
)

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
