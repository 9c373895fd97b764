"""A runner's session: what its messages mean here, and which is legal when.

The table is proto/perstack/v1/session.json; a test holds both to each other. Nothing in a message names a tenant,
job or run: the session is bound to them when its sandbox is claimed.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from perstackd.domain.messages import JsonObject, ToolResultPart, ToolSpec


# --- the runner asks ------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a stream."""

    protocol_version: int
    runner_version: str
    python_version: str
    landlock_abi: int
    dumpable: bool
    session_token: str = ""
    self_view: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What an idle sandbox saw at the path of a Probe: None when nothing was there."""

    content: bytes | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The assignment was taken over."""

    workspace_path: str


class SkillPhase(StrEnum):
    """What happened to a skill's server."""

    STARTING = "starting"
    CONNECTED = "connected"
    FAILED = "failed"
    DISCONNECTED = "disconnected"
    STDERR = "stderr"
    TOOLS_CHANGED = "toolsChanged"


@dataclass(frozen=True, slots=True)
class SkillReport:
    """News of a skill's server."""

    skill: str
    phase: SkillPhase
    tools: tuple[ToolSpec, ...] = ()
    detail: str = ""
    server_name: str = ""
    server_version: str = ""


@dataclass(frozen=True, slots=True)
class NextTurn:
    """Asks for the turn of a step; may be asked again."""

    step: int


@dataclass(frozen=True, slots=True)
class ToolResults:
    """Results of a turn's calls, all of them, in order."""

    step: int
    results: tuple[ToolResultPart, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Output of a running call, for watchers only."""

    call_id: str
    offset: int
    delta: str


@dataclass(frozen=True, slots=True)
class BlobChunk:
    """Part of a blob that a result will refer to."""

    digest: str
    offset: int
    data: bytes
    last: bool


@dataclass(frozen=True, slots=True)
class Elicit:
    """A skill's server asks a person something while a call runs; `elicitation` counts 1, 2, 3 ... per sandbox."""

    call_id: str
    skill: str
    elicitation: int
    message: str
    schema: JsonObject


@dataclass(frozen=True, slots=True)
class Failure:
    """The runner cannot go on."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The stream ended; made by the link, never sent."""

    detail: str


Ask: TypeAlias = (
    Hello
    | ProbeResult
    | Ready
    | SkillReport
    | NextTurn
    | ToolResults
    | Progress
    | BlobChunk
    | Elicit
    | Failure
    | LinkLost
)


# --- the daemon orders ----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Probe:
    """Asks an idle sandbox for the content of a small file below /mnt."""

    path: str


class StartMode(StrEnum):
    """When a skill's server is started: before the first turn, beside it, or at the first call of one of its tools.
    The last two need its tools to be known already.
    """

    FIRST = "first"
    BESIDE = "beside"
    AT_CALL = "atCall"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a remote server is: transport `sse` or `http`. Header values are secrets."""

    transport: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class SkillOrder:
    """A skill to start: a command (argv) with the environment that it alone gets, whose values are secrets, or an
    endpoint. With `private` its cwd and HOME are its own and empty.
    """

    name: str
    command: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    endpoint: Endpoint | None = None
    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    start: StartMode = StartMode.FIRST
    private: bool = False
    tool_timeout_ms: int = 0
    start_timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Assign:
    """Binds the sandbox to a run. Its environment values are secrets: never log it."""

    expert_key: str
    workspace_path: str
    workspace_read_only: bool
    skills: tuple[SkillOrder, ...]
    base_tools: tuple[str, ...]
    exec_env: tuple[tuple[str, str], ...]
    step: int = 1
    tool_timeout_ms: int = 60_000
    skill_start_timeout_ms: int = 60_000
    inline_result_bytes: int = 32 << 10
    result_bytes: int = 10 << 20

    def __repr__(self) -> str:
        return f"Assign(expert_key={self.expert_key!r}, skills={[skill.name for skill in self.skills]!r})"


@dataclass(frozen=True, slots=True)
class RoutedCall:
    """A call for the sandbox that owns the tool, by the owner's name. `skill` is empty for base tools."""

    call_id: str
    skill: str
    tool: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TurnOrder:
    """The calls of a step that this sandbox runs, perhaps none."""

    step: int
    calls: tuple[RoutedCall, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class CancelCalls:
    """Stop these calls, or all when empty."""

    call_ids: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """What the runner asked is not allowed now."""

    reason: str


@dataclass(frozen=True, slots=True)
class ElicitAnswer:
    """A person's answer to an Elicit: `accept` with a JSON object, `decline` or `cancel`."""

    elicitation: int
    action: str
    content: str = ""


Order: TypeAlias = Probe | Assign | TurnOrder | Finish | CancelCalls | Refused | ElicitAnswer


# --- which is legal when --------------------------------------------------------------------------------------------
MAX_REFUSALS: Final = 3
MAX_ELICITATIONS: Final = 8

_ASKS: Final[dict[tuple[str, type], str]] = {
    ("new", Hello): "idle",
    ("idle", ProbeResult): "idle",
    ("assigned", Ready): "preparing",
    ("preparing", SkillReport): "preparing",
    ("preparing", NextTurn): "waiting",
    ("waiting", SkillReport): "waiting",
    ("waiting", NextTurn): "waiting",
    ("running", SkillReport): "running",
    ("running", Progress): "running",
    ("running", BlobChunk): "running",
    ("running", Elicit): "running",
    ("running", ToolResults): "reported",
    ("reported", SkillReport): "reported",
    ("reported", NextTurn): "waiting",
}
_RETURNED: Final = "returned"
_ASKS_ON_RETURN: Final[dict[type, str]] = {
    Ready: _RETURNED,
    SkillReport: _RETURNED,
    Progress: _RETURNED,
    BlobChunk: _RETURNED,
    Elicit: _RETURNED,
    NextTurn: "waiting",
    ToolResults: "reported",
}
"""A session that goes on after a restart of the daemon: what its runner had not been told to be stored comes again,
from wherever it stands, until it asks for the step that the log says is next, or reports that step's calls."""


@dataclass(frozen=True, slots=True)
class Session:
    """Where a session stands. `step` is the step in hand; `calls` the ids that a ToolResults must answer, in order;
    `skills` are those that the sandbox was told to start; `elicitations` are open questions of its servers, `elicited`
    the highest number that one had.
    """

    state: str = "new"
    step: int = 1
    calls: tuple[str, ...] = ()
    refusals: int = 0
    skills: tuple[str, ...] = ()
    elicitations: tuple[int, ...] = ()
    elicited: int = 0

    @property
    def misbehaved(self) -> bool:
        """Whether the run must end with `runner_misbehaved`."""
        return self.refusals >= MAX_REFUSALS


def asked(session: Session, ask: Ask) -> tuple[Session, str]:
    """The session after a message of the runner, and why it was refused: empty when it was legal."""
    if isinstance(ask, Failure | LinkLost):
        return session, ""
    on_return = _ASKS_ON_RETURN.get(type(ask)) if session.state == _RETURNED else None
    following = on_return or _ASKS.get((session.state, type(ask)))
    refusal = (
        f"{type(ask).__name__} is not allowed while {session.state}" if following is None else _content(session, ask)
    )
    if refusal or following is None:
        return replace(session, refusals=session.refusals + 1), refusal
    step = session.step + 1 if isinstance(ask, ToolResults) else session.step
    calls = () if isinstance(ask, ToolResults) else session.calls
    asking = (*session.elicitations, ask.elicitation) if isinstance(ask, Elicit) else session.elicitations
    open_ones = () if isinstance(ask, ToolResults) else asking
    highest = ask.elicitation if isinstance(ask, Elicit) else session.elicited
    return replace(session, state=following, step=step, calls=calls, elicitations=open_ones, elicited=highest), ""


def _content(session: Session, ask: Ask) -> str:  # noqa: PLR0911 - one case a rule
    match ask:
        case NextTurn(step=step) if step != session.step:
            return f"step {step} was asked for, the run is at step {session.step}"
        case ToolResults(step=step) if step != session.step:
            return f"results of step {step} came, the run is at step {session.step}"
        case ToolResults(results=results) if tuple(result.call_id for result in results) != session.calls:
            return "the results do not answer the turn's calls one by one, in order"
        case ToolResults(results=()):
            return "results of calls that it was not given"
        case SkillReport(skill=skill) if skill not in session.skills:
            return "news of a skill that this sandbox was not told to start"
        case Progress(call_id=call_id) if call_id not in session.calls:
            return "progress of a call that this turn does not have"
        case Elicit(call_id=call_id, skill=skill) if call_id not in session.calls or skill not in session.skills:
            return "a server's question outside of a call of this turn"
        case Elicit(elicitation=number) if number <= session.elicited:
            return "a server's question with the number of an earlier one"
        case Elicit() if len(session.elicitations) >= MAX_ELICITATIONS:
            return f"more than {MAX_ELICITATIONS} questions of servers at once"
        case _:
            return ""


def ordered(session: Session, order: Order) -> Session:
    """The session after a message of the daemon; a turn advances the step that may be asked for next."""
    match order:
        case Assign(step=step, skills=skills):
            return replace(session, state="assigned", step=step, calls=(), skills=tuple(skill.name for skill in skills))
        case TurnOrder(step=step, calls=calls) if calls:
            return replace(session, state="running", step=step, calls=tuple(call.call_id for call in calls))
        case TurnOrder(step=step):
            return replace(session, state="reported", step=step + 1, calls=())
        case ElicitAnswer(elicitation=number):
            return replace(session, elicitations=tuple(each for each in session.elicitations if each != number))
        case Finish():
            return replace(session, state="finished", calls=())
        case _:
            return session
