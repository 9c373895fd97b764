"""The system prompt: all that an expert is told, visible in full in its startRun event.

Nothing that varies by run, such as time or paths, is in it: runs of one expert share the provider's prompt cache.
"""

from collections.abc import Sequence

from perstackd.domain.expert import Expert

_RULES = """\
You work in a loop: think, call tools, read their results, go on until the request is fulfilled.
- The current directory is your workspace. Paths are relative to it; nothing outside it can be changed.
- Calls in one turn run in parallel. Give calls that need each other's results one after the other.
- Look things up instead of guessing: list, search and read the part of a file that you need.
- Keep track of longer work with the todo tool. Open todos must be completed or cleared before you finish.
- When everything is done, call attemptCompletion, with your final answer as the text beside the call."""

_DELEGATION = """\
Delegates are experts of their own. They see nothing of this conversation: put into the query all that they need. \
They work in the same workspace."""


_IDENTITY = "You are {}, an expert."


def expert_of(system: str) -> str:
    """Whose prompt it is; empty when it is not one of ours."""
    before, after = _IDENTITY.split("{}")
    line = system.partition("\n")[0]
    return line[len(before) : -len(after)] if line.startswith(before) and line.endswith(after) else ""


def system_prompt(expert: Expert, delegates: Sequence[tuple[str, Expert]]) -> str:
    """The prompt of an expert; `delegates` are (tool name, expert) in the order of the tools."""
    parts = [_IDENTITY.format(expert.key), _RULES, f"<instruction>\n{expert.instruction.strip()}\n</instruction>"]
    rules = [(skill.name, skill.rule) for skill in expert.skills if skill.rule]
    if expert.base.rule:
        rules.insert(0, ("base tools", expert.base.rule))
    parts += [f'<skill name="{name}">\n{rule.strip()}\n</skill>' for name, rule in rules]
    if delegates:
        lines = [f"- {name}: {delegate.description or delegate.key}" for name, delegate in delegates]
        parts.append("\n".join([_DELEGATION, *lines]))
    return "\n\n".join(parts)
