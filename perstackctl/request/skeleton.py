"""A perstack.toml to begin with, written where nothing is lost by it."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from perstackctl.client.errors import ConflictError, InvalidError, PreconditionError
from perstackctl.request.definition import FILE_NAME, MAX_BYTES
from perstackctl.request.text_file import read

# As the daemon reads keys (docs/design/definition.md); the rest of the 511 characters is for a delegate's name.
_KEY: Final = re.compile(r"(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*")
_LONGEST: Final = 500
_IGNORED: Final = (".env", ".env.local")

_HEAD: Final = """\
# Experts for perstackctl run. Check this file with: perstackctl expert validate
# All keys are in perstackd's docs/design/definition.md.

# For all experts of this file; without them the daemon's own count.
# model = "claude-sonnet-5"
# maxSteps = 60                  # of a job, all its runs together

"""
_EXPERT: Final = """\
[experts."{name}"]
description = "{about}"
instruction = \"\"\"
{instruction}
\"\"\"
"""
_MINIMAL: Final = """\
# delegates = ["another-expert"]  # experts of this file that it may ask
# maxSteps = 20                  # of one run of this expert

# Without this table the expert has all built-in tools: it may also write files and run programs.
[experts."{name}".skills."@perstack/base"]
type = "mcpStdioSkill"
pick = ["readTextFile", "writeTextFile", "listDirectory", "findFiles", "searchText", "attemptCompletion"]
"""
_TEAM: Final = """\
# It may call these as tools. Each works in a sandbox of its own, in the same workspace, and knows what it is told.
delegates = ["{name}-checker"]

# The description is what the caller's model reads when it chooses.
[experts."{name}-checker"]
description = "Checks one claim about the files here. Put the claim and where to look into the query"
instruction = \"\"\"
You are told one claim about the files of the workspace. Look for evidence; answer with it, or with what contradicts it.
\"\"\"
maxSteps = 20                    # of one run; reached, the caller is told so

[experts."{name}-checker".skills."@perstack/base"]
type = "mcpStdioSkill"
pick = ["readTextFile", "listDirectory", "findFiles", "searchText", "attemptCompletion"]
"""
_SKILL: Final = """\

# An MCP server that speaks over its standard input and output. It has a secret and reaches a host, so it runs in a
# sandbox of its own: what the expert runs with exec sees neither.
[experts."{name}".skills.tracker]
type = "mcpStdioSkill"
command = "tracker-mcp"          # a program of the sandbox image
args = ["--read-only"]
requiredEnv = ["TRACKER_TOKEN"]  # perstackctl takes it from your environment or from .env, beside this file
allowedDomains = ["api.tracker.example"]
# pick = ["list_issues"]         # only these of its tools
# approval = ["close_issue"]     # a person is asked before these
"""
_ABOUT: Final = {
    "minimal": "Answers questions about the files of the workspace",
    "team": "Writes release notes for users",
    "skill": "Sums up the open issues of the tracker",
}
_INSTRUCTIONS: Final = {
    "minimal": "You answer questions about the files here. Read before you answer, and name the files that you read.",
    "team": "You write release notes for users. Read CHANGELOG.md, have {name}-checker check each claim, and write "
    "NOTES.md.",
    "skill": "You sum up the open issues of the tracker for the team, the oldest first, and write ISSUES.md.",
}
_BODIES: Final = {"minimal": _MINIMAL, "team": _TEAM, "skill": _SKILL}


def write(name: str, kind: str, directory: Path) -> list[str]:
    """Write the expert; returns what was done, in lines. `kind` is minimal, team or skill.

    A perstack.toml that is there gets the expert's tables at its end; nothing else of it changes.

    Raises:
        InvalidError: `name_invalid`, or the file there is not TOML; ConflictError `expert_exists`;
        PreconditionError: the directory or a file cannot be written.
    """
    if len(name) > _LONGEST or not _KEY.fullmatch(name):
        raise InvalidError(
            f"{name[:80]!r} is not an expert's name: lower case letters, digits, . _ - and, before it, @scope/; "
            f"at most {_LONGEST} characters",
            reason="name_invalid",
        )
    path = directory / FILE_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
        done = [_added(path, name, kind) if path.exists() else _begun(path, name, kind)]
        if kind == "skill":
            done.extend(_ignored(directory / ".gitignore"))
    except OSError as error:
        message = f"{error.filename or path} cannot be written: {error.strerror}; choose another place with --dir"
        raise PreconditionError(message, reason="not_writable") from None
    return done


def tables(name: str, kind: str) -> str:
    """The tables of an expert and of who comes with it."""
    instruction = _INSTRUCTIONS[kind].format(name=name)
    return _EXPERT.format(name=name, about=_ABOUT[kind], instruction=instruction) + _BODIES[kind].format(name=name)


def _begun(path: Path, name: str, kind: str) -> str:
    with path.open("x", encoding="utf-8") as file:  # never over a file that somebody makes meanwhile
        file.write(_HEAD + tables(name, kind))
    return f"Wrote {path}"


def _added(path: Path, name: str, kind: str) -> str:
    """The file is only ever appended to, and only when it is still a definition afterwards."""
    text, more = read(path, MAX_BYTES, "the definition"), tables(name, kind)
    present = _experts(path, text)
    for new in tomllib.loads(more)["experts"]:
        if new in present:
            message = f"{path} has an expert {new!r} already, and nothing was written; choose another name"
            raise ConflictError(message, reason="expert_exists")
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    try:
        tomllib.loads(text + gap + more)
    except tomllib.TOMLDecodeError:
        message = (
            f"{path} writes its experts in a way that tables cannot be added to; nothing was written. Change it to "
            f"[experts.NAME] tables, or add this yourself:\n\n{more}"
        )
        raise PreconditionError(message, reason="not_extendable") from None
    with path.open("a", encoding="utf-8") as file:
        file.write(gap + more)
    return f"Added {name} to {path}"


def _experts(path: Path, text: str) -> dict[str, Any]:
    try:
        experts = tomllib.loads(text).get("experts", {})
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidError(
            f"{path} is not TOML: {error}; nothing was written. Correct it first (perstackctl expert validate)",
            reason="definition_invalid",
        ) from None
    return experts if isinstance(experts, dict) else {}


def _ignored(path: Path) -> list[str]:
    """The .env files in .gitignore, when they are not there yet: a secret is committed only once."""
    text = read(path, MAX_BYTES, "the file") if path.exists() else ""
    missing = [pattern for pattern in _IGNORED if pattern not in {line.strip() for line in text.splitlines()}]
    if not missing:
        return []
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if not text or text.endswith("\n") else "\n") + "".join(f"{name}\n" for name in missing))
    return [f"Added {', '.join(missing)} to {path}"]
