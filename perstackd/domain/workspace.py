"""Workspaces: the one directory that a run may change."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from perstackd.domain.errors import Kind, PerstackError


class WorkspaceKind(StrEnum):
    """Where the directory comes from."""

    EPHEMERAL = "ephemeral"
    NAMED = "named"
    PATH = "path"


_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    """What a job asks for. `value` is the name or the absolute host path; empty for ephemeral. `shared`: other jobs
    that say so too may work in the named workspace at the same time.
    """

    kind: WorkspaceKind = WorkspaceKind.EPHEMERAL
    value: str = ""
    read_only: bool = False
    shared: bool = False

    def validate(self) -> None:
        """Refuse names and paths that cannot be meant.

        Raises:
            PerstackError: INVALID, reason `workspace_invalid`.
        """
        if self.kind is WorkspaceKind.NAMED and not _NAME.fullmatch(self.value):
            raise _invalid(
                f"the workspace name {self.value[:80]!r} is not 1-63 of a-z 0-9 . _ -, first a letter or digit"
            )
        if self.kind is WorkspaceKind.PATH and not _plain_absolute(self.value):
            raise _invalid(f"the workspace path {self.value[:200]!r} is not an absolute path without . and .. parts")

    def __str__(self) -> str:
        return self.kind.value if self.kind is WorkspaceKind.EPHEMERAL else f"{self.kind.value}:{self.value}"


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a workspace holds: bytes, and inodes, which are files, directories and links."""

    bytes: int
    inodes: int


@dataclass(frozen=True, slots=True)
class NamedWorkspace:
    """A workspace that the daemon keeps. `bytes` and `files` are what is in it, at least that when not `counted`;
    `quota` is None where nothing caps it. `used_at` is milliseconds since the epoch, `holders` the jobs that have it
    now.
    """

    name: str
    bytes: int
    files: int
    counted: bool
    quota: Quota | None
    used_at: int
    holders: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What an archive brought: files with directories and links, and the bytes of their content."""

    files: int
    bytes: int


def named(name: str) -> WorkspaceSpec:
    """The spec of a named workspace. Raises PerstackError INVALID `workspace_invalid` for a name that cannot be one."""
    spec = WorkspaceSpec(WorkspaceKind.NAMED, name)
    spec.validate()
    return spec


def _plain_absolute(path: str) -> bool:
    parts = path.split("/")
    return path.startswith("/") and "\0" not in path and not {".", ".."} & set(parts)


def _invalid(message: str) -> PerstackError:
    return PerstackError(Kind.INVALID, "workspace_invalid", message)
