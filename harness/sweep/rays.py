"""Pairs on a Ray cluster: Alice with the wire in one actor, Bob in another, on different nodes where there are several.

Bob listens on his node's address, with a token made for the pair; Alice, the wire and whoever asks them are on one node, on its
loopback. Data travels in Ray's object store, once for each node. ray is imported here, late, and nowhere else.
"""

import contextlib
import logging
import os
import secrets
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from harness.client import Client, Urls
from harness.cluster import Cluster, StartError
from harness.sweep.grid import Trial
from harness.sweep.pairs import Order, PairLostError, Progress, TrialError, Where, perform, runtime_at
from shared.service.kernels import prepare_kernel_cache

_LOOK_SECONDS: Final = 0.5
_PLACE_SECONDS: Final = 120.0  # a cluster that is busy, or starting more nodes
_START_SECONDS: Final = 900.0  # the first start on a node compiles every kernel

Octets = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Codes of one's own. plugins: files by name and text. pretrained: directories, the same paths on every node."""

    plugins: tuple[tuple[str, bytes], ...]
    pretrained: str

    @classmethod
    def here(cls) -> Self:
        """What this process has loaded, and names in its environment for the services that it starts."""
        paths = [Path(path) for path in os.environ.get("CODELENGTH_PLUGINS", "").split(os.pathsep) if path]
        plugins = tuple((path.name, path.read_bytes()) for path in paths)
        return cls(plugins=plugins, pretrained=os.environ.get("CODELENGTH_PRETRAINED", ""))

    def environment(self, place: Path) -> dict[str, str]:
        """For services on another node; the plugins' files are written to `place`."""
        paths = []
        for number, (name, text) in enumerate(self.plugins):
            paths.append(place / f"{number}-{name}")
            paths[-1].write_bytes(text)
        named = {"CODELENGTH_PLUGINS": os.pathsep.join(map(str, paths)), "CODELENGTH_PRETRAINED": self.pretrained}
        return {name: value for name, value in named.items() if value}


class _Side:
    """An actor's services on this node, and a directory beside them."""

    def __init__(self, token: str, warm: list[str], own: Own, **options: Any) -> None:
        prepare_kernel_cache()
        with ExitStack() as stack:
            self._data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codelength-")))
            plugins = self._data / "plugins"
            plugins.mkdir()
            environment = {"CODELENGTH_TOKEN": token, **own.environment(plugins)}
            self._cluster = stack.enter_context(Cluster(warm=warm, environment=environment, **options))
            self._stack = stack.pop_all()

    def stop(self) -> None:
        """Stop the services."""
        self._stack.close()


class BobSide(_Side):
    """An actor: Bob on this node."""

    def __init__(self, token: str, warm: list[str], own: Own) -> None:
        import ray

        super().__init__(token, warm, own, parts=("bob",), host=ray.util.get_node_ip_address())

    def where(self) -> tuple[str, str, str]:
        """Bob's URL, his node, and his runtime. Raises `StartError`."""
        return self._cluster.bob, _node(), runtime_at(self._cluster.bob, "Bob")


class AliceSide(_Side):
    """An actor: Alice and the wire on this node, and the client that asks them and Bob."""

    def __init__(self, token: str, warm: list[str], own: Own, bob: str) -> None:
        super().__init__(token, warm, own, parts=("alice", "wire"), bob=bob)
        urls = Urls(alice=self._cluster.alice, bob=bob, wire=self._cluster.wire)
        self._client = self._stack.enter_context(Client(urls, token))
        self._tokens = 0

    def where(self) -> tuple[str, str]:
        """Alice's node and her runtime. Raises `StartError`."""
        return _node(), runtime_at(self._cluster.alice, "Alice")

    def run(self, order: Order, *data: Octets) -> tuple[str, Any]:
        """One trial: `done` and its result, or `lost` or `failed` and why. data: what the order's files hold."""
        self._tokens = 0
        try:
            for path, octets in zip(order.files, data, strict=True):
                octets.tofile(self._data / path.name)
            return "done", perform(self._client, order.at(self._data), self._progress)
        except PairLostError as error:
            return "lost", str(error)
        except TrialError as error:
            return "failed", str(error)
        finally:
            for path in self._data.iterdir():
                if path.is_file():
                    path.unlink()

    def tokens(self) -> int:
        """Done of the trial that runs."""
        return self._tokens

    def _progress(self, tokens: int) -> None:
        self._tokens = tokens


def _node() -> str:
    import ray

    context = ray.get_runtime_context()
    return f"{ray.util.get_node_ip_address()} {context.get_node_id()[:8]}"


class RayCluster:
    """A connection to a Ray cluster, or to one that is started here and ends with us."""

    def __init__(self) -> None:
        self._references: dict[Path, Any] = {}
        self._lock = threading.Lock()

    @property
    def pairs(self) -> int:
        """How many pairs fit: two cores each."""
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 0)) // 2)

    def reference(self, path: Path) -> Any:
        """A file in the object store, put there at the first time of asking."""
        import ray

        with self._lock:
            if path not in self._references:
                self._references[path] = ray.put(np.fromfile(path, dtype=np.uint8))
            return self._references[path]

    def open_pair(self, warm: list[str]) -> "RayPair":
        """A pair, once the cluster has room for one. Raises `StartError`."""
        return RayPair(self, warm)


class RayPair:
    """The two actors of a pair."""

    def __init__(self, cluster: RayCluster, warm: list[str]) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._ray = ray
        self._cluster = cluster
        self._group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="SPREAD")
        self._actors: list[Any] = []
        if not self._group.wait(_PLACE_SECONDS):
            self.close()
            raise StartError(f"the Ray cluster had no two free cores for {_PLACE_SECONDS:.0f} s: {ray.available_resources()}")
        try:
            token = secrets.token_urlsafe(24)

            def actor(side: type, bundle: int, *arguments: Any) -> Any:
                strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=bundle)
                made = ray.remote(side).options(num_cpus=1, max_concurrency=2, scheduling_strategy=strategy).remote(*arguments)
                self._actors.append(made)
                return made

            own = Own.here()
            bob = actor(BobSide, 0, token, warm, own)
            url, node_bob, runtime_bob = ray.get(bob.where.remote(), timeout=_START_SECONDS)
            self._alice = actor(AliceSide, 1, token, warm, own, url)
            node_alice, runtime_alice = ray.get(self._alice.where.remote(), timeout=_START_SECONDS)
        except BaseException as error:
            self.close()
            match error:
                case RayTaskError(cause=StartError() as cause):
                    raise StartError(str(cause)) from None
                case RayActorError() | RayTaskError() | GetTimeoutError():
                    raise StartError(f"the services did not come up on the Ray cluster: {_brief(error)}") from None
            raise
        self.where = Where(node_alice=node_alice, node_bob=node_bob, runtime_alice=runtime_alice, runtime_bob=runtime_bob)

    def run(self, trial: Trial, progress: Progress) -> dict[str, Any]:
        """One transmission. Raises `PairLostError` or `TrialError`."""
        from ray.exceptions import RayError

        order = Order.of(trial)
        try:
            made = self._alice.run.remote(order, *map(self._cluster.reference, order.files))
            while not self._ray.wait([made], timeout=_LOOK_SECONDS)[0]:
                progress(self._ray.get(self._alice.tokens.remote()))
            kind, found = self._ray.get(made)
        except RayError as error:
            raise PairLostError(_brief(error)) from None
        if kind == "lost":
            raise PairLostError(found)
        if kind == "failed":
            raise TrialError(found)
        result: dict[str, Any] = found
        return result

    def close(self) -> None:
        """Stop the services and the actors, and give the cores back."""
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):  # what is lost already is closed
            self._ray.get([actor.stop.remote() for actor in self._actors], timeout=15)
        with contextlib.suppress(Exception):
            for actor in self._actors:
                self._ray.kill(actor)
            remove_placement_group(self._group)
        self._actors = []


@contextmanager
def connected(address: str | None) -> Iterator[RayCluster]:
    """A cluster at an address, or one of this machine that ends with us, on its loopback. Raises `StartError`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "num_cpus": max(2, os.cpu_count() or 1), "_node_ip_address": "127.0.0.1"}
        options["include_dashboard"] = False
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, namespace="codelength")
    except Exception as error:  # noqa: BLE001 - Ray raises what it likes
        raise StartError(f"Ray at {address or 'this machine'} cannot be reached or started: {_brief(error)}") from None
    try:
        yield RayCluster()
    finally:
        ray.shutdown()


def _brief(error: BaseException) -> str:
    """The last line of what Ray says, which repeats whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
