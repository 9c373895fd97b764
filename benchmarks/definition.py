"""definition: how long a large perstack.toml takes until its experts are values and every key has its place."""

import time
import tomllib
from collections.abc import Iterator
from typing import Final

from benchmarks.failure import MeasurementError
from benchmarks.options import Options
from benchmarks.quantiles import median, spread
from benchmarks.targets import Result, judged
from perstackd.adapters.definition.parser import TomlDefinitions

EXPERTS: Final = 1000
TEAM: Final = 8
"""Experts of one chain of delegates: nine levels are the most."""


def measure(options: Options) -> Iterator[Result]:
    """Parse, check and place, in this process and without a daemon; the first one, which compiles, is left out."""
    text = definition(EXPERTS)
    _seconds(text)
    taken = [_seconds(text) for _ in range(options.of(9, 30))]
    detail = spread(taken) | {"characters": len(text), "tomllib_alone_s": round(_toml_seconds(text), 3)}
    yield judged("definition.parse_1000_s", median(taken), detail)


def definition(experts: int) -> str:
    """Experts as people write them: an instruction of some lines, the built-in tools narrowed, a skill, a delegate."""
    head = 'model = "claude-sonnet-5"\nmaxSteps = 60\n\n[provider]\nproviderName = "anthropic"\n'
    return head + "".join(_expert(number, last=number == experts - 1) for number in range(experts))


def _expert(number: int, *, last: bool) -> str:
    delegates = "" if last or number % TEAM == TEAM - 1 else f'"expert-{number + 1}"'
    return f'''
[experts.expert-{number}]
version = "1.{number}.0"
description = "Does part {number} of the work and tells what it found"
instruction = """
You do one part of the work: number {number}.

1. Read the files that the query names.
2. Do what it asks, and nothing else.
3. Answer with what you found, in plain words.
"""
delegates = [{delegates}]
tags = ["part", "n{number}"]

[experts.expert-{number}.skills."@perstack/base"]
type = "mcpStdioSkill"
command = "npx"
packageName = "@perstack/base"
pick = ["readTextFile", "writeTextFile", "listDirectory", "attemptCompletion"]

[experts.expert-{number}.skills.tracker]
type = "mcpStdioSkill"
description = "Issues"
command = "tracker-mcp"
args = ["--project", "p{number}"]
requiredEnv = ["TRACKER_TOKEN"]
allowedDomains = ["api.tracker.example", "*.cdn.tracker.example"]
'''


def _seconds(text: str) -> float:
    began = time.perf_counter()
    parsed = TomlDefinitions().parse(text, "perstack.toml")
    took = time.perf_counter() - began
    if parsed.definition is None or len(parsed.definition.experts) != EXPERTS or parsed.findings:
        raise MeasurementError(f"the definition is not as it should be: {parsed.findings[:3]}")
    return took


def _toml_seconds(text: str) -> float:
    began = time.perf_counter()
    tomllib.loads(text)
    return time.perf_counter() - began
