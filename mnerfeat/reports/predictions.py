"""Predictions as text for people."""

from collections.abc import Mapping, Sequence

from mnerfeat.prediction import Prediction


def render_predictions(predictions: Sequence[Prediction]) -> str:
    """Return posts with entities in brackets, and the head's values of each image."""
    return "\n\n".join(_render(one) for one in predictions)


def _render(one: Prediction) -> str:
    words = list(one.post.words)
    for entity in one.entities:
        words[entity.start] = f"[{words[entity.start]}"
        words[entity.end - 1] = f"{words[entity.end - 1]} {entity.type}]"
    lines = [f"{one.post.id}: {' '.join(words)}"]
    lines += [f"  {name}: {_values(values)}" for name, values in one.images.items()]
    return "\n".join(lines)


def _values(values: Mapping[str, float | bool] | None) -> str:
    if values is None:
        return "not used (missing or unreadable)"
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in values.items())


def _value(value: float | bool | None) -> str:
    if value is None:
        return "not a number"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}"
