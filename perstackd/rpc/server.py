"""The admin socket: one gRPC server with all services, in a directory that only its group may enter."""

import asyncio
import grp
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from perstack.v1 import (
    checkpoints_pb2_grpc,
    egress_pb2_grpc,
    experts_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    pools_pb2_grpc,
    replays_pb2_grpc,
    retention_pb2_grpc,
    runs_pb2_grpc,
    sandboxes_pb2_grpc,
    secrets_pb2_grpc,
    system_pb2_grpc,
    transfers_pb2_grpc,
    workspaces_pb2_grpc,
)

from perstackd.app.egress_rules import EgressDryRun
from perstackd.app.erasure import Erasure
from perstackd.app.jobs import Jobs
from perstackd.app.replay import Replays
from perstackd.app.store_trouble import StoreTrouble
from perstackd.app.system import System
from perstackd.app.transfer import Transfer
from perstackd.app.warm_pool import WarmPool
from perstackd.app.workspaces import Workspaces
from perstackd.domain.errors import Kind, PerstackError
from perstackd.ports.clock import Clock
from perstackd.ports.job_documents import JobDocuments
from perstackd.rpc.checkpoints import CheckpointServicer
from perstackd.rpc.egress import EgressServicer
from perstackd.rpc.errors import ErrorInterceptor
from perstackd.rpc.experts import ExpertServicer
from perstackd.rpc.jobs import JobServicer
from perstackd.rpc.pools import PoolServicer
from perstackd.rpc.replays import ReplayServicer
from perstackd.rpc.retention import RetentionServicer
from perstackd.rpc.runs import RunServicer
from perstackd.rpc.sandboxes import SandboxServicer
from perstackd.rpc.secrets import SecretServicer, SecretVault
from perstackd.rpc.system import SystemServicer
from perstackd.rpc.transfers import TransferServicer
from perstackd.rpc.workspaces import WorkspaceServicer

MAX_REQUEST: Final = 8 << 20
MAX_STREAMS: Final = 256
"""Calls at once on one connection; a client's further ones wait for their turn with the client."""
STOP_SECONDS: Final = 2.0
SERVICES: Final = (
    *("JobService", "ExpertService", "RunService", "SandboxService", "PoolService", "SystemService", "EgressService"),
    *("CheckpointService", "ReplayService", "TransferService", "RetentionService", "SecretService"),
    "WorkspaceService",
)


@dataclass(frozen=True, slots=True)
class AdminSocket:
    """Where it is and who may open it: the directory is 0750 and the socket 0660, both of `group` when one is named.

    A directory that exists and is not our `own` is left as it is, and must be closed to others already.
    """

    path: Path
    group: str = ""
    reflection: bool = False
    own: Path | None = None


@dataclass(frozen=True, slots=True)
class JobLogs:
    """What is done with the logs of jobs, and with all of a tenant."""

    replays: Replays
    transfer: Transfer
    erasure: Erasure
    documents: JobDocuments


@dataclass(frozen=True, slots=True)
class Api:
    """What the services bind to."""

    jobs: Jobs
    pool: WarmPool
    system: System
    logs: JobLogs | None = None
    dry_run: EgressDryRun | None = None
    vault: SecretVault | None = None
    workspaces: Workspaces | None = None


@asynccontextmanager
async def admin_server(socket: AdminSocket, api: Api, clock: Clock) -> AsyncIterator[health.aio.HealthServicer]:
    """Serve while the context is open; on leaving, calls get `STOP_SECONDS` to end and the socket is removed.

    Raises:
        PerstackError: PRECONDITION `socket_group_unknown`, `socket_directory_open`; UNAVAILABLE `socket_failed`.
    """
    await asyncio.to_thread(_prepare, socket)
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(clock)],
        options=[
            ("grpc.max_receive_message_length", MAX_REQUEST),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.so_reuseport", 0),
        ],
    )
    checks = _bind(server, api, reflected=socket.reflection)
    try:
        server.add_insecure_port(f"unix:{socket.path}")
        await server.start()
        await asyncio.to_thread(_open, socket)
    except (RuntimeError, OSError) as error:
        await server.stop(None)
        message = f"the admin socket {socket.path} could not be made: {error}"
        raise PerstackError(Kind.UNAVAILABLE, "socket_failed", message) from error
    try:
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell_of_store(api.jobs.trouble, checks))
            yield checks
            telling.cancel()
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(STOP_SECONDS)
        await asyncio.to_thread(socket.path.unlink, missing_ok=True)


async def _tell_of_store(trouble: StoreTrouble, checks: health.aio.HealthServicer) -> None:
    """The service `store` of the health check: whether what running jobs write is kept."""
    while True:
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        await checks.set("store", not_serving if trouble.why else serving)
        await trouble.changed()


def _bind(server: grpc.aio.Server, api: Api, *, reflected: bool) -> health.aio.HealthServicer:
    jobs_pb2_grpc.add_JobServiceServicer_to_server(JobServicer(api.jobs), server)
    experts_pb2_grpc.add_ExpertServiceServicer_to_server(ExpertServicer(api.jobs), server)
    runs_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(api.jobs), server)
    sandboxes_pb2_grpc.add_SandboxServiceServicer_to_server(SandboxServicer(api.pool), server)
    pools_pb2_grpc.add_PoolServiceServicer_to_server(PoolServicer(api.pool), server)
    system_pb2_grpc.add_SystemServiceServicer_to_server(SystemServicer(api.system), server)
    if api.logs is not None:
        _bind_logs(server, api.jobs, api.logs)
    if api.dry_run is not None:
        egress_pb2_grpc.add_EgressServiceServicer_to_server(EgressServicer(api.dry_run, api.pool), server)
    if api.vault is not None:
        secrets_pb2_grpc.add_SecretServiceServicer_to_server(SecretServicer(api.vault), server)
    if api.workspaces is not None:
        workspaces_pb2_grpc.add_WorkspaceServiceServicer_to_server(WorkspaceServicer(api.workspaces), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if reflected:
        package = jobs_pb2.DESCRIPTOR.package
        names: Sequence[str] = [f"{package}.{service}" for service in SERVICES]
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    return checks


def _bind_logs(server: grpc.aio.Server, jobs: Jobs, logs: JobLogs) -> None:
    checkpoints = CheckpointServicer(jobs.checkpoints, logs.documents)
    checkpoints_pb2_grpc.add_CheckpointServiceServicer_to_server(checkpoints, server)
    replays_pb2_grpc.add_ReplayServiceServicer_to_server(ReplayServicer(logs.replays, logs.documents), server)
    transfers_pb2_grpc.add_TransferServiceServicer_to_server(TransferServicer(logs.transfer), server)
    retention_pb2_grpc.add_RetentionServiceServicer_to_server(RetentionServicer(logs.erasure), server)


def _prepare(socket: AdminSocket) -> None:
    """The directory guards the socket: gRPC makes it under the umask, and its mode is set a moment later."""
    directory = socket.path.parent
    try:
        if not directory.exists() or directory == socket.own:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            directory.chmod(0o750)
            _give(directory, socket.group)
        elif directory.stat().st_mode & 0o007 or directory.stat().st_uid != os.geteuid():
            message = (
                f"the admin socket's directory {directory} is open to others or not ours, and who opens the socket "
                "is an administrator; name a socket in a directory of its own, which is made when it is missing"
            )
            raise PerstackError(Kind.PRECONDITION, "socket_directory_open", message)
        socket.path.unlink(missing_ok=True)
    except OSError as error:
        message = f"the admin socket's directory {directory} cannot be made ready: {error.strerror}"
        raise PerstackError(Kind.UNAVAILABLE, "socket_failed", message) from error


def _open(socket: AdminSocket) -> None:
    _give(socket.path, socket.group)
    socket.path.chmod(0o660)


def _give(path: Path, group: str) -> None:
    if not group:
        return
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError as error:
        message = f"there is no group {group!r}; make it (groupadd --system {group}) or change socket_group"
        raise PerstackError(Kind.PRECONDITION, "socket_group_unknown", message) from error
