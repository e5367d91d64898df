"""Ray without Ray: nodes, actors and lost ones in this very process, in an order that is known."""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Fails = Callable[["Actor", str], Exception | None]
"""Given an actor and the name of a call: what becomes of the call instead of an answer."""


class RayError(Exception):
    """As in Ray."""


class RayActorError(RayError):
    """An actor is dead, and with it everything that it was asked."""


class ObjectLostError(RayError):
    """What a call is given, or gave, is gone."""


class RayTaskError(RayError):
    """A call raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Call:
    """A reference to what will come of a call."""

    actor: "Actor | None"
    name: str
    run: Callable[[], Any]
    number: int = field(default_factory=itertools.count().__next__)
    result: Any = None
    error: RayError | None = None
    done: bool = False


@dataclass(eq=False)
class Actor:
    """An actor, and a handle of it."""

    ray: "FakeRay"
    node: str
    number: int
    held: Any
    dead: RayActorError | None = None

    def __getattr__(self, name: str) -> Any:
        def remote(*given: Any) -> Call:
            def run() -> Any:
                return getattr(self.held, name)(*[self.ray.get(g) for g in given])

            return Call(self, name, run)

        return SimpleNamespace(remote=remote)


@dataclass
class FakeRay:
    """What the engine uses of the package `ray`.

    Attributes:
        hosts: The names of nodes that are up.
        fails: See `Fails`; asked before every call of an actor.
        started: The node of each actor, in order.
    """

    hosts: list[str]
    fails: Fails = lambda actor, name: None
    started: list[str] = field(default_factory=list)

    @property
    def exceptions(self) -> Any:
        """Those that the engine tells apart."""
        return SimpleNamespace(
            RayError=RayError, RayActorError=RayActorError, RayTaskError=RayTaskError
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Each with one core."""
        return [
            {"NodeID": f"id of {host}", "NodeManagerHostname": host, "Alive": True,
             "Resources": {"CPU": 1.0}}
            for host in self.hosts
        ]  # fmt: skip

    def put(self, value: Any) -> Any:
        """The value itself."""
        return value

    def remote(self, made: Any = None, **_: Any) -> Any:
        """A class or a function, to be placed by `options` and called by `remote`."""
        if made is None:
            return self.remote

        def options(*, scheduling_strategy: str, **_: Any) -> Any:
            def remote(*given: Any) -> Any:
                if not isinstance(made, type):
                    return Call(None, "decode", lambda: made(*given))
                self.started.append(scheduling_strategy)
                return Actor(self, scheduling_strategy, len(self.started), made(*given))

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(options=options)

    def wait(
        self, refs: Sequence[Call], *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Call], list[Call]]:
        """Those that were called first are done first."""
        refs = sorted(refs, key=lambda call: call.number)
        for ref in refs[:num_returns]:
            self._do(ref)
        return refs[:num_returns], refs[num_returns:]

    def get(self, ref: Any) -> Any:
        """What a call gave, or the value itself."""
        if not isinstance(ref, Call):
            return ref
        self._do(ref)
        if ref.error:
            raise ref.error
        return ref.result

    def kill(self, actor: Actor) -> None:
        """End an actor."""
        actor.dead = actor.dead or RayActorError("it was killed")

    def _do(self, call: Call) -> None:
        if call.done:
            return
        call.done = True
        if call.actor and not call.actor.dead and (error := self.fails(call.actor, call.name)):
            if isinstance(error, RayActorError):
                call.actor.dead = error
            call.error = error if isinstance(error, RayError) else RayTaskError(error)
        elif call.actor and call.actor.dead:
            call.error = call.actor.dead
        else:
            try:
                call.result = call.run()
            except RayError as error:
                call.error = RayTaskError(error)
            except Exception as error:  # noqa: BLE001  (as Ray does)
                call.error = RayTaskError(error)


def in_turn(*errors: Exception | None, of: str = "look") -> Fails:
    """Calls of a name fail so, one after another, and then no more."""
    left = deque(errors)

    def fails(_: Actor, name: str) -> Exception | None:
        return left.popleft() if name == of and left else None

    return fails


def always(error: Exception, *, of: str = "look", on: str | None = None) -> Fails:
    """Every call of a name fails so, on one node or on all."""

    def fails(actor: Actor, name: str) -> Exception | None:
        return error if name == of and on in {None, actor.node} else None

    return fails
