"""Which directory a job works in, from what the caller wrote."""

import os
from dataclasses import replace
from pathlib import Path

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import Workspace, WorkspaceKind


def choose(text: str, default: Path, cwd: Path, *, read_only: bool) -> Workspace:
    """`ephemeral`, a path (with a slash, `.` or `..`), or the name of a managed workspace; `default` when empty.

    Paths are sent as the real path, without links; whether they are below a workspace root is the daemon's to say.

    Raises:
        InvalidError: the path is not a directory.
    """
    match text:
        case "":
            return Workspace(WorkspaceKind.PATH, os.path.realpath(default), read_only)
        case "ephemeral":
            return Workspace(WorkspaceKind.EPHEMERAL, "", read_only)
        case _ if "/" in text or text in {".", ".."}:
            return Workspace(WorkspaceKind.PATH, _directory(text, cwd), read_only)
        case _:
            return Workspace(WorkspaceKind.NAMED, text, read_only)


def shared(workspace: Workspace) -> Workspace:
    """The same, for several jobs at a time.

    Raises:
        InvalidError: only a workspace that the daemon keeps under a name is guarded, and can be shared.
    """
    if workspace.kind is not WorkspaceKind.NAMED:
        raise InvalidError("--share is for a workspace with a name: --workspace NAME", reason="workspace_invalid")
    return replace(workspace, shared=True)


def _directory(text: str, cwd: Path) -> str:
    path = os.path.realpath(cwd / text)
    if not Path(path).is_dir():
        raise InvalidError(
            f"the workspace {path} is not a directory; make it, or give a name without a slash for a workspace that "
            "the daemon manages",
            reason="workspace_invalid",
        )
    return path
