"""A runner against a fake daemon, in this process or as the real program."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from perstack_runner import hardening, landlock
from perstack_runner.loop import Runner
from perstack_runner.messages import Hello
from perstack_runner.tools import catalogue
from perstack_runner.workplace import Surroundings

from tests.integration.runner.fake_daemon import FakeDaemon, session
from tests.integration.runner.raw_http import RawHttp, serving

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join(str(ROOT / part) for part in ("proto", "sandbox-images/runner"))

# Both read files, which the program does before its loop runs.
HELLO = Hello("3.11.0", landlock.abi(), False, hardening.self_view())
SCHEMAS = catalogue.load()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short name: a socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="pr-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(autouse=True)
def home(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the runner may write: skills make directories of their own there."""
    path = place / "home"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    return path


@pytest.fixture
def workspace(place: Path) -> Path:
    path = place / "workspace"
    path.mkdir()
    return path


def surroundings(place: Path) -> Surroundings:
    return Surroundings(
        egress_path=str(place / "egress.sock"),
        landlock_abi=landlock.abi(),
        adopts_orphans=False,  # this process has children of other tests
        proxy_port=0,
        probe_root=str(place),
    )


@asynccontextmanager
async def in_process(socket_path: Path) -> AsyncIterator[Runner]:
    runner = Runner(str(socket_path), HELLO, surroundings(socket_path.parent), SCHEMAS)
    running = asyncio.ensure_future(runner.run())
    try:
        yield runner
    finally:
        runner.leave()
        async with asyncio.timeout(15):
            await running


@asynccontextmanager
async def as_program(socket_path: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program as the image starts it, but for its socket's path."""
    with (socket_path.parent / "stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perstack_runner", str(socket_path), *flags),
            env={**os.environ, "PYTHONPATH": PYTHONPATH},
            stderr=stderr,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def daemon(place: Path) -> AsyncIterator[FakeDaemon]:
    """With a runner in this process."""
    async with session(place / "r.sock", in_process) as served:
        yield served


@pytest.fixture
async def program(place: Path) -> AsyncIterator[FakeDaemon]:
    """With the runner as a program of its own."""
    async with session(place / "r.sock", as_program) as served:
        yield served


@pytest.fixture
async def http() -> AsyncIterator[RawHttp]:
    async with serving() as server:
        yield server
