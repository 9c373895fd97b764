"""What sandboxes may leave on the host once nobody looks after them: shims, cgroups, mounts, sockets. Pure.

The engine tells of containers only. A container that it has forgotten may still have its shim, and with it a sandbox
that runs. `leftovers` says what of a snapshot is ours and nobody's. Ours is what belongs to a container that this
daemon noted before it was started, or whose own bundle mounts the gateway of one of our sandboxes, and what is mounted
in the directory of one. A name, a number or a label that anybody may have is no proof.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, TypeVar

from perstackd.domain.ids import SandboxId, is_id

T = TypeVar("T")
_CONTAINER: Final = re.compile(r"[0-9a-f]{64}")
_SHIM: Final = re.compile(r"containerd-shim-[a-z0-9-]+")
_SCOPE: Final = re.compile(r"(?:docker-)?([0-9a-f]{64})(?:\.scope)?")
# Where the engine and its containerd mount for a container.
_MOUNTED: Final = re.compile(
    r"/(?:containers/([0-9a-f]{64})/mounts/shm|io\.containerd\.runtime\.v2\.task/[^/]+/([0-9a-f]{64})/rootfs)$"
)


@dataclass(frozen=True, slots=True)
class Shim:
    """A process that says that it keeps a container. `started` is in clock ticks since the machine's start: together
    with `pid` it names one process. `of_host`: it is root's, in the namespaces of this daemon. `bundle` is its working
    directory, `gateway` what the bundle there mounts at /gw; empty when that cannot be told.
    """

    pid: int
    started: int
    executable: str
    arguments: tuple[str, ...]
    of_host: bool
    bundle: str = ""
    gateway: str = ""

    @property
    def container_id(self) -> str:
        """Whose it says it is; empty when it is no shim of the host's engine: a root process of the host that is called
        so, was started so, and works in the directory that containerd has for that container.
        """
        name, container = self.executable.rpartition("/")[2], self.option("-id")
        called = bool(_SHIM.fullmatch(name)) and self.arguments[:1] and self.arguments[0].rpartition("/")[2] == name
        at_home = self.bundle.endswith(f"/io.containerd.runtime.v2.task/{self.option('-namespace')}/{container}")
        return container if self.of_host and called and at_home and is_container(container) else ""

    def option(self, name: str) -> str:
        """The value of one of its options; empty without."""
        pairs = zip(self.arguments[1:], self.arguments[2:], strict=False)
        return next((value for option, value in pairs if option == name), "")

    @property
    def socket(self) -> str:
        """The name of its socket: containerd's SocketAddress (runtime/v2/shim/util_unix.go)."""
        return socket_name(self.option("-address"), self.option("-namespace"), self.container_id)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there is on the host, ours or not. `noted` are the containers that this daemon made, before each was
    started, by id. `runtime` is its runtime directory. `cgroups`, `mounts` and `sockets` are paths; the sockets are
    those of shims. `engines` are the (address, namespace) that shims of ours have named, as far as is known.
    """

    runtime: str
    noted: Mapping[str, SandboxId] = field(default_factory=dict)
    shims: tuple[Shim, ...] = ()
    cgroups: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    engines: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Leftover:
    """What is left of one sandbox. Without a container only mounts in its own directory."""

    sandbox_id: SandboxId
    container_id: str = ""
    shims: tuple[Shim, ...] = ()
    cgroups: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return not (self.shims or self.cgroups or self.mounts or self.sockets)

    @property
    def told(self) -> str:
        """For a log line."""
        numbers = (len(self.shims), len(self.cgroups), len(self.mounts), len(self.sockets))
        named = zip(numbers, ("shim", "cgroup", "mount", "socket"), strict=True)
        parts = ", ".join(f"{number} {name}{'s' * (number > 1)}" for number, name in named if number)
        return f"{parts or 'nothing'} of {self.container_id or 'no container'}"


def leftovers(snapshot: Snapshot, alive: Set[SandboxId], contained: Set[SandboxId]) -> tuple[Leftover, ...]:
    """What is left of sandboxes of ours that are not `alive`, by sandbox; of a noted one also when it is nothing. Of
    those that are `contained`, whose container the engine knows, only the mounts: the rest is the engine's to remove.
    """
    owners = _owners(snapshot).items()
    containers = {cid: sid for cid, sid in owners if sid not in alive and sid not in contained}
    found = list(_of_containers(snapshot, containers)) if containers else []
    found += _of_directories(snapshot, {*alive, *containers.values()})
    return tuple(sorted(found, key=lambda each: (each.sandbox_id, each.container_id)))


def is_container(text: str) -> bool:
    """Whether `text` has the form of an engine's container id."""
    return _CONTAINER.fullmatch(text) is not None


def container_of(name: str) -> str:
    """The container that a cgroup's name tells of, with either driver of the engine; empty when it tells of none."""
    found = _SCOPE.fullmatch(name)
    return found[1] if found else ""


def socket_name(address: str, namespace: str, container_id: str) -> str:
    """The name of the socket that containerd at `address` has its shim of the container listen on."""
    return sha256(f"{address}/{namespace}/{container_id}".encode()).hexdigest()


def owner_of(shim: Shim, snapshot: Snapshot) -> SandboxId | None:
    """The sandbox that a shim keeps, when it is one of ours. Two proofs that contradict each other are none."""
    container = shim.container_id
    if not container:
        return None
    noted = snapshot.noted.get(container)
    shown = _shown(shim, snapshot.runtime)
    return None if noted and shown and noted != shown else noted or shown


def _shown(shim: Shim, runtime: str) -> SandboxId | None:
    """Which of our sandboxes' gateway its bundle mounts."""
    sandbox_id = _within(shim.gateway, f"{runtime}/s/")
    right = shim.gateway == f"{runtime}/s/{sandbox_id}/gw"
    return SandboxId(sandbox_id) if right and is_id(sandbox_id) else None


def _owners(snapshot: Snapshot) -> dict[str, SandboxId]:
    """Ours, by container id."""
    noted = {cid: sid for cid, sid in snapshot.noted.items() if is_container(cid) and is_id(sid)}
    shims = ((shim.container_id, owner_of(shim, snapshot)) for shim in snapshot.shims)
    return noted | {container: sandbox_id for container, sandbox_id in shims if sandbox_id is not None}


def _of_containers(snapshot: Snapshot, containers: Mapping[str, SandboxId]) -> Iterator[Leftover]:
    ours = (shim for shim in snapshot.shims if owner_of(shim, snapshot))
    shims = _grouped(ours, lambda shim: shim.container_id)
    cgroups = _grouped(snapshot.cgroups, lambda path: container_of(path.rpartition("/")[2]))
    mounts = _grouped(snapshot.mounts, _mounted_for)
    sockets = {path.rpartition("/")[2]: path for path in snapshot.sockets}
    for container, sandbox_id in containers.items():
        names = {socket_name(address, namespace, container) for address, namespace in snapshot.engines}
        names.update(shim.socket for shim in shims[container])
        inside = tuple(path for path in snapshot.mounts if path.startswith(f"{snapshot.runtime}/s/{sandbox_id}/"))
        yield Leftover(
            sandbox_id,
            container,
            tuple(shims[container]),
            tuple(cgroups[container]),
            (*mounts[container], *inside),
            tuple(sockets[name] for name in sorted(names) if name in sockets),
        )


def _mounted_for(path: str) -> str:
    """The container for which the engine has mounted something there; empty when it is no such place."""
    found = _MOUNTED.search(path)
    return found[1] or found[2] if found else ""


def _grouped(things: Iterable[T], key: Callable[[T], str]) -> defaultdict[str, list[T]]:
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return groups


def _of_directories(snapshot: Snapshot, others: Set[SandboxId]) -> Iterator[Leftover]:
    """Mounts in directories of sandboxes of which no container is known."""
    below = f"{snapshot.runtime}/s/"
    mounts: dict[SandboxId, list[str]] = {}
    for path in snapshot.mounts:
        sandbox_id = SandboxId(_within(path, below))
        if is_id(sandbox_id) and sandbox_id not in others:
            mounts.setdefault(sandbox_id, []).append(path)
    return (Leftover(sandbox_id, mounts=tuple(found)) for sandbox_id, found in mounts.items())


def _within(path: str, directory: str) -> str:
    """The first component of `path` below `directory`; empty when it is not below it."""
    return path.removeprefix(directory).partition("/")[0] if path.startswith(directory) else ""
