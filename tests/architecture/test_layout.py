"""The shape of the tree: what style.md asks for and no linter checks. Reads files only; exceptions have reasons."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from perstackd.domain import events

ROOT = Path(__file__).parents[2]
PROGRAMS = ("perstackd", "perstackctl", "perstack_egress", "sandbox-images", "examples", "benchmarks")

MODULE_LINES = 400
LONG_MODULES = {
    "tests/escape/inside.py": "given to `python3 -c` in a sandbox, so it is one text; one small function a probe",
}
FUNCTION_LINES = 40
LONG_FUNCTIONS = {
    "perstackd/domain/recorded_cause.py:cause_of": "one case for each event",
    "perstackd/domain/run_fold.py:evolve": "one case for each event",
}
FORBIDDEN_STEMS = frozenset({"utils", "util", "helpers", "helper", "common", "manager", "misc", "base"})
# Tasks that no TaskGroup owns, with who awaits them instead.
UNGROUPED_TASKS = {
    "perstackctl/client/sending.py": "what the requests raise is the caller's as it is; awaited there in any case",
    "perstackd/app/warm_pool/held_link.py": "a read outlives the hand-over from pool to run; HeldLink.close ends it",
    "perstackd/rpc/runner.py": "one a connection, made in a callback, which cannot wait; `close` ends them",
    "sandbox-images/runner/perstack_runner/children.py": "no cancellation may tear a start or an end; awaited there",
}
IMPORTERS: dict[str, tuple[str, ...]] = {
    "anthropic": ("perstackd/adapters/models/anthropic",),
    "openai": ("perstackd/adapters/models/openai",),
    "docker": ("perstackd/adapters/docker/", "benchmarks/"),
    "mcp": ("sandbox-images/runner/perstack_runner/skills/", "benchmarks/mcp_calls.py"),
    "mcp_types": ("sandbox-images/runner/perstack_runner/skills/",),
    "jsonschema": ("perstackd/adapters/answer_schemas", "perstackd/adapters/definition/schemas"),
    "pypdf": ("sandbox-images/runner/perstack_runner/tools/pdf_program.py",),
    "sqlite3": ("perstackd/adapters/store/", "benchmarks/"),
    "grpc": ("perstackd/rpc/", "perstackctl/client/", "benchmarks/"),
}
# Where packages come from is the machine's own affair. In pieces, so that this file does not name one either.
REGISTRY_HOSTS = (
    *("pypi" + ".org", "python" + "hosted", "npm" + "js.", "deb." + "debian", "archive." + "ubuntu"),
    *("security." + "ubuntu", "registry." + "yarn", "proxy." + "golang", "static." + "crates"),
)


@cache
def files() -> tuple[str, ...]:
    """What git tracks, or would: paths from the root, without what is deleted."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30).stdout
    return tuple(sorted(name for name in set(listed.splitlines()) if (ROOT / name).is_file()))


@cache
def sources() -> tuple[str, ...]:
    """Our own Python, generated code and tests left out."""
    own = (name for name in files() if name.split("/")[0] in PROGRAMS)
    return tuple(name for name in own if name.endswith(".py") or _is_script(name))


@cache
def own_tests() -> tuple[str, ...]:
    return tuple(name for name in files() if name.startswith("tests/") and name.endswith(".py"))


def _is_script(name: str) -> bool:
    if "." in Path(name).name:
        return False
    with (ROOT / name).open("rb") as file:
        first = file.readline(200)
    return first.startswith(b"#!") and b"python" in first


@cache
def nodes(name: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"), name)))


def test_the_tree_is_found() -> None:
    assert "perstackd/daemon.py" in sources()
    assert "sandbox-images/build" in sources()
    assert "sandbox-images/runner/perstack_runner/machine.py" in sources()
    assert {name.split("/")[0] for name in sources()} == set(PROGRAMS)
    assert "tests/architecture/test_layout.py" in own_tests()


def test_no_module_is_longer_than_400_lines() -> None:
    lines = {name: len((ROOT / name).read_text().splitlines()) for name in (*sources(), *own_tests())}
    long = {name: count for name, count in lines.items() if count > MODULE_LINES}
    assert {name: count for name, count in long.items() if name not in LONG_MODULES} == {}, "split it by noun"
    assert sorted(LONG_MODULES.keys() - long.keys()) == [], "it is short again: take it off the list"


def test_no_function_is_longer_than_40_lines() -> None:
    long = [found for name in sources() for found in _long_functions(name) if found not in LONG_FUNCTIONS]
    assert long == [], "a function does one thing; name its parts"


def _long_functions(name: str) -> Iterator[str]:
    for node in nodes(name):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{name}:{node.name}"


def test_exceptions_name_files_that_exist() -> None:
    named = {*LONG_MODULES, *UNGROUPED_TASKS, *(place.partition(":")[0] for place in LONG_FUNCTIONS)}
    assert sorted(named - {*sources(), *own_tests()}) == [], "an exception is gone: take it off the list"


def test_a_module_is_named_after_its_noun() -> None:
    python = (name for name in files() if name.endswith(".py"))
    assert [name for name in python if Path(name).stem in FORBIDDEN_STEMS] == []


def test_nothing_goes_through_a_shell() -> None:
    assert [place for name in sources() for place in _shell_calls(name)] == [], "pass argv as a list"


def _shell_calls(name: str) -> Iterator[str]:
    for node in nodes(name):
        if not isinstance(node, ast.Call):
            continue
        shell = any(key.arg == "shell" and getattr(key.value, "value", True) is not False for key in node.keywords)
        called = ast.unparse(node.func)
        if shell or called in {"os.system", "os.popen"} or called.endswith("create_subprocess_shell"):
            yield f"{name}:{node.lineno} {called}"


def test_every_task_has_an_owner() -> None:
    ungrouped = [place for name in sources() if name not in UNGROUPED_TASKS for place in _ungrouped_tasks(name)]
    assert ungrouped == [], "start it in a TaskGroup, or add the file to UNGROUPED_TASKS and say who awaits it"


def _ungrouped_tasks(name: str) -> Iterator[str]:
    for node in nodes(name):
        called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        owner, _, method = called.rpartition(".")
        of_loop = owner == "asyncio" or owner.endswith(("loop", "loop()"))
        if method == "ensure_future" or (method == "create_task" and of_loop):
            yield f"{name}:{getattr(node, 'lineno', 0)} {called}"


@pytest.mark.parametrize("package", sorted(IMPORTERS))
def test_a_heavy_package_is_imported_behind_its_one_adapter_only(package: str) -> None:
    importers = [name for name in sources() if package in _imports(name)]
    assert importers, f"nobody imports {package}: take it off the list"
    assert [name for name in importers if not name.startswith(IMPORTERS[package])] == []


@cache
def _imports(name: str) -> frozenset[str]:
    found = set()
    for node in nodes(name):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return frozenset(found)


def test_no_file_names_a_package_registry() -> None:
    naming = [
        f"{name}: {host}"
        for name in files()
        for host in REGISTRY_HOSTS
        if host in (ROOT / name).read_bytes().decode("utf-8", "replace").lower()
    ]
    assert naming == [], "packages come from wherever the machine's own configuration says"


def test_every_version_of_every_event_has_a_stored_fixture() -> None:
    payloads = [payload for union in get_args(events.Payload) for payload in (get_args(union) or (union,))]
    types = {str(payload.__dataclass_fields__["type"].default) for payload in payloads}
    assert "jobCreated" in types
    for version in range(1, events.SCHEMA + 1):
        stored = (ROOT / f"tests/unit/store/fixtures/events-v{version}.jsonl").read_text()
        assert [kind for kind in sorted(types) if f'"type":"{kind}"' not in stored] == [], f"version {version}"
