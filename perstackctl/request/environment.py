"""Values for the names that experts require, from the environment and .env files. Only those names are sent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Final

from perstackctl.client.errors import InvalidError
from perstackctl.request.text_file import read

MAX_FILE_BYTES: Final = 1 << 20
MAX_VALUE_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A .env file: one that the caller named must be there, one that the definition names may be missing."""

    path: Path
    required: bool


def env_files(named: Sequence[str], defined: Iterable[str], cwd: Path, directory: Path) -> tuple[EnvFile, ...]:
    """The files to read, in order. Files that the caller names replace the definition's.

    The caller's are relative to `cwd`, the definition's to the directory of perstack.toml.
    """
    if named:
        return tuple(EnvFile(cwd / path, required=True) for path in named)
    return tuple(EnvFile(directory / path, required=False) for path in defined)


def collect(names: Sequence[str], files: Sequence[EnvFile], environ: Mapping[str, str]) -> dict[str, str]:
    """A value for each name: of the environment, else of the last file that has it.

    Raises:
        InvalidError: `env_missing` with all names that have no value and where it was looked; `file_unreadable`;
            `too_large`; `not_utf8`.
    """
    if not names:
        return {}
    found: dict[str, str] = {}
    for file in files:
        found.update({name: value for name, value in _values(file).items() if value is not None})
    values = {name: environ.get(name, found.get(name)) for name in names}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise _missing(missing, files)
    return {name: _checked(name, value) for name, value in values.items() if value is not None}


def _values(file: EnvFile) -> Mapping[str, str | None]:
    if not file.required and not file.path.is_file():
        return {}
    # Imported here: most experts require nothing.
    from dotenv import dotenv_values

    text = read(file.path, MAX_FILE_BYTES, "the environment file")
    # Without interpolation: a value is what is written, not what the caller's environment makes of it.
    return dotenv_values(stream=StringIO(text), interpolate=False)


def _missing(names: Sequence[str], files: Sequence[EnvFile]) -> InvalidError:
    looked = [f"{file.path}{'' if file.path.is_file() else ' (not there)'}" for file in files]
    return InvalidError(
        f"no value for {', '.join(names)}, which the expert requires; looked in the environment"
        + (f" and in {', '.join(looked)}" if looked else "")
        + ". Export it, write NAME=VALUE into one of these files, or name another with --env-path",
        reason="env_missing",
    )


def _checked(name: str, value: str) -> str:
    try:
        size = len(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidError(f"the value of {name} is not UTF-8", reason="not_utf8") from None
    if size > MAX_VALUE_BYTES:
        raise InvalidError(
            f"the value of {name} is {size:,} bytes, {MAX_VALUE_BYTES:,} (64 KiB) are allowed", reason="too_large"
        )
    return value
