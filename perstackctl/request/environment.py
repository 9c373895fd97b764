"""Values for the names that experts require, from the environment and .env files. Only those names are sent."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from perstackctl.client.errors import InvalidError
from perstackctl.output import note
from perstackctl.request.text_file import is_file, read

if TYPE_CHECKING:
    from dotenv.parser import Binding

ENVIRONMENT: Final = "environment"
STORED: Final = "stored with the daemon"
MAX_FILE_BYTES: Final = 1 << 20
MAX_VALUE_BYTES: Final = 64 << 10
MAX_NOTES: Final = 5


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


@dataclass(frozen=True, slots=True)
class Found:
    """`values` are secret. `origins` says where each is from: `environment`, the path of a file, or `STORED`, which has
    no value here. `unread` are lines that say nothing, as file:line.
    """

    values: Mapping[str, str] = field(default_factory=dict, repr=False)
    origins: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()


def look_up(names: Sequence[str], files: Sequence[EnvFile], environ: Mapping[str, str]) -> Found:
    """What there is for these names, and for no others: of the environment, else of the last file that has it.

    Raises:
        InvalidError: `file_unreadable`, `too_large`, `not_utf8`.
    """
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    unread: list[str] = []
    wanted = frozenset(names)
    for file in files if names else ():
        for binding in _bindings(file):
            if binding.error:
                unread.append(f"{file.path}:{binding.original.line}")
            elif binding.key is not None and binding.key in wanted and binding.value is not None:
                values[binding.key], origins[binding.key] = binding.value, str(file.path)
    for name in names:
        if name in environ:
            values[name], origins[name] = environ[name], ENVIRONMENT
    return Found({name: _checked(name, value) for name, value in values.items()}, origins, tuple(unread))


def collect(
    names: Sequence[str],
    files: Sequence[EnvFile],
    environ: Mapping[str, str],
    stored: Collection[str] = (),
) -> dict[str, str]:
    """A value for each name, as `look_up` finds it; those that are `stored` with the daemon may have none here. Lines
    that cannot be read are told on standard error.

    Raises:
        InvalidError: `env_missing` with all names that have no value and where it was looked; as `look_up` does.
    """
    found = look_up(names, files, environ)
    for place in found.unread[:MAX_NOTES]:
        note(f"{place}: not NAME=VALUE, and left out; is a quote not closed?")
    missing = [name for name in names if name not in found.values and name not in stored]
    if missing:
        raise _missing(missing, files)
    return dict(found.values)


def looked_in(files: Sequence[EnvFile]) -> str:
    """The places as the end of a sentence; files that are not there are named as such."""
    places = [f"{file.path}{'' if is_file(file.path) else ' (not there)'}" for file in files]
    return "the environment" + (f" and in {', '.join(places)}" if places else "")


def _bindings(file: EnvFile) -> Iterable["Binding"]:
    if not file.required and not is_file(file.path):
        return ()
    # Imported here: most experts require nothing. Its parser alone: a value is what is written, not what the caller's
    # environment makes of it, and what cannot be read is ours to tell.
    from dotenv.parser import parse_stream

    text = read(file.path, MAX_FILE_BYTES, "the environment file")
    return parse_stream(StringIO(text.removeprefix("\ufeff")))


def _missing(names: Sequence[str], files: Sequence[EnvFile]) -> InvalidError:
    return InvalidError(
        f"no value for {', '.join(names)}, which the expert requires; looked in {looked_in(files)}"
        ". Export it, write NAME=VALUE into one of these files, name another with --env-path, or store it with the "
        "daemon: perstackctl secret put NAME",
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
