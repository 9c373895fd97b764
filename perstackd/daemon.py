"""The composition root: the only place that knows concrete classes and the order of start and stop.

Start: the lock on the state directory, the user namespace helper (before the loop: a daemon with threads never
forks), the runtime directory's mount, store, proxy, pool, jobs, and last the admin socket: who can connect finds
everything ready. Stop, in reverse: no new jobs, running ones drain, the socket closes, jobs end, sandboxes go, then
mounts, helper and lock.
"""

import asyncio
import gc
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import structlog
import uvloop
from grpc_health.v1 import health_pb2

from perstackd.adapters.answer_schemas import JsonAnswerSchemas
from perstackd.adapters.clock import SystemClock
from perstackd.adapters.definition.allowed import reaches_loopback
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.adapters.docker import ca_bundle
from perstackd.adapters.docker.calls import CallLimits
from perstackd.adapters.docker.counters import HostCounters
from perstackd.adapters.docker.engine import DockerSandboxes, EngineSettings
from perstackd.adapters.docker.halting import HostHalts
from perstackd.adapters.docker.ledger import Ledger
from perstackd.adapters.docker.traces import HostTraces
from perstackd.adapters.egress.program import ProgramOptions
from perstackd.adapters.egress.proxy import EgressProxy
from perstackd.adapters.egress.routes import OriginRoutes
from perstackd.adapters.landlock import landlock_abi
from perstackd.adapters.logs import configure
from perstackd.adapters.models import assembly
from perstackd.adapters.models.assembly import Providers
from perstackd.adapters.models.conversation_lines import ConversationLines
from perstackd.adapters.models.router import ModelRouter
from perstackd.adapters.package_indexes.reading import read_package_indexes
from perstackd.adapters.room import HostRoom
from perstackd.adapters.secrets.master_keys import open_master_keys
from perstackd.adapters.signals import Signals, StoppedWhileStartingError
from perstackd.adapters.state_lock import state_lock
from perstackd.adapters.store.documents import StoreDocuments
from perstackd.adapters.store.sqlite import open_store
from perstackd.adapters.systemd import notify
from perstackd.adapters.workspaces.host import HostWorkspaces
from perstackd.adapters.workspaces.settings import HostSettings
from perstackd.adapters.workspaces.userns import UserNamespaces
from perstackd.app.egress_rules import EgressDryRun
from perstackd.app.erasure import Erasure
from perstackd.app.errors import single_errors
from perstackd.app.feed import Feed
from perstackd.app.job_context import JobDefaults
from perstackd.app.jobs import Jobs
from perstackd.app.reach import Reach
from perstackd.app.replay import Replays
from perstackd.app.retention import Retention
from perstackd.app.run_context import RunLimits, RunServices
from perstackd.app.scrubbing import Scrubbing
from perstackd.app.secret_rotation import SecretRotation
from perstackd.app.secrets import Secrets
from perstackd.app.system import System, SystemFacts
from perstackd.app.transfer import Transfer
from perstackd.app.warm_pool import PoolLimits, PoolPorts, WarmPool
from perstackd.app.workspaces import Workspaces
from perstackd.config import Config, template
from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import ModelChoice
from perstackd.domain.loosening import costs
from perstackd.domain.messages import ToolSpec
from perstackd.ports.event_store import Store
from perstackd.ports.package_indexes import GRANT, PackageIndexes
from perstackd.ports.secrets import Sealer
from perstackd.rpc.runner import SocketRunnerLinks
from perstackd.rpc.secrets import SecretVault
from perstackd.rpc.server import AdminSocket, Api, JobLogs, admin_server
from perstackd.version import VERSION

_log = structlog.get_logger()


def run(config: Config, providers: Providers | None = None) -> None:
    """Serve until a signal. `providers` replaces the model providers, for tests and benchmarks.

    Raises:
        PerstackError: PRECONDITION `root_needed`, `state_locked`; whatever keeps a part from starting.
    """
    if os.geteuid() != 0:
        message = "perstackd mounts workspaces and must run as root; its sandboxes and its proxy do not"
        raise PerstackError(Kind.PRECONDITION, "root_needed", message)
    os.umask(0o022)  # directories that sandboxes look into must be passable; what is private sets its own mode
    scrubbing = Scrubbing()
    configure(config.log.level, scrubbing.text)
    with state_lock(config.state_directory):
        namespaces = UserNamespaces(config.workspaces.spare_uid)
        namespaces.start()
        workspaces = HostWorkspaces(_host_settings(config), namespaces)
        try:
            workspaces.prepare_root()
            uvloop.run(_serve(config, workspaces, scrubbing, providers))
        finally:
            workspaces.shutdown()
            workspaces.cleanup_root()
            namespaces.close()


async def _serve(config: Config, workspaces: HostWorkspaces, scrubbing: Scrubbing, providers: Providers | None) -> None:
    signals = Signals()
    socket = AdminSocket(config.socket_path, config.socket_group, config.grpc.reflection, config.runtime_directory)
    async with single_errors(), AsyncExitStack() as stack:
        try:
            async with signals.starting():
                parts = await stack.enter_async_context(assembled(config, workspaces, scrubbing, providers))
                health = await stack.enter_async_context(admin_server(socket, parts.api, parts.clock))
        except StoppedWhileStartingError:
            _log.info("stopped while starting")
            return
        _settle_memory()
        _log.info("serving", version=VERSION, socket=str(config.socket_path))
        notify("READY=1")
        await signals.first()
        notify("STOPPING=1")
        _log.info("draining", seconds=config.jobs.drain_s)
        await health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(parts.api.jobs.drain(config.jobs.drain_s))
            impatience = tasks.create_task(signals.second())
            await asyncio.wait({draining, impatience}, return_when=asyncio.FIRST_COMPLETED)
            draining.cancel()
            impatience.cancel()
        await parts.api.jobs.stop(STOP_SECONDS)  # while the socket is open: watchers see how their jobs end


def _settle_memory() -> None:
    """What was made until now stays: modules, schemas, descriptors. Left where it is, the collector would walk all of
    it again and again, and a full collection stopped the loop for tens of milliseconds under load.
    """
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True)
class Parts:
    """A daemon without its socket."""

    api: Api
    clock: SystemClock


@asynccontextmanager
async def assembled(
    config: Config, workspaces: HostWorkspaces, scrubbing: Scrubbing, providers: Providers | None = None
) -> AsyncIterator[Parts]:
    """Everything but the admin socket, started in order and stopped in reverse."""
    clock, started = SystemClock(), SystemClock().now_ms()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(await open_store(config.state_directory))
        secrets, rotation = await _secrets(config, store, clock)
        egress = await stack.enter_async_context(_egress(config, secrets, scrubbing))
        router = _router(config, store, partial(_provider_key, secrets, scrubbing), providers)
        stack.push_async_callback(router.close)
        settings = await asyncio.to_thread(_engine, config)
        sandboxes = await stack.enter_async_context(DockerSandboxes(settings))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        tasks.create_task(assembly.warm(config.models, router))  # beside the pool's start, which takes longer
        ports = PoolPorts(sandboxes, SocketRunnerLinks(clock), workspaces, egress, store.sandboxes, clock)
        pool = await stack.enter_async_context(_pool(config, _with_host(config, ports, sandboxes)))
        indexes = await _indexes(config)
        services = RunServices(
            pool,
            workspaces,
            egress,
            assembly.recorded(config.models, router),
            store.blobs,
            clock,
            base_tools(),
            indexes,
            assembly.prices(config.models),
            windows=config.models.windows(),
            secrets=secrets,
            scrubbing=scrubbing,
            reach=_reach(config, indexes),
        )
        jobs = await stack.enter_async_context(_jobs(config, store, services, secrets.keys, router))
        system = System(_facts(config, started), sandboxes, pool, jobs)
        managed = Workspaces(workspaces.managed, jobs.holds)
        logs = await stack.enter_async_context(_logs(config, store, jobs, clock, (secrets, managed)))
        vault = SecretVault(secrets, rotation, assembly.checker(router))
        dry_run = EgressDryRun(egress, jobs.resolve, services.reach)
        yield Parts(Api(jobs, pool, system, logs, dry_run, vault, managed), clock)


# --- parts ----------------------------------------------------------------------------------------------------------
def base_tools() -> tuple[ToolSpec, ...]:
    """The built-in tools, from the file that the runner reads as well."""
    document = resources.files("perstack.v1").joinpath("base_tools.json").read_text(encoding="utf-8")
    return tuple(
        ToolSpec(tool["name"], tool["description"], tool["inputSchema"], tool["readOnly"], tool["idempotent"])
        for tool in json.loads(document)
    )


def daemon_id(state_directory: Path) -> str:
    """Tells this daemon's containers from another's on the same engine: the same state, the same id."""
    return hashlib.sha256(str(state_directory).encode()).hexdigest()[:16]


def _host_settings(config: Config) -> HostSettings:
    return HostSettings(
        state=str(config.state_directory),
        runtime=str(config.runtime_directory),
        roots=tuple(str(root) for root in config.workspace_roots),
        managed_uid=config.workspaces.uid,
        ephemeral_bytes=config.workspaces.ephemeral_bytes,
        ephemeral_inodes=config.workspaces.ephemeral_inodes,
        named_bytes=config.workspaces.named_bytes,
        named_inodes=config.workspaces.named_inodes,
    )


def _with_host(config: Config, ports: PoolPorts, sandboxes: DockerSandboxes) -> PoolPorts:
    room = HostRoom(config.pool.min_free_memory, config.pool.min_free_disk, (config.state_directory,))
    traces = HostTraces(str(config.runtime_directory), _ledger(config), sandboxes.knows)
    return replace(ports, room=room, traces=traces, halts=HostHalts(), counters=HostCounters())


def _pool(config: Config, ports: PoolPorts) -> WarmPool:
    templates = [template(name, section) for name, section in config.templates.items()]
    for each in templates:
        for name, cost in costs(each):
            _log.warning("template is loosened", template=each.name, exception=name, cost=cost)
    limits = PoolLimits(uid_first=config.sandbox_uids[0], uid_last=config.sandbox_uids[1])
    return WarmPool(ports, templates, str(config.runtime_directory), limits)


def _jobs(config: Config, store: Store, services: RunServices, sealer: Sealer, router: ModelRouter) -> Jobs:
    return Jobs(
        store,
        Feed(store),
        services,
        definitions=TomlDefinitions(
            assembly.base_url_hosts(config.models),
            loopback_endpoints=reaches_loopback(config.egress.allow_addresses),
            provider_problem=router.problem,
        ),
        sealer=sealer,
        defaults=_defaults(config),
        check_provider=router.check,
        schemas=JsonAnswerSchemas(),
    )


def _router(config: Config, store: Store, keys: assembly.Keys, providers: Providers | None) -> ModelRouter:
    return ModelRouter(assembly.providers(config.models, store.blobs, keys) if providers is None else providers)


async def _secrets(config: Config, store: Store, clock: SystemClock) -> tuple[Secrets, SecretRotation]:
    """First of all: without the right master key nothing starts. A change of keys that was begun is completed."""
    keys = await open_master_keys(config.secrets.master_key, config.key_file, store.secrets)
    secrets = await Secrets.opened(store.secrets, keys, clock)
    rotation = SecretRotation(secrets, store.sealed_envs)
    await rotation.resume()
    return secrets, rotation


def _provider_key(secrets: Secrets, scrubbing: Scrubbing, provider: str, variable: str) -> str | None:
    """As it is stored, else as the environment has it. A key that is in use is kept out of the log."""
    key = secrets.provider_key(provider) or os.environ.get(variable)
    scrubbing.own.learn({f"{provider}-key": key.strip()} if key else {})
    return key


def _route_value(secrets: Secrets, scrubbing: Scrubbing, name: str) -> str | None:
    """As it is stored now. One that is in use is kept out of the log."""
    value = secrets.route_value(name)
    scrubbing.own.learn({f"route-{name}": value} if value else {})
    return value


@asynccontextmanager
async def _logs(
    config: Config, store: Store, jobs: Jobs, clock: SystemClock, kept: tuple[Secrets, Workspaces]
) -> AsyncIterator[JobLogs]:
    documents, writing, oldest = StoreDocuments(), jobs.checkpoints.writing, jobs.oldest_live
    transfer = Transfer(store, documents, config.state_directory, writing)
    keep_days = config.jobs.keep_days
    async with Retention(store, clock, keep_days=keep_days, oldest_live=oldest, writing=writing) as retention:
        yield JobLogs(Replays(store, ConversationLines()), transfer, Erasure(retention, *kept), documents)


def _egress(config: Config, secrets: Secrets, scrubbing: Scrubbing) -> EgressProxy:
    section = config.egress
    options = ProgramOptions(
        uid=section.uid,
        gid=section.uid,
        connections=section.max_tunnels,
        idle_timeout=section.idle_s,
        tunnel_bytes=section.max_tunnel_bytes,
        sandbox_bytes=section.max_sandbox_bytes,
        ca_bundle=str(section.ca_bundle or ""),
        allow_hosts=section.policy().hosts,
    )
    routes = OriginRoutes(section.origin_routes(), os.environ.get, partial(_route_value, secrets, scrubbing))
    return EgressProxy(allow_addresses=section.allow_addresses, options=options, routes=routes)


async def _indexes(config: Config) -> PackageIndexes:
    granted = any(section.grant == GRANT for section in config.templates.values())
    return await asyncio.to_thread(read_package_indexes) if granted else PackageIndexes()


def _reach(config: Config, indexes: PackageIndexes) -> Reach:
    skills = config.templates.get(config.skills_template)
    granted = skills is not None and skills.grant == GRANT
    return Reach(config.egress.policy(), indexes if granted else PackageIndexes())


def _engine(config: Config) -> EngineSettings:
    """Blocking: checks and copies the certificate authorities."""
    engine, bundle = config.engine, config.egress.ca_bundle
    return EngineSettings(
        daemon_id=daemon_id(config.state_directory),
        seccomp_path=str(seccomp_profile()),
        url=engine.url,
        ca_bundle=ca_bundle.installed(bundle, config.runtime_directory) if bundle else "",
        limits=CallLimits(call_seconds=engine.call_deadline_s, start_seconds=engine.start_deadline_s),
        ledger=_ledger(config),
    )


def _ledger(config: Config) -> Ledger:
    return Ledger(str(config.runtime_directory), daemon_id(config.state_directory))


def seccomp_profile() -> Path:
    """The sandbox profile: of the installed package, else of the source tree."""
    packaged = Path(__file__).parent / "data/seccomp/profile.json"
    return packaged if packaged.is_file() else Path(__file__).parents[1] / "sandbox-images/seccomp/profile.json"


def _defaults(config: Config) -> JobDefaults:
    models, jobs = config.models, config.jobs
    return JobDefaults(
        template=config.default_template,
        templates=frozenset(config.templates),
        model=ModelChoice(models.default_provider, models.default_model, models.default_reasoning),
        tiers=models.tier_models(),
        skills_template=config.skills_template,
        budgets=Budgets(
            max_steps=jobs.max_steps,
            wall_clock_ms=jobs.max_wall_clock_ms,
            tokens=jobs.max_tokens,
            microdollars=jobs.max_microdollars,
            tool_calls=jobs.max_tool_calls,
        ),
        max_running=jobs.max_running,
        store_patience_s=jobs.store_patience_s,
        limits=RunLimits(
            max_retries=jobs.max_retries,
            generation_timeout_ms=jobs.generation_timeout_ms,
            tool_timeout_ms=jobs.tool_timeout_ms,
            skill_start_timeout_ms=jobs.skill_start_timeout_ms,
            answer_margin_ms=jobs.answer_margin_ms,
            ask_hold_ms=jobs.ask_hold_ms,
        ),
    )


def _facts(config: Config, started: int) -> SystemFacts:
    return SystemFacts(
        VERSION,
        started,
        tuple(str(root) for root in config.workspace_roots),
        str(config.state_directory),
        config.models.default_provider,
        config.models.default_model,
        landlock_abi(),
    )


STOP_SECONDS: Final = 10.0

if sys.platform != "linux":
    raise ImportError("perstackd runs on Linux only: it mounts workspaces and reads /proc")
