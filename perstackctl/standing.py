"""A job's record in words: where it stands, what it cost, what it may use. Pure."""

from typing import Final

from perstackctl.amounts import dollars
from perstackctl.client.values import Budgets, Job, JobState
from perstackctl.output import elapsed

# Stable reasons of jobs that a limit stopped: a word of the reason, and what people call the limit.
_LIMITS: Final = (("step", "steps"), ("token", "tokens"), ("money", "cost"), ("tool", "calls"), ("clock", "time"))


def state(job: Job) -> str:
    """Where a job stands, for people: waiting (2), stopped (tokens), paused."""
    if job.state is JobState.STOPPED:
        reason = job.error_reason.lower()
        limit = next((name for word, name in _LIMITS if word in reason), "")
        return f"{job.state.value} ({limit})" if limit else job.state.value
    if job.state.final:
        return job.state.value
    asked = f" ({job.open_questions})" if job.open_questions else ""
    return f"{'paused' if job.paused else job.state.value}{asked}"


def cost(job: Job) -> str:
    """What a job's model calls cost, as far as it is known."""
    if job.cost_known:
        return dollars(job.cost_microdollars)
    return f">{dollars(job.cost_microdollars).lstrip('<')}" if job.cost_microdollars else "unknown"


def use(job: Job) -> str:
    """What a job took, in one line."""
    return f"{counted(job.steps, 'step')}, {counted(job.tool_calls, 'tool call')}, cost {cost(job)}"


def counted(number: int, noun: str) -> str:
    """A number of things."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def limits(budgets: Budgets) -> str:
    """A job's limits for people; empty when it has none."""
    named = [
        f"{budgets.max_steps:,} steps" if budgets.max_steps else "",
        elapsed(budgets.wall_clock_ms) if budgets.wall_clock_ms else "",
        f"{budgets.tokens:,} tokens" if budgets.tokens else "",
        dollars(budgets.microdollars) if budgets.microdollars else "",
        f"{budgets.tool_calls:,} tool calls" if budgets.tool_calls else "",
    ]
    return ", ".join(filter(None, named))
