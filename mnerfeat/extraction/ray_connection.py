"""A Ray cluster as a run sees it: joining it, its nodes, and where on it things are placed."""

import logging
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from mnerfeat.errors import ConfigError
from mnerfeat.extractors.loading import require


def alive(ray: Any) -> list[Mapping[str, Any]]:
    """The nodes that are part of the cluster now."""
    return [node for node in ray.nodes() if node["Alive"]]


def count_devices(node: Mapping[str, Any], *, gpus: bool) -> int:
    """How many devices a node has: its GPUs, or its processor where it lends any of it."""
    resources = node["Resources"]
    return int(resources.get("GPU", 0)) if gpus else int(resources.get("CPU", 0) >= 1)


def connect(stack: ExitStack) -> Any:
    """Connect to the Ray cluster, or start one on this machine where there is none.

    Ray looks for the address itself: `RAY_ADDRESS`, then a cluster that runs on this machine.

    Args:
        stack: Disconnects when it is closed, unless the program was connected before.

    Raises:
        ConfigError: Where Ray cannot connect.
        ModelError: Where Ray is not installed.
    """
    require("ray", "ray", "ray", option="engine")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        return ray
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(logging_level=logging.WARNING)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip() or type(error).__name__
        raise ConfigError(
            f"engine: Ray cannot connect: {said.splitlines()[0]}",
            hint="`ray status` tells whether the cluster that RAY_ADDRESS names is up and lets "
            "this machine in (`ray get-auth-token`)",
        ) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own there
    stack.callback(ray.shutdown)
    return ray


def only_on(node: str) -> Any:
    """On that node or nowhere: Ray's placement of an actor that holds a device."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    return NodeAffinitySchedulingStrategy(node, soft=False)


def near(node: str) -> Any:
    """On that node while one of its cores is free, or else on another: pixels are heavy."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    return NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
