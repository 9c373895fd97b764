"""Where `perstackd/app` writes a job's log, read from its source."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.crashing import APP


def call_sites() -> frozenset[str]:
    """`file:function` of every call of a log's `append`, and of a store's `append` or `create`, but for the log's
    own.
    """
    files = (path for path in APP.rglob("*.py") if path.name != "job_log.py")
    return frozenset(f"{path.relative_to(APP)}:{function}" for path in files for function in _in_file(path))


def _in_file(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    yield from _in_body(tree, "")


def _in_body(node: ast.AST, name: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.ClassDef):
            inner = f"{name}{child.name}."
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}{child.name}.<locals>."
        if isinstance(child, ast.Call) and _writes(child.func):
            yield name.removesuffix(".<locals>.")
        yield from _in_body(child, inner)


def _writes(called: ast.expr) -> bool:
    if not isinstance(called, ast.Attribute):
        return False
    owner = ast.unparse(called.value).rpartition(".")[2].lstrip("_")
    return (owner, called.attr) in {("log", "append"), ("store", "append"), ("store", "create")}
