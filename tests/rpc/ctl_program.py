"""The real program, called as a shell calls it, and what it is shown: what it prints, where, and what it ends with."""

import asyncio
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perstack.v1 import events_pb2

from tests.fakes.stories import story

TIMEOUT = 30
ROOT = Path(__file__).parents[2]
LAST = max(item.seq for item in story() if isinstance(item, events_pb2.Event))
SANDBOX = "01JD3ZSANDBOX0000000000001"


@dataclass
class Done:
    """How a call of perstackctl ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.out.splitlines()]


@dataclass
class Ctl:
    """Calls perstackctl in a directory of its own."""

    address: str
    cwd: Path
    env: dict[str, str] = field(default_factory=dict)

    async def start(self, *args: str, **streams: Any) -> asyncio.subprocess.Process:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.cwd), "PERSTACK_ADDRESS": self.address, "TERM": "xterm"}
        pipes = {"stdin": asyncio.subprocess.DEVNULL, "stdout": asyncio.subprocess.PIPE}
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "perstackctl",
            *args,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.cwd,
            env=env | self.env | {"PYTHONPATH": f"{ROOT}:{ROOT}/proto"},
            **(pipes | streams),
        )

    async def __call__(self, *args: str, stdin: bytes | None = None) -> Done:
        piped = {"stdin": asyncio.subprocess.PIPE} if stdin is not None else {}
        return await ended(await self.start(*args, **piped), stdin)


async def ended(process: asyncio.subprocess.Process, stdin: bytes | None = None) -> Done:
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(stdin)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Done(process.returncode, (out or b"").decode(), (err or b"").decode())


def endless(_job: str) -> list[Any]:
    """A job that goes on and on."""
    return story()[:6]
