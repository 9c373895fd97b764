"""Asks this machine's pip, uv and npm where they take packages from. Once, at the start; at most half a minute."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from perstackd.adapters.package_indexes.found import Judged, NpmRegistries, PythonIndexes, npm_grant, python_grant
from perstackd.adapters.package_indexes.uv_settings import UvIndexes, uv_indexes
from perstackd.ports.package_indexes import PackageIndexes

_SECONDS: Final = 10.0
# What the tools read; nothing else of the daemon's environment is theirs, least of all the keys of providers.
_NAMES: Final = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
_PREFIXES: Final = ("PIP_", "UV_", "NPM_CONFIG_")
# pip's own order of precedence over files and variables, and the two hosts that it has built in.
_ASK_PIP: Final = """
import json
from pip._internal.commands import create_command
from pip._internal.models.index import PyPI
chosen, _ = create_command("install").parse_args([])
print(json.dumps({
    "index": "" if chosen.no_index else chosen.index_url,
    "extra": [] if chosen.no_index else chosen.extra_index_urls,
    "public": PyPI.simple_url,
    "public_files": PyPI.file_storage_domain,
}))
"""
_log = structlog.get_logger(__name__)


def read_package_indexes(environment: Mapping[str, str] | None = None) -> PackageIndexes:
    """The indexes of this machine. Blocking. What is missing or unusable is a line of the log that says what to do."""
    own = _for_tools(os.environ if environment is None else environment)
    python, npm = python_grant(_python(own)), npm_grant(_npm(own))
    for kind, judged, name in (("python", python, "UV_DEFAULT_INDEX"), ("npm", npm, "npm_config_registry")):
        _report(kind, judged, name)
    return PackageIndexes(npm=npm.grant, python=python.grant)


def _report(kind: str, judged: Judged, name: str) -> None:
    for remark in judged.remarks:
        _log.warning("package index", kind=kind, why=remark)
    if judged.grant.rules:
        hosts = [f"{rule.host}:{rule.port}" for rule in judged.grant.rules]
        _log.info("package index", kind=kind, hosts=hosts)
    else:
        remedy = f"install the tool on this machine, or give perstackd the variable {name} with the index's address"
        _log.warning("package index", kind=kind, why="no tool and no configuration names one", remedy=remedy)


def _for_tools(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name in _NAMES or name.upper().startswith(_PREFIXES)}


# --- Python ---------------------------------------------------------------------------------------------------------
def _python(environment: Mapping[str, str]) -> PythonIndexes:
    """uv's own configuration where it has some; pip's, which every machine's mirror is set up in, where it has none."""
    pip, uv = _pip(environment), _uv(environment)
    extra = tuple(dict.fromkeys((*uv.extra, *pip.extra)))
    return PythonIndexes(uv.default or pip.index, extra, pip.public, pip.public_files)


def _uv(environment: Mapping[str, str]) -> UvIndexes:
    try:
        return uv_indexes(environment, Path(environment.get("HOME") or Path.home()))
    except ValueError as error:
        _log.warning("package index", kind="python", why=f"uv's configuration is not read: {error}")
        return UvIndexes()


def _pip(environment: Mapping[str, str]) -> PythonIndexes:
    for python in _pythons(environment):
        answer = _asked([python, "-I", "-c", _ASK_PIP], environment)
        if isinstance(answer, dict):
            extra = tuple(_texts(answer.get("extra")))
            return PythonIndexes(extra=extra, **{name: _text(answer, name) for name in _PIP_TEXTS})
    # The variables are pip's own as well; its files cannot be found without it.
    return PythonIndexes(
        environment.get("PIP_INDEX_URL", ""), tuple(environment.get("PIP_EXTRA_INDEX_URL", "").split())
    )


_PIP_TEXTS: Final = ("index", "public", "public_files")


def _pythons(environment: Mapping[str, str]) -> Iterator[str]:
    yield sys.executable
    found = (shutil.which(name, path=environment.get("PATH")) for name in ("python3", "python"))
    yield from (path for path in found if path and path != sys.executable)


# --- npm ------------------------------------------------------------------------------------------------------------
def _npm(environment: Mapping[str, str]) -> NpmRegistries:
    npm = shutil.which("npm", path=environment.get("PATH"))
    answer = _asked([npm, "config", "list", "--json"], environment) if npm else None
    if not isinstance(answer, dict):
        return NpmRegistries(next((text for name, text in environment.items() if name.lower() == _REGISTRY), ""))
    scopes = {name.removesuffix(":registry"): name for name in answer if name[:1] == "@" and name.endswith(":registry")}
    return NpmRegistries(_text(answer, "registry"), {scope: _text(answer, name) for scope, name in scopes.items()})


_REGISTRY: Final = "npm_config_registry"


# --- asking ---------------------------------------------------------------------------------------------------------
def _asked(argv: Sequence[str], environment: Mapping[str, str]) -> Any:
    """The JSON that the program prints, or None with a line in the log. In /, where no project's settings are."""
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own tools, no shell
            argv,
            check=True,
            env=dict(environment),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        # Not its output: a configuration may hold credentials.
        _log.info("package index", program=argv[0], why=f"it did not answer: {type(error).__name__}")
        return None


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer.get(name)
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> Iterator[str]:
    yield from (item for item in (value if isinstance(value, list) else ()) if isinstance(item, str))
