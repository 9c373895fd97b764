"""Finding and reading perstack.toml. Its content is the daemon's to judge."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.client.resolution import Finding
from perstackctl.client.values import Definition
from perstackctl.request.text_file import is_file, read

FILE_NAME: Final = "perstack.toml"
MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class DefinitionFile:
    """A perstack.toml on disk: `directory` is real (no links), for workspaces and .env files."""

    path: Path
    definition: Definition

    @property
    def directory(self) -> Path:
        """Where the file is."""
        return self.path.parent


def load(config: str, cwd: Path) -> DefinitionFile:
    """The file that `config` names, or the nearest one from `cwd` upwards.

    Raises:
        InvalidError: there is none, or it cannot be read, is over 4 MiB or not UTF-8; as `find` does.
    """
    path = (cwd / config).resolve() if config else find(cwd)
    return DefinitionFile(path, Definition(read(path, MAX_BYTES, "the definition"), str(path)))


def find(cwd: Path) -> Path:
    """The nearest perstack.toml from `cwd` upwards, not beyond a directory with a .git: a project ends there.

    A file of a stranger in a directory above, such as /tmp, is not taken: it could name your secrets and where to send
    them. One in `cwd` itself is: you went there.

    Raises:
        InvalidError: `definition_missing`, with where it was looked for; `definition_foreign`.
    """
    start = cwd.resolve()
    places = []
    for directory in (start, *start.parents):
        places.append(directory)
        found = directory / FILE_NAME
        if is_file(found):
            if directory != start:
                _check_owner(found, start)
            return found
        if _ends_project(directory):
            break
    raise _missing(places)


def shown_path(path: Path, cwd: Path) -> str:
    """The path as a person would write it: relative when it is below `cwd`."""
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def located(finding: Finding, source: str) -> str:
    """A finding as compilers write them: file:line:column: severity: message."""
    place = source
    if finding.line:
        place += f":{finding.line}" + (f":{finding.column}" if finding.column else "")
    key = f" [{finding.key}]" if finding.key else ""
    return f"{place}: {finding.severity.value}: {finding.message}{key}"


def _ends_project(directory: Path) -> bool:
    try:
        return (directory / ".git").exists()
    except OSError:
        return False


def _check_owner(found: Path, start: Path) -> None:
    """The file is ours, root's, of whoever called sudo, or of the owner of the directory that we are in."""
    sudo = os.environ.get("SUDO_UID", "")
    known = {os.geteuid(), 0, start.stat().st_uid, *((int(sudo),) if sudo.isdecimal() else ())}
    owner = found.stat().st_uid
    if owner not in known:
        raise InvalidError(
            f"{found} belongs to uid {owner} and lies above {start}; when you trust it, name it: --config {found}",
            reason="definition_foreign",
        )


def _missing(places: list[Path]) -> InvalidError:
    looked = ", ".join(str(place) for place in places)
    return InvalidError(
        f"there is no {FILE_NAME} in {looked}, and no registry is configured; go to the directory that has one, "
        "name it with --config PATH, or begin one with perstackctl expert new NAME",
        reason="definition_missing",
    )
