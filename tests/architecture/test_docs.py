"""The pages say what the code does: tables are compared with it, commands looked up, examples parsed and run."""

import ast
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import click
import pytest
from google.rpc import code_pb2
from pydantic import BaseModel

from benchmarks.targets import TARGETS
from perstack_egress.refusal import STATUS
from perstackctl.client.errors import ClientError
from perstackctl.client.status import _KINDS as CLIENT_ERRORS
from perstackctl.client.values import EXIT_CODES
from perstackctl.main import INTERRUPTED, cli
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.adapters.docker.template_config import TemplateConfig
from perstackd.adapters.egress.config import RouteConfig
from perstackd.adapters.models.config import CompatibleConfig, PriceConfig, TierConfig
from perstackd.adapters.models.provider_errors import _KINDS as MODEL_REASONS
from perstackd.cli import main as daemon_cli
from perstackd.config import Config, load
from perstackd.rpc.errors import CODES
from tests.architecture.test_layout import files
from tests.fakes.daemon_api import FakeDaemon

ROOT = Path(__file__).parents[2]
PAGES = tuple(ROOT / name for name in files() if name.endswith(".md") and not name.startswith("tests/"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
NAMED = re.compile(r"`([^`]+)`")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(name: str, title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    level = title.split(" ", maxsplit=1)[0]
    _, found, rest = page(name).partition(f"\n{title}\n")
    assert found, f"{name} has no heading {title!r}"
    return re.split(rf"^{level} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def names(text: str) -> list[str]:
    """What stands in backticks, blocks of code left out."""
    return NAMED.findall(FENCE.sub("", text))


def rows(text: str) -> list[list[str]]:
    """The rows of all tables, without heads; cells as they are written."""
    found = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return [[cell.strip(" |") for cell in row] for row in found if not set("".join(row)) <= set("-| ")]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for path in PAGES:
        for found, text in FENCE.findall(path.read_text(encoding="utf-8")):
            if found == language:
                yield path.relative_to(ROOT).as_posix(), text


# --- links ----------------------------------------------------------------------------------------------------------
def test_every_link_between_pages_leads_somewhere() -> None:
    assert len(PAGES) > 10
    assert [f"{path.name}: {link}" for path in PAGES for link in _links(path) if not _leads_somewhere(path, link)] == []


def _links(path: Path) -> Iterator[str]:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    yield from (link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link)


def _leads_somewhere(path: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(path: Path) -> set[str]:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- tables ---------------------------------------------------------------------------------------------------------
def test_the_configuration_table_has_every_key_and_its_default() -> None:
    written = {
        cells[0].strip("`"): cells[1].strip("`") for cells in rows(section("docs/operations.md", "## Configuration"))
    }
    written.pop("key")
    assert written == dict(_configuration(Config, ""))


_NAMED: dict[str, type[BaseModel]] = {
    "compatible": CompatibleConfig,
    "tiers": TierConfig,
    "prices": PriceConfig,
    "routes": RouteConfig,
}


def _configuration(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if name == "templates":
            yield from _configuration(TemplateConfig, "templates.NAME.")
        elif name in _NAMED:
            yield from _configuration(_NAMED[name], f"{prefix}{name}.NAME.")
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _configuration(kind, f"{prefix}{name}.")
        elif field.is_required():
            yield prefix + name, "required"
        else:
            yield prefix + name, json.dumps(field.get_default(call_default_factory=True), default=str)


def test_the_guide_has_a_remedy_for_every_reason_and_for_no_other() -> None:
    text = section("docs/guide.md", "## When something fails")
    tables, _, defects = text.partition("### Defects")
    listed = {name for cells in rows(tables) for name in names(cells[0])}
    written = listed | {name for name in names(defects) if "_" in name}
    assert sorted(reasons() - written) == [], "add a row to docs/guide.md, or the name under Defects"
    assert sorted(written - reasons()) == [], "the code does not know these reasons any more"


@cache
def reasons() -> frozenset[str]:
    """Stable reasons in the daemon's source: the constants where an error or an end is made."""
    found = set(MODEL_REASONS)
    for name in files():
        if name.startswith("perstackd/") and name.endswith(".py"):
            for node in ast.walk(ast.parse(page(name))):
                if isinstance(node, ast.Call):
                    found |= _reasons_of(node)
    return frozenset(found)


_REASON = re.compile(r"[a-z]+(_[a-z]+)+|draining|internal|cancelled")
_MAKERS = {"_invalid", "_unsupported", "model_error", "_retry", "Fail", "GenerationFailed", "StopRunByError", "RunEnd"}


def _reasons_of(call: ast.Call) -> set[str]:
    called = ast.unparse(call.func).rpartition(".")[2]
    places = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
    places += call.args[1:2] if called == "PerstackError" else call.args[:4] if called in _MAKERS else []
    places += call.args[3:4] if called == "JobFinished" else []
    words = (node.value for place in places for node in ast.walk(place) if isinstance(node, ast.Constant))
    return {word for word in words if isinstance(word, str) and _REASON.fullmatch(word)}


def test_the_guide_names_every_refusal_of_the_proxy() -> None:
    text = section("docs/guide.md", "## Skills and what they may reach")
    assert sorted(set(STATUS) - {"internal", "client_gone"} - set(names(text))) == []


def test_the_readme_has_every_exit_code() -> None:
    written = {int(cells[0]) for cells in rows(section("README.md", "## Exit codes of perstackctl"))[1:]}
    of_errors = {error.exit_code for error in _below(ClientError)}
    assert written == {*EXIT_CODES.values(), *of_errors, INTERRUPTED}


def _below(error: type[ClientError]) -> Iterator[type[ClientError]]:
    yield error
    for below in error.__subclasses__():
        yield from _below(below)


def test_the_api_page_has_the_errors_of_both_sides() -> None:
    written = [[cell.strip("`") for cell in cells] for cells in rows(section("docs/api.md", "## Errors"))[1:]]
    by_code = {code.name: error for code, error in CLIENT_ERRORS.items()}
    expected = []
    for kind, number in CODES.items():
        error = by_code.get(code_pb2.Code.Name(number))
        name, exit_code = (error.__name__, error.exit_code) if error else ("InternalError", 1)
        expected.append([kind.value, code_pb2.Code.Name(number), name, str(exit_code)])
    assert written == expected


def test_the_api_page_has_every_method() -> None:
    text = section("docs/api.md", "## Services")
    published = re.findall(r"^rpc perstack\.v1\.(\w+)\.(\w+)", page("proto/snapshot.txt"), re.MULTILINE)
    ours = {name for pair in published if pair[0] != "RunnerService" for name in pair}
    assert "JobService" in ours
    assert sorted(name for name in ours if not re.search(rf"\b{name}`", text)) == []


def test_the_targets_are_those_that_are_measured() -> None:
    measured = page("docs/design/targets.md").partition("## Held by a test suite")[0]
    written = {name for cells in rows(measured) for name in names(cells[0]) if "." in name}
    assert written == set(TARGETS)


def test_the_design_names_every_event_and_every_base_tool() -> None:
    runtime, definition = page("docs/design/runtime.md"), section("docs/design/definition.md", "## Base tools")
    fixtures = page("tests/unit/store/fixtures/events-v1.jsonl").splitlines()
    events = {json.loads(line)["type"] for line in fixtures}
    assert sorted(name for name in events if not re.search(rf"\b{name}\b", runtime)) == []
    tools = {tool["name"] for tool in json.loads(page("proto/perstack/v1/base_tools.json"))}
    assert sorted(tools - set(names(definition))) == []


# --- commands and examples ------------------------------------------------------------------------------------------
def test_every_command_that_a_page_shows_is_there() -> None:
    shown = [(name, line) for name, text in blocks("sh") for line in text.splitlines()]
    shown += [(path.name, code) for path in PAGES for code in names(path.read_text(encoding="utf-8"))]
    wrong = [f"{name}: {line}: {why}" for name, line in shown for why in _command_problems(line)]
    assert wrong == []


def _command_problems(line: str) -> Iterator[str]:
    for part in re.split(r"\$\(|[;|)]|&&", line.partition(" #")[0]):
        words = _words(part)
        if words[:1] == ["make"] and len(words) > 1:
            if not re.search(rf"^{re.escape(words[1])}:", page("Makefile"), re.MULTILINE):
                yield f"the Makefile has no target {words[1]}"
        elif words[:1] in (["perstackctl"], ["perstackd"]) and len(words) > 1:
            yield from _option_problems(cli if words[0] == "perstackctl" else daemon_cli, words[1:])


def _words(part: str) -> list[str]:
    try:
        words = shlex.split(part)
    except ValueError:
        words = part.split()
    return [word for word in words if "=" not in word or word.startswith("-")]


def _option_problems(command: click.Command, words: list[str]) -> Iterator[str]:
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        if below is None:
            yield f"{command.name} has no command {words[0]}"
            return
        command, words = below, words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    yield from (
        f"{command.name} has no option {word}"
        for word in words
        if word[:1] == "-" and len(word) > 1 and word not in known
    )


def test_every_toml_example_is_accepted(tmp_path: Path) -> None:
    seen = {"definition": 0, "configuration": 0}
    for name, text in blocks("toml"):
        values = tomllib.loads(text)
        if "experts" in values:
            seen["definition"] += 1
            whole = text if "instruction" in text else text + '\n[experts.reporter]\ninstruction = "x"\n'
            parsed = TomlDefinitions().parse(whole, name)
            assert [finding.message for finding in parsed.findings] == [], name
        else:
            seen["configuration"] += 1
            file = tmp_path / "perstackd.toml"
            file.write_text(text)
            load(file)
    assert min(seen.values()) >= 2


@pytest.mark.anyio
async def test_the_client_example_runs_as_it_stands(tmp_path: Path) -> None:
    (program,) = [text for name, text in blocks("python") if name == "docs/api.md"]
    (tmp_path / "example.py").write_text(program)
    (tmp_path / "perstack.toml").write_text('[experts."fitness-assistant"]\ninstruction = "x"\n')
    socket = tmp_path / "d.sock"
    async with FakeDaemon(str(socket)) as daemon:
        environment = {**os.environ, "PERSTACK_ADDRESS": f"unix:{socket}"}
        with anyio.fail_after(60):
            done = await anyio.run_process([sys.executable, "example.py"], cwd=tmp_path, env=environment, check=False)
        assert done.stderr == b""
        assert done.stdout.decode().endswith("Ten minutes of rowing, then rest.\n")
        (request,) = daemon.requests("CreateJob")
        assert (request.expert_key, request.workspace.name) == ("fitness-assistant", "fitness")
