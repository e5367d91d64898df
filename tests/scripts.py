"""Scripts of the repository that tests use; they are no part of a package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    """A script by its path from the root of the repository, as a module."""
    path = ROOT / name
    unlike_any_other = name.removesuffix(".py").replace("/", "_")
    spec = importlib.util.spec_from_file_location(f"script_{unlike_any_other}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # as it is when the script is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
