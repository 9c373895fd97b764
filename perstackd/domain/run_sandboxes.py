"""Where a run lives, as its log tells it: its sandboxes and how far each one's session is. Pure.

A later daemon that gets these sandboxes back knows from this what they were told and what of their words is stored, so
that nothing is asked for twice and nothing that is repeated counts twice.
"""

from dataclasses import dataclass, replace
from typing import Final, TypeAlias, get_args

from perstackd.domain.dispatch import EXPERT, dispatch
from perstackd.domain.events import (
    CallTools,
    ElicitationRequested,
    InitializeRuntime,
    Payload,
    QuestionAnswered,
    QuestionKind,
    ResumeToolCalls,
    SandboxAssigned,
    SandboxReleased,
    SkillConnected,
    SkillDisconnected,
    SkillStarting,
    SkillStderr,
    SkillToolsChanged,
)
from perstackd.domain.ids import SandboxId
from perstackd.domain.run_state import Phase, RunState

_NEWS: TypeAlias = (
    InitializeRuntime | SkillStarting | SkillConnected | SkillToolsChanged | SkillStderr | SkillDisconnected
)
_TOLD: Final = get_args(_NEWS)
_SKILL: Final = "skill:"


@dataclass(frozen=True, slots=True)
class Held:
    """A sandbox that the run has. `place` is EXPERT or its skill. `step` is the one that its session is at, by its own
    count: one for each wave of calls that it has answered. `calls` were given to it and have no result in the log, in
    order.
    """

    sandbox_id: SandboxId
    place: str
    step: int
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunSandboxes:
    """Those of the highest fence. `told` is their news that is in the log. `dispatched`: the calls that are due were
    given to them, not to sandboxes before them. `answers` are those of people to their servers' questions, by call and
    number, while the call goes on; None was not given yet.
    """

    fence: int = 0
    held: tuple[Held, ...] = ()
    told: tuple[Payload, ...] = ()
    dispatched: bool = False
    answers: tuple[tuple[str, int, QuestionAnswered | None], ...] = ()


def role_of(place: str) -> str:
    """How the log names the place."""
    return f"{_SKILL}{place}" if place else "expert"


def followed(known: RunSandboxes, payload: Payload, step: int, before: RunState, after: RunState) -> RunSandboxes:
    """After an event of the run at `step`; `before` and `after` are the run's states around it."""
    match payload:
        case SandboxAssigned():
            return _assigned(known, payload, step)
        case SandboxReleased(sandbox_id=sandbox_id):
            return replace(known, held=tuple(each for each in known.held if each.sandbox_id != sandbox_id))
        case ElicitationRequested(question=question, elicitation=number):
            return replace(known, answers=(*known.answers, (question.call_id, number, None)))
        case QuestionAnswered(kind=QuestionKind.ELICITATION):
            return replace(known, answers=tuple(_with_answer(each, payload) for each in known.answers))
    if isinstance(payload, _TOLD):
        return replace(known, told=(*known.told, payload))
    if isinstance(payload, CallTools | ResumeToolCalls) and after.phase is Phase.CALLING:
        return _dispatched(known, after)
    if before.phase is Phase.CALLING and after.phase is not Phase.CALLING:
        return _answered(known)
    return known


def _assigned(known: RunSandboxes, assigned: SandboxAssigned, step: int) -> RunSandboxes:
    if assigned.fence < known.fence:
        return known
    place = assigned.role.removeprefix(_SKILL) if assigned.role.startswith(_SKILL) else EXPERT
    new = Held(assigned.sandbox_id, place, step)
    if assigned.fence > known.fence:
        return RunSandboxes(assigned.fence, (new,))
    return replace(known, held=(*known.held, new))


def _dispatched(known: RunSandboxes, state: RunState) -> RunSandboxes:
    own = frozenset(each.place for each in known.held if each.place)
    orders = dict(dispatch(state, own).sandboxes)
    held = (replace(each, calls=tuple(call.call_id for call in orders.get(each.place, ()))) for each in known.held)
    return replace(known, held=tuple(held), dispatched=True, answers=())


def _answered(known: RunSandboxes) -> RunSandboxes:
    """Every sandbox that was given calls has reported, and asks for its next step."""
    held = (replace(each, step=each.step + 1, calls=()) if each.calls else each for each in known.held)
    return replace(known, held=tuple(held), dispatched=False, answers=())


def _with_answer(
    asked: tuple[str, int, QuestionAnswered | None], fact: QuestionAnswered
) -> tuple[str, int, QuestionAnswered | None]:
    call_id, number, answer = asked
    is_it = answer is None and call_id == fact.call_id and fact.id.endswith(f"e{number}")
    return (call_id, number, fact) if is_it else asked
