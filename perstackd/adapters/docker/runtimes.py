"""Runtimes beside runc: whether the engine has them, new enough and with the options that a sandbox needs.

Asked once for each runtime, before its first start: an engine starts a container of an old gVisor without a word, and
programs inside fail later in odd ways.
"""

import re
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from perstackd.adapters.docker.posture_runsc import OPTIONS
from perstackd.domain.errors import Kind, PerstackError

LEAST_RUNSC: Final = 20240729  # older guests fail statx, and with it every Python (tried)
_SECONDS: Final = 10.0
_VERSION: Final = re.compile(r"(?:release-|0\.0~)(\d{8})")


def check_runtime(name: str, info: Mapping[str, Any]) -> str:
    """The runtime's version, in words; `info` is the engine's. Blocking: starts the runtime's program once.

    Raises:
        PerstackError: PRECONDITION `runtime_missing`, `runtime_too_old`, `runtime_options_missing`.
    """
    known = info.get("Runtimes") or {}
    if name not in known:
        raise PerstackError(
            Kind.PRECONDITION,
            "runtime_missing",
            f"the engine has no runtime {name!r} (it has {', '.join(sorted(known)) or 'none'}); add it to the engine's "
            f"daemon.json and restart the engine, or choose another runtime for the template",
        )
    if name != "runsc":
        return "known"
    own = known[name] or {}
    given = _given(own.get("runtimeArgs") or ())
    missing = [f"{option}={value}" for option, value in OPTIONS.items() if given.get(option) != value]
    if missing:
        raise PerstackError(
            Kind.PRECONDITION,
            "runtime_options_missing",
            f"the engine starts runsc without {' and '.join(missing)}: sandboxes would have no filter inside, or could "
            "not reach the daemon; add them to its runtimeArgs in daemon.json and restart the engine",
        )
    return _new_enough(_version(str(own.get("path", ""))))


def _given(arguments: tuple[str, ...] | list[str]) -> dict[str, str]:
    """A flag alone is true, as gVisor reads it; one dash is as good as two."""
    pairs = (str(word).lstrip("-").partition("=") for word in arguments)
    return {f"--{name}": value if equals else "true" for name, equals, value in pairs}


def _version(path: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the path is root's, from the engine's own configuration; no shell
            [path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        raise PerstackError(
            Kind.PRECONDITION, "runtime_missing", f"the engine's runsc at {path!r} does not start: {error}; install it"
        ) from error
    return (done.stdout.splitlines() or [""])[0]


def _new_enough(said: str) -> str:
    found = _VERSION.search(said)
    if found is None or int(found[1]) < LEAST_RUNSC:
        own = found[1] if found else said[:80] or "unknown"
        raise PerstackError(
            Kind.PRECONDITION,
            "runtime_too_old",
            f"runsc must be {LEAST_RUNSC} or newer, the engine's is {own}: programs in an older one fail; install a "
            "newer one (tools/runsc brings the next Debian suite's) and restart the engine",
        )
    return found[1]
