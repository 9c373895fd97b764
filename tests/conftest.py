"""What every test has: uvloop under anyio, and a detector that fails a test whose event loop is blocked. And how tests
are shared among workers (`pytest -n`): a module stays in one, and what wants the machine to itself is marked `alone`,
which `tools/test` runs after all else.
"""

import asyncio
import gc
import inspect
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from functools import wraps
from typing import Any

import anyio
import pytest
import sniffio
from blockbuster import BlockBuster, blockbuster_ctx

# uvloop forks to start a program, and handlers of forks that gRPC has crash such a child now and then where it serves.
# Read when gRPC is loaded. The product starts programs by vfork, which calls no handlers.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

# Where chance begins is part of a test's name, and workers must agree on names: they inherit what is set here.
SEEDS = ("PERSTACK_CHAOS_SEED", "PERSTACK_FUZZ_SEED")
for seed in SEEDS:
    os.environ.setdefault(seed, str(1 + secrets.randbelow(99_999)))

TOGETHER = {
    "tests/escape/": "its daemons and its engine with gVisor are a session's: a second worker would make all again",
    "tests/integration/runner/": "a runner that is a program listens at the proxy's port, of which a machine has one",
}
# What takes minutes begins first, so that nobody has it last.
FIRST = (
    "tests/escape/",
    "tests/chaos/",
    "tests/e2e/",
    "tests/integration/",
    "tests/contracts/",
    "tests/rpc/",
    "tests/fuzz/",
)
ALONE = {
    "tests/e2e/test_adoption.py": "a daemon is killed and back within the seconds that a call takes",
    "tests/e2e/test_cancel.py": "a job is paused within the seconds that its call takes",
    "tests/e2e/test_engine_away.py": "bounds how long things take while an engine stands still",
    "tests/escape/test_bombs.py": "takes all processors and all that a uid may have, and bounds how slow a daemon gets",
    "tests/escape/test_floods.py": "holds a rate against the clock",
    "tests/escape/test_runner_place.py": "bounds how soon a daemon tells of a stranger",
    "tests/integration/docker/test_lifecycle.py": "counts the machine's mounts",
}
ENGINE_SECONDS = 300.0
"""What a test with a real engine may take: it hangs after that. Starts wait for each other, and for the machine."""
LEFT_SECONDS = 30.0
"""How long what a test leaves may take to end."""


@pytest.hookimpl(tryfirst=True)  # before the directory is made
def pytest_configure(config: pytest.Config) -> None:
    """Each worker has a directory below the run's; a short one, because the path of a socket has 107 bytes."""
    if config.getoption("numprocesses", 0) and not hasattr(config, "workerinput") and not config.option.basetemp:
        config.option.basetemp = tempfile.mkdtemp(prefix="pt-", dir="/tmp")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


@pytest.hookimpl(tryfirst=True)  # before -m looks for markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if module_of(item.nodeid) in ALONE:
            item.add_marker("alone")
        if item.get_closest_marker("docker") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(ENGINE_SECONDS))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: next((at for at, part in enumerate(FIRST) if item.nodeid.startswith(part)), 99))


def module_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class ByModule(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((part for part in TOGETHER if nodeid.startswith(part)), module_of(nodeid))

    config.option.loadscopereorder = False  # the order is FIRST's
    return ByModule(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How to run the same again."""
    chance = " ".join(f"{name}={os.environ[name]}" for name in (*SEEDS, "PERSTACK_FUZZ_EXAMPLES") if name in os.environ)
    terminalreporter.write_line(f"chance: {chance}")


# --- time-outs of async tests -----------------------------------------------------------------------------------------
# uvloop keeps to itself what pytest-timeout raises, and what hangs would hang for ever.
@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        pyfuncitem.obj = bounded(pyfuncitem.obj, seconds_of(pyfuncitem))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before anyio takes the function
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Generator[None, Any, Any]:
    made = fixturedef.func
    if inspect.isasyncgenfunction(made):
        fixturedef.func = bounded_fixture(made, seconds_of(request.node))
    elif inspect.iscoroutinefunction(made):
        fixturedef.func = bounded(made, seconds_of(request.node))
    try:
        return (yield)
    finally:
        fixturedef.func = made


def seconds_of(node: pytest.Item | pytest.Collector) -> float:
    """A fixture of a module or of more is given its marker, or the default."""
    marker = node.get_closest_marker("timeout")
    default = node.config.getoption("timeout") or node.config.getini("timeout")
    return float(marker.args[0] if marker else default)


def bounded(test: Callable[..., Awaitable[Any]], seconds: float) -> Callable[..., Awaitable[Any]]:
    """The test, which fails with where it was when its time is up."""

    @wraps(test)
    async def in_time(**arguments: Any) -> Any:
        result, where = None, None
        with anyio.move_on_after(seconds) as scope:
            try:
                result = await test(**arguments)
            except asyncio.CancelledError as cancelled:
                where = cancelled
                raise
        if scope.cancelled_caught:
            raise AssertionError(f"it took longer than {seconds:g} s; where it was is above") from where
        return result

    return in_time


def bounded_fixture(fixture: Callable[..., AsyncIterator[Any]], seconds: float) -> Callable[..., AsyncIterator[Any]]:
    """The fixture, whose beginning and whose end are bounded; between them it may keep scopes of its own open."""

    @wraps(fixture)
    async def in_time(**arguments: Any) -> AsyncIterator[Any]:
        steps = fixture(**arguments)
        async with asyncio.timeout(seconds):
            value = await anext(steps)
        yield value
        async with asyncio.timeout(seconds):
            async for _ in steps:
                raise AssertionError("a fixture yields once")

    return in_time


# --- fixtures ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(autouse=True)
def blocking_calls() -> Iterator[BlockBuster]:
    """Blocking calls made by our own code on the event loop raise BlockingError."""
    ours = ["perstackd", "perstackctl", "perstack_egress", "perstack_runner"]
    with blockbuster_ctx(scanned_modules=ours) as detector:
        yield detector


@pytest.fixture(scope="session", autouse=True)
def grpc_stays() -> None:
    """gRPC kept for the whole run: the last server or channel of a process waits on the loop for gRPC's own thread."""
    from grpc._cython import cygrpc  # type: ignore[attr-defined]

    cygrpc.init_grpc_aio()


@pytest.fixture(autouse=True)
def shares_loop(request: pytest.FixtureRequest) -> None:
    """What is async runs on the one loop. Others do without: Hypothesis takes a test with a backend for several."""
    if "anyio_backend" in request.fixturenames:
        request.getfixturevalue("nothing_runs_on")


@pytest.fixture(scope="session")
async def one_loop(anyio_backend: tuple[str, dict[str, Any]]) -> AsyncIterator[None]:
    """One event loop for all async tests of a process, for as long as one of its fixtures is in use.

    gRPC has one queue of a process, whose events find their loop later: one that was closed in between fails what runs
    on the next. And what is still closing when its test ends (TLS, a subprocess' pipes) can close. Whoever speaks gRPC
    in this process does it here: a command of perstackctl, which has a loop of its own, is run as a program.
    """
    yield
    await at_rest(set())


@pytest.fixture
async def nothing_runs_on(one_loop: None, loop_is_idle_between: None) -> AsyncIterator[None]:
    """What a test begins has ended when it and its fixtures have: the next ones are on the same loop."""
    before = asyncio.all_tasks()
    yield
    await at_rest(before)


@pytest.fixture(scope="session")
def loop_is_idle_between(one_loop: None) -> None:
    """A test that is not async may run loops of its own. anyio would refuse: what it noted stays."""
    sniffio.current_async_library_cvar.set(None)


@pytest.fixture(scope="module", autouse=True)
def settled() -> Iterator[None]:
    """What a module leaves stays until the end: nothing walks through it again, which took up to a second each time."""
    yield
    gc.collect()
    gc.freeze()


async def at_rest(before: set[asyncio.Task[Any]]) -> None:
    """Until no task is left but those; a moment is theirs to end. Raises AssertionError with those that go on."""
    await asyncio.sleep(0)  # what was dropped, as a generator, is closed by a task that begins now
    if left := tests_own(asyncio.all_tasks() - before):
        _, left = await asyncio.wait(left, timeout=LEFT_SECONDS)
    for task in left:
        task.cancel()
    assert not left, f"goes on after its test: {sorted(map(repr, left))}"


def tests_own(tasks: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """But for the plugin's: the one that runs fixtures and tests, and one that waits for it."""
    plugins = {"_run_tests_and_fixtures", "_call_in_runner_task"}
    return {task for task in tasks if getattr(task.get_coro(), "__name__", "") not in plugins}
