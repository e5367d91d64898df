"""Preparation steps that import next to nothing."""

import sys
from typing import Any

import numpy as np


class ListsModules:
    """Tells whether its process has imported torch."""

    def __call__(self, image: Any) -> Any:
        return {"torch": np.array("torch" in sys.modules)}
