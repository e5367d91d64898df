"""All extractors by name, and how to rebuild those that made some features.

To add an extractor, write a file beside this one that ends in an `ExtractorFactory`, and add its
line to `EXTRACTORS`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from mnerfeat.cache import Provenance
from mnerfeat.errors import ConfigError, MnerfeatError, ModelError, ProvenanceError
from mnerfeat.extractors import captions, clip, grid, quality, regions, tags, vit
from mnerfeat.extractors.base import Extractor, ExtractorFactory, ExtractorOptions, ModelOption
from mnerfeat.extractors.loader import model_reference

EXTRACTORS: Final[dict[str, ExtractorFactory]] = {
    "vit": vit.FACTORY,
    "clip": clip.FACTORY,
    "quality": quality.FACTORY,
    "grid": grid.FACTORY,
    "regions": regions.FACTORY,
    "tags": tags.FACTORY,
    "caption": captions.FACTORY,
}
"""Factories by the name that `--features` takes."""

DEFAULT_EXTRACTORS: Final = tuple(name for name, factory in EXTRACTORS.items() if factory.default)
"""Extractors that run if `--features` is not given."""

OPTIONS: Final = {o.name: o for factory in EXTRACTORS.values() for o in factory.options}
"""All options that name a model or a file, by name."""

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    preset: {name: model for name, o in OPTIONS.items() if (model := o.default(preset))}
    for preset in ("base", "tiny")
}
"""Models by option. `base`: the papers' backbones, or a substitute if they are not published
(VinVL). `tiny`: models inside the package, trained on the toy world. It has no detector and no
captioner: the toy world writes files of boxes, tags and captions."""


def make_extractor(name: str, options: ExtractorOptions) -> Extractor:
    """Make an extractor. Its models are found and hashed, but not loaded.

    Args:
        name: One of `EXTRACTORS`.
        options: Models, files and number formats.

    Raises:
        ConfigError: The name or the preset is unknown, or the preset has no such model.
        DataError: A file that replaces a model cannot be used.
        ModelError: A model is missing.
    """
    for what, given, known in (("features", name, EXTRACTORS), ("preset", options.preset, PRESETS)):
        if given not in known:
            raise ConfigError(f"{what}: unknown {given!r}; choose from: {', '.join(known)}")
    return EXTRACTORS[name].make(options)


def extractors_of(
    provenances: Mapping[str, Provenance], references: Mapping[str, str] = MappingProxyType({})
) -> tuple[Extractor, ...]:
    """Rebuild the extractors that made some features.

    A provenance names hub models and those of this package. It holds no paths, so a model in a
    folder of the user and a file that replaces a model have to be in `references`.

    Args:
        provenances: By feature, as a cache or a run has them. Those that no extractor here makes
            (rewards) are passed over.
        references: Models and files by option: what the run recorded, updated by what the user
            asks for now. An entry that does not lead to the right model is ignored if the
            provenance names a model that does.

    Returns:
        One extractor for each in `provenances`, not loaded yet. Each makes exactly these
        provenances.

    Raises:
        ModelError: A model or file is missing; all are listed, with the option for each.
        ProvenanceError: Models were found, but others than those that made the features.
    """
    wanted: dict[str, dict[str, Provenance]] = {}
    for feature, provenance in provenances.items():
        name = provenance.facts.get("extractor")
        if name in EXTRACTORS:
            wanted.setdefault(str(name), {})[feature] = provenance
    found: list[Extractor] = []
    absent: list[str] = []
    different: list[str] = []
    options: list[ModelOption] = []
    for name, features in wanted.items():
        try:
            found.append(_rebuild(name, features, references))
        except ProvenanceError as error:
            different += error.faults
        except MnerfeatError as error:
            absent.append(error.what)
        else:
            continue
        options += _recorded(name, features)
    if not absent and not different:
        return tuple(found)
    kinds = dict.fromkeys(option.name for option in options)
    hint = "name the right ones: " + ", ".join(
        f"--set extract.{kind}={'FILE' if OPTIONS[kind].is_file else 'MODEL'}" for kind in kinds
    )
    if absent:
        raise ModelError(
            "models that made these features are missing:", faults=[*absent, *different], hint=hint
        )
    raise ProvenanceError(
        "the models found here are not those that made these features:",
        faults=different,
        hint=hint,
    )


def references_of(given: Mapping[str, str | Path | None]) -> dict[str, str]:
    """Return what a run has to record of options so that `extractors_of` works anywhere.

    Args:
        given: Models and files by option, as configured; None counts as not given. Models of
            presets need no record: provenances name them.

    Returns:
        The same as JSON can hold, paths made absolute.
    """
    return {name: _absolute(value) for name, value in given.items() if value and name in OPTIONS}


def _absolute(reference: str | Path) -> str:
    """Make the path in a reference absolute, if there is one (`NAME:PATH` included)."""
    head, colon, tail = str(reference).rpartition(":")
    path = Path(tail).expanduser()
    if path.exists():
        return f"{head}{colon}{path.resolve()}"
    return str(reference)


def _rebuild(
    name: str, features: Mapping[str, Provenance], references: Mapping[str, str]
) -> Extractor:
    """Rebuild one extractor from references, or else from the names in provenances.

    Raises:
        ProvenanceError: What was found makes other features; its faults list the differences.
        MnerfeatError: A model or file is missing.
    """
    facts = [provenance.facts for provenance in features.values()]
    recorded = _recorded(name, features)
    by_name = {
        option.name: model_reference(model) if not option.is_file else None
        for option, model in recorded.items()
    }
    by_reference = {
        **by_name,
        **{o.name: references[o.name] for o in recorded if o.name in references},
    }
    lost = [
        f"{name}: read from a file {model}, which is not known here"
        for option, model in recorded.items()
        if option.is_file and not by_reference[option.name]
    ]
    if lost:
        raise ModelError(lost[0])
    dtypes = {fact.get("dtype") for fact in facts}
    numerics = facts[0].get("numerics", "fast")
    first: MnerfeatError | None = None
    for given in (by_reference, by_name):
        options = ExtractorOptions(
            preset="base",
            given=given,
            dtype=np.dtype("float16" if "float16" in dtypes else "float32"),
            numerics=numerics,
        )
        try:
            made = make_extractor(name, options)
        except MnerfeatError as error:
            first = first or error
            continue
        faults = list(_differences(made, features))
        if not faults:
            return made
        first = first or ProvenanceError(f"{name} makes other features", faults=faults)
    assert first is not None
    raise first


def _recorded(name: str, features: Mapping[str, Provenance]) -> dict[ModelOption, str]:
    """Return the names of models and files in the provenance of an extractor, by option."""
    facts = next(iter(features.values())).facts
    found = {}
    for option, place in EXTRACTORS[name].options.items():
        value: Any = facts
        for key in place.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str):
            found[option] = value
    return found


def _differences(made: Extractor, features: Mapping[str, Provenance]) -> Iterator[str]:
    for feature, provenance in features.items():
        if feature not in made.provenance:
            yield f"{feature}: not made by {made.name} here"
            continue
        for line in made.provenance[feature].differences(provenance, "found", "wanted"):
            yield f"{feature}: {line}"
