"""What of a host's shims, cgroups, mounts and sockets is ours and nobody's: a decision over a snapshot."""

from dataclasses import replace
from typing import Any

import pytest

from perstackd.domain.ids import SandboxId
from perstackd.domain.traces import Leftover, Shim, Snapshot, container_of, leftovers, socket_name

RUNTIME = "/run/perstackd"
ENGINE = ("/run/docker/containerd/containerd.sock", "moby")
OURS, THEIRS = "a" * 64, "b" * 64
BOX, OTHER = SandboxId("01ARZ3NDEKTSV4RRFFQ69G5FAV"), SandboxId("01ARZ3NDEKTSV4RRFFQ69G5FAW")
NOBODY: frozenset[SandboxId] = frozenset()


def shim(container: str = OURS, gateway: str = "", **changes: object) -> Shim:
    made = Shim(
        70,
        4711,
        "/usr/bin/containerd-shim-runc-v2",
        ("/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", container, "-address", ENGINE[0]),
        of_host=True,
        bundle=f"/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{container}",
        gateway=gateway,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def noted(**parts: object) -> Snapshot:
    return Snapshot(RUNTIME, {OURS: BOX}, engines=frozenset((ENGINE,)), **parts)  # type: ignore[arg-type]


def found(
    snapshot: Snapshot, alive: frozenset[SandboxId] = NOBODY, contained: frozenset[SandboxId] = NOBODY
) -> Leftover:
    (only,) = leftovers(snapshot, alive, contained)
    return only


def test_all_that_belongs_to_a_noted_container_is_left_of_it() -> None:
    sockets = (f"/run/containerd/s/{socket_name(*ENGINE, OURS)}", f"/run/containerd/s/{socket_name(*ENGINE, THEIRS)}")
    cgroups = (f"/cg/pids/docker/{OURS}", f"/cg/system.slice/docker-{OURS}.scope", f"/cg/pids/docker/{THEIRS}")
    mounts = (
        f"/var/lib/docker/containers/{OURS}/mounts/shm",
        f"/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{OURS}/rootfs",
        f"/var/lib/docker/containers/{THEIRS}/mounts/shm",
        f"/home/somebody/{OURS}",
        f"{RUNTIME}/s/{BOX}/slot/workspace",
    )
    left = found(noted(shims=(shim(), shim(THEIRS)), cgroups=cgroups, mounts=mounts, sockets=sockets))
    assert left == Leftover(BOX, OURS, (shim(),), cgroups[:2], (*mounts[:2], mounts[4]), sockets[:1])


@pytest.mark.parametrize(("alive", "contained"), [({BOX}, set()), (set(), {BOX}), ({BOX}, {BOX})])
def test_nothing_is_left_of_one_that_somebody_knows(alive: set[SandboxId], contained: set[SandboxId]) -> None:
    snapshot = noted(shims=(shim(),), cgroups=(f"/cg/pids/docker/{OURS}",))
    assert leftovers(snapshot, frozenset(alive), frozenset(contained)) == ()


def test_of_a_noted_container_that_left_nothing_it_is_said_so() -> None:
    assert found(noted()).empty


def test_nothing_of_a_container_that_was_not_noted_is_ours() -> None:
    assert leftovers(Snapshot(RUNTIME, shims=(shim(),), cgroups=(f"/cg/pids/docker/{OURS}",)), NOBODY, NOBODY) == ()


def test_a_shim_whose_bundle_mounts_the_gateway_of_one_of_ours_is_ours_and_so_are_its_cgroups() -> None:
    kept = shim(gateway=f"{RUNTIME}/s/{BOX}/gw")
    left = found(Snapshot(RUNTIME, shims=(kept,), cgroups=(f"/cg/pids/docker/{OURS}",)))
    assert (left.sandbox_id, left.container_id, left.shims) == (BOX, OURS, (kept,))
    assert left.cgroups == (f"/cg/pids/docker/{OURS}",)


@pytest.mark.parametrize(
    "gateway",
    [
        f"/run/other/s/{BOX}/gw",
        f"{RUNTIME}/s/{BOX}/gw/deeper",
        f"{RUNTIME}/s/{BOX}/slot",
        f"{RUNTIME}/s/not-an-id/gw",
        f"{RUNTIME}/s/../s/{BOX}/gw",
        f"{RUNTIME}x/s/{BOX}/gw",
        "",
    ],
)
def test_another_gateway_is_another_daemons(gateway: str) -> None:
    assert leftovers(Snapshot(RUNTIME, shims=(shim(gateway=gateway),)), NOBODY, NOBODY) == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"of_host": False},
        {"executable": "/usr/bin/sleep"},
        {"executable": "/usr/bin/containerd-shim-runc-v2.sh"},
        {"arguments": ("sleep", "-namespace", "moby", "-id", OURS)},
        {"arguments": ("/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", OURS[:12])},
        {"arguments": ()},
        {"bundle": "/tmp"},
        {"bundle": f"/run/io.containerd.runtime.v2.task/k8s.io/{OURS}"},
        {"bundle": f"/run/io.containerd.runtime.v2.task/moby/{THEIRS}"},
    ],
)
def test_a_process_that_only_looks_like_the_shim_of_a_noted_container_is_nobodys(changes: dict[str, Any]) -> None:
    assert found(noted(shims=(shim(**changes),))).shims == ()


def test_two_proofs_that_contradict_each_other_are_none() -> None:
    assert found(noted(shims=(shim(gateway=f"{RUNTIME}/s/{OTHER}/gw"),))).shims == ()


def test_mounts_in_the_directory_of_a_sandbox_that_nobody_knows_are_left_also_while_its_container_runs() -> None:
    mounts = (f"{RUNTIME}/s/{BOX}/slot/workspace", f"{RUNTIME}/s/{OTHER}/slot/x", f"{RUNTIME}/s/mine/x", f"{RUNTIME}/s")
    snapshot = Snapshot(RUNTIME, {OURS: BOX}, mounts=mounts)
    assert found(snapshot, frozenset({OTHER}), frozenset({BOX})) == Leftover(BOX, mounts=mounts[:1])
    assert found(snapshot, frozenset({BOX})) == Leftover(OTHER, mounts=mounts[1:2])


def test_what_is_noted_badly_is_not_noted() -> None:
    snapshot = Snapshot(RUNTIME, {"short": BOX, OURS: SandboxId("x")}, cgroups=(f"/cg/docker/{OURS}",))
    assert leftovers(snapshot, NOBODY, NOBODY) == ()


@pytest.mark.parametrize(
    ("name", "container"),
    [
        (OURS, OURS),
        (f"docker-{OURS}.scope", OURS),
        (f"cri-{OURS}.scope", ""),
        (OURS.upper(), ""),
        (OURS[:-1], ""),
        (f"{OURS}x", ""),
        ("docker", ""),
    ],
)
def test_a_cgroups_name_tells_of_a_container(name: str, container: str) -> None:
    assert container_of(name) == container


def test_what_is_left_is_told_in_a_line() -> None:
    left = Leftover(BOX, OURS, (shim(),), ("/a", "/b"))
    assert left.told == f"1 shim, 2 cgroups of {OURS}"
    assert Leftover(BOX, mounts=("/x",)).told == "1 mount of no container"
