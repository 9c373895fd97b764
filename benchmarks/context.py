"""context: what every model request carries beside its history, and how much of it two runs of one expert share.

The requests are those that leave by the vendor's SDK over HTTP, taken by a loopback server. The daemon's own code makes
them: jobs, runs, prompt, tools, adapter. Its sandboxes and its store are fakes, which neither figure depends on.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.failure import MeasurementError
from benchmarks.options import Options
from benchmarks.targets import Result, judged
from perstackd.adapters.models.anthropic import AnthropicModels, AnthropicSettings
from perstackd.app.run_context import RunServices
from perstackd.daemon import base_tools
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import ToolSpec
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec
from tests.fakes.messages_api import MessagesApi, scripted, serving
from tests.fakes.models import calls, says
from tests.unit.app.daemon_in_memory import World, world

BEYOND: Final = ("applyPatch", "findFiles", "readArtifact", "searchHistory", "searchText")
"""Base tools that the original does not have."""
MINIMA: Final = (512, 1024, 2048, 4096)
"""Tokens of the smallest prefix that Anthropic's cache takes; which of them depends on the model."""
BYTES_A_TOKEN: Final = 4.0  # more than is usual for schemas, so that the tokens are rather more than is said
QUERIES: Final = (("Plan my week.", WorkspaceSpec()), ("What did I do?", WorkspaceSpec(WorkspaceKind.NAMED, "log")))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request in the order in which the provider reads it."""

    tools: bytes
    system: bytes
    messages: bytes

    @property
    def prefix(self) -> bytes:
        """What stands before the history."""
        return self.tools + self.system


def measure(options: Options) -> Iterator[Result]:
    """Two runs of two turns each, of an expert with the original's tools; and one with all tools."""
    catalogue = base_tools()
    own = [tool.name for tool in catalogue if tool.name not in BEYOND]
    first, second = asyncio.run(_prompts(own, catalogue))
    everything, _ = asyncio.run(_prompts([tool.name for tool in catalogue], catalogue))
    size = len(first.prefix)
    detail: dict[str, object] = {
        "tools": len(own),
        "schemas_bytes": len(first.tools),
        "system_bytes": len(first.system),
        "all_tools": len(catalogue),
        "all_tools_bytes": len(everything.prefix),
        "original_bytes": 16_800,
    }
    yield judged("context.prompt_bytes", size, detail)
    shared = _shared(first.prefix + first.messages, second.prefix + second.messages)
    tokens = int(size / BYTES_A_TOKEN)
    reached = {str(least): tokens >= least for least in MINIMA}
    detail = {"shared_bytes": shared, "tokens_at_least": tokens, "cache_minimum_reached": reached}
    yield judged("context.shared_prefix_pct", 100 * min(shared, size) / size, detail)


async def _prompts(tools: Sequence[str], catalogue: tuple[ToolSpec, ...]) -> tuple[Prompt, Prompt]:
    """The last request of each of two runs."""
    turns = {"": [calls(("exec", {"command": "date"})), says("Done.")]}
    async with serving(fallback=scripted(turns)) as api:

        def change(services: RunServices) -> RunServices:
            models = AnthropicModels(lambda: "sk-bench", AnthropicSettings(api.url))
            return replace(services, models=models, base_tools=catalogue)

        with tempfile.TemporaryDirectory(prefix="perstackd-bench-", dir="/tmp") as directory:
            async with world(Path(directory), {}, change=change) as daemon:
                return await _of_run(daemon, api, tools, 0), await _of_run(daemon, api, tools, 1)


async def _of_run(daemon: World, api: MessagesApi, tools: Sequence[str], place: int) -> Prompt:
    query, workspace = QUERIES[place]
    record, _ = await daemon.finished(_definition(tools), "fitness-assistant", query=query, workspace=workspace)
    _check(record, api)
    body = api.received[-1].body
    prompt = Prompt(_document(body["tools"]), _document(body["system"]), _document(body["messages"]))
    if query not in prompt.messages.decode() or query in prompt.prefix.decode():
        raise MeasurementError(f"the query is not where it belongs in the request: {body}")
    return prompt


def _check(record: JobRecord, api: MessagesApi) -> None:
    if record.state is not JobState.COMPLETED or len(api.received) % 2:
        raise MeasurementError(f"the run is not the one that is promised: {record.state} {record.error_message}")


def _definition(tools: Sequence[str]) -> str:
    return f"""\
[experts."fitness-assistant"]
instruction = "You keep a training log."
[experts."fitness-assistant".skills."@perstack/base"]
type = "mcpStdioSkill"
command = "npx"
packageName = "@perstack/base"
pick = {json.dumps(list(tools))}
"""


def _document(value: Any) -> bytes:
    """As the SDK writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common from their start on."""
    return next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
