"""Which request comes next: PURE. Says nothing about what is allowed, the daemon decides that; this only keeps to it.

The phases are the states of proto/perstack/v1/session.json, and a test walks that table beside this module. loop.py
feeds events in and carries the answers out, in order.
"""

from typing import Final, NamedTuple, TypeAlias, assert_never

from perstack_runner.messages import Assign, Finish, Probe, Result, Turn


# --- events beside the daemon's orders ------------------------------------------------------------------------------
class Welcomed(NamedTuple):
    """A stream is open, for the first time or again."""


class TakenOver(NamedTuple):
    """The workspace is open, the proxy listens."""


class SkillSettled(NamedTuple):
    """A skill is up, or will not come up."""

    skill: str


class CallsEnded(NamedTuple):
    """Every call of the turn in hand has a result."""

    step: int
    results: tuple[Result, ...]


Event: TypeAlias = Welcomed | Probe | Assign | TakenOver | SkillSettled | Turn | CallsEnded | Finish


# --- what to do -----------------------------------------------------------------------------------------------------
class AnswerProbe(NamedTuple):
    """Send what is at the path."""

    path: str


class TakeOver(NamedTuple):
    """Open the workspace, start the proxy; TakenOver when that is done."""

    assign: Assign


class SayReady(NamedTuple):
    """Send Ready, then start the skills."""


class AskTurn(NamedTuple):
    """Send NextTurn."""

    step: int


class RunCalls(NamedTuple):
    """Run the turn's calls; CallsEnded when all have a result."""

    turn: Turn


class Report(NamedTuple):
    """Send ToolResults."""

    step: int
    results: tuple[Result, ...]


class Leave(NamedTuple):
    """Stop everything and exit."""

    reason: str


Action: TypeAlias = AnswerProbe | TakeOver | SayReady | AskTurn | RunCalls | Report | Leave

WORKING: Final = ("preparing", "waiting", "running", "reported")
"""Phases in which news of skills may be sent."""


class Session(NamedTuple):
    """Where the session stands. `starting` names the skills that the first turn waits for."""

    phase: str = "new"
    step: int = 0
    starting: frozenset[str] = frozenset()


def decide(session: Session, event: Event) -> tuple[Session, tuple[Action, ...]]:
    """The session after `event`, and what is to be done, in order. What comes twice or too late does nothing."""
    match event:
        case Welcomed():
            return (session._replace(phase="idle") if session.phase == "new" else session), ()
        case Probe(path=path):
            return session, (AnswerProbe(path),) if session.phase == "idle" else ()
        case Assign():
            return _assigned(session, event)
        case TakenOver():
            following, asked = _settled(session._replace(phase="preparing"))
            return (following, (SayReady(), *asked)) if session.phase == "assigned" else (session, ())
        case SkillSettled(skill=skill):
            return _settled(session._replace(starting=session.starting - {skill}))
        case Turn():
            return _turn(session, event)
        case CallsEnded():
            return _reported(session, event)
        case Finish(reason=reason):
            leaving = session.phase != "finished"
            return session._replace(phase="finished"), (Leave(reason),) if leaving else ()
        case _:
            assert_never(event)


def _assigned(session: Session, assign: Assign) -> tuple[Session, tuple[Action, ...]]:
    if session.phase != "idle":
        return session, ()
    awaited = frozenset(skill.name for skill in assign.skills if skill.start == "first")
    return Session("assigned", max(1, assign.step), awaited), (TakeOver(assign),)


def _reported(session: Session, ended: CallsEnded) -> tuple[Session, tuple[Action, ...]]:
    if session.phase != "running" or ended.step != session.step:
        return session, ()
    following = ended.step + 1
    # The next turn is asked for at once, without waiting until the results are stored.
    return Session("waiting", following), (Report(ended.step, ended.results), AskTurn(following))


def _settled(session: Session) -> tuple[Session, tuple[Action, ...]]:
    if session.phase != "preparing" or session.starting:
        return session, ()
    return session._replace(phase="waiting"), (AskTurn(session.step),)


def _turn(session: Session, turn: Turn) -> tuple[Session, tuple[Action, ...]]:
    # A step may lie ahead: a skill's own sandbox is only asked in the steps that need it.
    if session.phase != "waiting" or turn.step < session.step:
        return session, ()
    if not turn.calls:
        return Session("waiting", turn.step + 1), (AskTurn(turn.step + 1),)
    return Session("running", turn.step), (RunCalls(turn),)
