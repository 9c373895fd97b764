"""Finding and reading perstack.toml. Its content is the daemon's to judge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import Definition, Finding
from perstackctl.request.text_file import read

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
        InvalidError: there is none, or it cannot be read, is over 4 MiB or not UTF-8.
    """
    path = (cwd / config).resolve() if config else find(cwd)
    return DefinitionFile(path, Definition(read(path, MAX_BYTES, "the definition"), str(path)))


def find(cwd: Path) -> Path:
    """The nearest perstack.toml from `cwd` upwards.

    Raises:
        InvalidError: reason `definition_missing`; the message says where it was looked for.
    """
    start = cwd.resolve()
    places = (start, *start.parents)
    for directory in places:
        if (directory / FILE_NAME).is_file():
            return directory / FILE_NAME
    looked = ", ".join(str(place) for place in places)
    raise InvalidError(
        f"there is no {FILE_NAME} in {looked}, and no registry is configured; go to the directory that has one or "
        "name it with --config PATH",
        reason="definition_missing",
    )


def located(finding: Finding, source: str) -> str:
    """A finding as compilers write them: file:line:column: severity: message."""
    place = source
    if finding.line:
        place += f":{finding.line}" + (f":{finding.column}" if finding.column else "")
    key = f" [{finding.key}]" if finding.key else ""
    return f"{place}: {finding.severity.value}: {finding.message}{key}"
