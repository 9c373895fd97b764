"""The indexes that uv is told of by its variables and files; uv has no command that prints them."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class UvIndexes:
    """Addresses; `default` is empty where uv would use the one that it has built in."""

    default: str = ""
    extra: tuple[str, ...] = ()


def uv_indexes(environment: Mapping[str, str], home: Path) -> UvIndexes:
    """Variables before the user's file before the system's, as uv has it. Blocking.

    Raises:
        ValueError: a file that is there is no TOML, or cannot be read.
    """
    default = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or ""
    listed = f"{environment.get('UV_INDEX', '')} {environment.get('UV_EXTRA_INDEX_URL', '')}".split()
    for path in _files(environment, home):
        named = _of_file(path)
        default = default or named.default
        listed += named.extra
    return UvIndexes(_address(default), tuple(dict.fromkeys(map(_address, listed))))


def _files(environment: Mapping[str, str], home: Path) -> Iterator[Path]:
    if environment.get("UV_NO_CONFIG"):
        return
    if named := environment.get("UV_CONFIG_FILE"):
        yield Path(named)
        return
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "uv/uv.toml")
    system = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")
    yield from (Path(directory, "uv/uv.toml") for directory in system)
    yield Path("/etc/uv/uv.toml")


def _of_file(path: Path) -> UvIndexes:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return UvIndexes()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    pip = values.get("pip")
    default, extra = "", list[str]()
    for table in (values, pip if isinstance(pip, Mapping) else {}):
        for url, is_default in _entries(table):
            default = default or (url if is_default else "")
            extra += [] if is_default else [url]
    return UvIndexes(default, tuple(extra))


def _entries(table: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    for entry in _list(table.get("index")):
        if isinstance(entry, Mapping) and isinstance(entry.get("url"), str) and not entry.get("explicit"):
            yield entry["url"], entry.get("default") is True
    if isinstance(table.get("index-url"), str):
        yield table["index-url"], True
    yield from ((url, False) for url in _list(table.get("extra-index-url")) if isinstance(url, str))


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else []


def _address(text: str) -> str:
    """An index may be written NAME=ADDRESS."""
    name, equals, address = text.partition("=")
    return address if equals and "/" not in name and ":" not in name else text
