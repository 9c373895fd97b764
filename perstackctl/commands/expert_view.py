"""How one expert and a whole file are shown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from perstackctl.client.resolution import Resolution, ResolvedExpert, ResolvedLimits, ResolvedSkill
from perstackctl.columns import cut, fitted, terminal_width, wrapped
from perstackctl.output import elapsed, pairs, plain, say, span
from perstackctl.request.definition import shown_path
from perstackctl.request.environment import EnvFile, Found, looked_in

_MAX_TREE: Final = 200
_RUNS_IN: Final = {"own": "own sandbox", "shared": "expert's sandbox", "": "no sandbox, you answer"}
_TYPES: Final = {
    "base": "built in",
    "mcpStdioSkill": "stdio",
    "mcpHttpSkill": "http",
    "mcpSseSkill": "sse",
    "interactiveSkill": "interactive",
}


def expert_document(found: Resolution, values: Found, key: str) -> dict[str, Any]:
    """Everything, for programs: where values are, never the values."""
    needed = [
        {"name": name, "neededBy": needed_by(found, name), "foundIn": values.origins.get(name)}
        for name in found.required_env
    ]
    shown: dict[str, Any] = plain(found)
    first = {"expert": shown["experts"][0]["key"]} if key and found.experts else {}
    return {**first, **shown, "requiredEnv": needed}


def say_experts(found: Resolution) -> None:
    """A row for each expert of the file."""
    rows = [
        (
            e.key,
            e.version,
            e.model or e.model_tier or "-",
            ", ".join(e.skills) or "-",
            ", ".join(e.delegates) or "-",
            e.description or "-",
        )
        for e in found.experts
    ]
    say(fitted(("EXPERT", "VERSION", "MODEL", "SKILLS", "DELEGATES", "DESCRIPTION"), rows))


def say_expert(found: Resolution, values: Found, files: Sequence[EnvFile], cwd: Path) -> None:
    """The first expert of what was resolved, with all that its job needs."""
    expert = found.experts[0]
    say(f"{expert.key} {expert.version}")
    if expert.description:
        say(wrapped(expert.description))
    say("\n" + pairs(_facts(expert, found)))
    say("\n" + fitted(("SKILL", "TYPE", "ISOLATION", "RUNS IN", "WORKSPACE"), map(_row, expert.skill_details)))
    say("\nTools")
    for skill in expert.skill_details:
        say(wrapped(_tools(skill), "    ", f"  {skill.name}: "))
    reaching = [(skill.name, hosts) for skill in expert.skill_details if (hosts := _hosts(skill))]
    say("\nReaches" if reaching else "\nReaches no host.")
    for name, hosts in reaching:
        say(wrapped(", ".join(hosts), "    ", f"  {name}: "))
    if expert.delegates:
        say("\nDelegates")
        for text in delegate_tree(found.experts):
            say(f"  {cut(text, terminal_width() - 2)}")
    if found.required_env:
        _say_required(found, values, files, cwd)


def _facts(expert: ResolvedExpert, found: Resolution) -> list[tuple[str, object]]:
    return [
        ("Model", _model(expert)),
        ("Reasoning", expert.reasoning),
        ("Steps", _steps(expert, found.limits)),
        ("Turn", f"{_time(found.limits.generation_timeout_ms)}, {found.limits.max_retries} retries"),
        ("Tool call", _time(found.limits.tool_timeout_ms)),
        ("Template", found.template),
        ("Tags", ", ".join(expert.tags)),
        ("Digest", f"{expert.digest[:23]}…" if expert.digest else ""),
    ]


def _model(expert: ResolvedExpert) -> str:
    if expert.model_tier and not expert.model:
        return f"{expert.provider}, and none that the tier {expert.model_tier} means here: jobs are refused"
    if expert.model_tier:
        return f"{expert.provider}/{expert.model}, by the tier {expert.model_tier}"
    return f"{expert.provider}/{expert.model}" if expert.model else f"{expert.provider}, no model named"


def _time(milliseconds: int) -> str:
    return elapsed(milliseconds) if milliseconds % 1000 else span(milliseconds)


def _steps(expert: ResolvedExpert, limits: ResolvedLimits) -> str:
    own = f", {expert.max_steps} a run of this expert" if expert.max_steps else ""
    return f"{limits.max_steps} a job{own}"


def _row(skill: ResolvedSkill) -> tuple[str, ...]:
    workspace = skill.workspace or ("as the job" if skill.isolation == "shared" else "-")
    type_ = _TYPES.get(skill.type, skill.type)
    return skill.name, type_, skill.isolation or "-", _RUNS_IN.get(skill.isolation, skill.isolation), workspace


def _hosts(skill: ResolvedSkill) -> tuple[str, ...]:
    remote = skill.type in {"mcpSseSkill", "mcpHttpSkill"}
    return ((urlsplit(skill.target).hostname or skill.target,) if remote else ()) + skill.allowed_domains


def _tools(skill: ResolvedSkill) -> str:
    """What the model will be shown of it, as far as it is known before a server runs."""
    parts = [", ".join(skill.tools or skill.pick) or "all that its server offers"]
    if skill.omit and not skill.tools:
        parts.append(f"without {', '.join(skill.omit)}")
    if skill.approval:
        whose = "each call" if skill.approval == ("*",) else ", ".join(skill.approval)
        parts.append(f"a person approves {whose}")
    if skill.tool_timeout_ms:
        parts.append(f"{_time(skill.tool_timeout_ms)} a call")
    if skill.start_timeout_ms:
        parts.append(f"{_time(skill.start_timeout_ms)} to start")
    if skill.lazy_init:
        parts.append("started when first used")
    return "; ".join(parts)


def delegate_tree(experts: Sequence[ResolvedExpert]) -> list[str]:
    """The first expert and all below it, each expanded where it is first seen; at most 200 lines."""
    known = {expert.key: expert for expert in experts}
    lines = [experts[0].key]
    for text in _branches(experts[0], known, {experts[0].key}, ""):
        if len(lines) == _MAX_TREE:
            return [*lines, "…"]
        lines.append(text)
    return lines


def _branches(
    expert: ResolvedExpert, known: Mapping[str, ResolvedExpert], seen: set[str], indent: str
) -> Iterator[str]:
    for number, reference in enumerate(expert.delegates, 1):
        last = number == len(expert.delegates)
        child = known.get(reference) or known.get(_key(reference))
        again = child is not None and child.key in seen
        about = "not in this file" if child is None else "see above" if again and child.delegates else child.description
        yield f"{indent}{'└─' if last else '├─'} {reference}{'  ' + about if about else ''}"
        if child is not None and not again:
            seen.add(child.key)
            yield from _branches(child, known, seen, f"{indent}{'   ' if last else '│  '}")


def _key(reference: str) -> str:
    """A reference without its version: @scope/name@1.2.0 is @scope/name."""
    name, at, _ = reference.rpartition("@")
    return name if at and name else reference


def needed_by(found: Resolution, name: str) -> list[str]:
    """The skills that are given a value, as expert/skill."""
    return [
        f"{expert.key}/{skill.name}"
        for expert in found.experts
        for skill in expert.skill_details
        if name in skill.required_env
    ]


def _say_required(found: Resolution, values: Found, files: Sequence[EnvFile], cwd: Path) -> None:
    rows = [
        (name, ", ".join(needed_by(found, name)) or "-", _origin(values.origins.get(name, ""), cwd))
        for name in found.required_env
    ]
    say("\n" + fitted(("REQUIRED", "NEEDED BY", "FOUND IN"), rows))
    shown = [EnvFile(Path(shown_path(file.path, cwd)), file.required) for file in files]
    if len(values.origins) < len(found.required_env):
        say(wrapped(f"Looked in {looked_in(shown)}."))


def _origin(origin: str, cwd: Path) -> str:
    return shown_path(Path(origin), cwd) if origin.startswith("/") else origin or "not found"
