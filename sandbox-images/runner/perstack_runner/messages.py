"""What the runner says and hears, as plain values. Protobuf stops at convert.py.

Named tuples, not dataclasses: they cost a warm runner a fraction of the memory and the start-up time.
"""

from typing import NamedTuple, TypeAlias

Pairs: TypeAlias = tuple[tuple[str, str], ...]


# --- the daemon orders ----------------------------------------------------------------------------------------------
class Welcome(NamedTuple):
    """A session is open. `acknowledged` is the highest counter that the daemon has stored."""

    session_token: str
    acknowledged: int

    def __repr__(self) -> str:
        return f"Welcome(acknowledged={self.acknowledged})"


class Rejected(NamedTuple):
    """No session for this runner: another one has it, or its token is not the session's."""

    reason: str


class Acknowledged(NamedTuple):
    """Everything up to `counter` is stored."""

    counter: int


class Probe(NamedTuple):
    """Asks what an idle sandbox sees at a path below /mnt."""

    path: str


class Remote(NamedTuple):
    """A server at an endpoint. `transport` is sse or http, for streamable HTTP; values of headers are secrets."""

    transport: str
    endpoint: str
    headers: Pairs = ()

    def __repr__(self) -> str:
        return f"Remote(transport={self.transport!r})"


class SkillOrder(NamedTuple):
    """A server to reach: argv and the environment that it alone gets, whose values are secrets; or a remote one.

    `start` is first (the first turn waits for it), beside or atCall. With `private` its working directory and HOME are
    its own and empty.
    """

    name: str
    command: tuple[str, ...] = ()
    env: Pairs = ()
    remote: Remote | None = None
    pick: tuple[str, ...] = ()
    omit: tuple[str, ...] = ()
    start: str = "first"
    private: bool = False
    tool_timeout_ms: int = 0
    start_timeout_ms: int = 0

    def __repr__(self) -> str:
        return f"SkillOrder(name={self.name!r})"


class Limits(NamedTuple):
    """Times in milliseconds, 0 means none; sizes in bytes."""

    tool_timeout_ms: int = 60_000
    skill_start_timeout_ms: int = 60_000
    inline_result_bytes: int = 32 << 10
    result_bytes: int = 10 << 20


class Assign(NamedTuple):
    """Binds the sandbox to a run. Its environment values are secrets."""

    workspace_path: str
    workspace_read_only: bool = False
    skills: tuple[SkillOrder, ...] = ()
    base_tools: tuple[str, ...] = ()
    exec_env: Pairs = ()
    limits: Limits = Limits()
    step: int = 1

    def __repr__(self) -> str:
        return f"Assign(skills={[skill.name for skill in self.skills]!r})"


class Call(NamedTuple):
    """A call for this sandbox. `skill` is empty for a base tool, `arguments` is a JSON object."""

    call_id: str
    skill: str
    tool: str
    arguments: bytes


class Turn(NamedTuple):
    """The calls of a step, perhaps none."""

    step: int
    calls: tuple[Call, ...]


class CancelCalls(NamedTuple):
    """Stop these calls, or all when empty."""

    call_ids: tuple[str, ...]


class Refused(NamedTuple):
    """What was asked is not allowed now."""

    counter: int
    reason: str


class Elicited(NamedTuple):
    """A person's answer to an Elicit: accept with a JSON object, decline or cancel."""

    elicitation_id: int
    action: str
    content: bytes = b""

    def __repr__(self) -> str:
        return f"Elicited(elicitation_id={self.elicitation_id}, action={self.action!r})"


class Finish(NamedTuple):
    """The run is over."""

    reason: str


Order: TypeAlias = Welcome | Rejected | Acknowledged | Probe | Assign | Turn | CancelCalls | Elicited | Refused | Finish


# --- the runner asks ------------------------------------------------------------------------------------------------
class Hello(NamedTuple):
    """What a stream opens with."""

    python_version: str
    landlock_abi: int
    dumpable: bool
    self_view: tuple[str, ...]


class ProbeResult(NamedTuple):
    """What was seen: None when nothing was there."""

    content: bytes | None


class Ready(NamedTuple):
    """The assignment is taken over."""

    workspace_path: str


class ToolSpec(NamedTuple):
    """A tool of a skill. `input_schema` is canonical JSON."""

    name: str
    description: str
    input_schema: bytes
    read_only: bool = False
    idempotent: bool = False


class SkillState(NamedTuple):
    """News of a skill's server; `state` is starting, connected, failed, disconnected, stderr or toolsChanged."""

    skill: str
    state: str
    tools: tuple[ToolSpec, ...] = ()
    detail: str = ""
    server_name: str = ""
    server_version: str = ""


class NextTurn(NamedTuple):
    """Asks for the turn of a step."""

    step: int


class Text(NamedTuple):
    """Text of a result."""

    text: str
    media_type: str = "text/plain; charset=utf-8"


class Blob(NamedTuple):
    """Bytes of a result that go up in chunks."""

    data: bytes
    media_type: str


class BlobRef(NamedTuple):
    """A blob that went up: digest is sha256:HEX, size in bytes."""

    digest: str
    size: int
    media_type: str


class Structured(NamedTuple):
    """Canonical JSON of a result."""

    json: bytes


Part: TypeAlias = Text | Blob | BlobRef | Structured


class Result(NamedTuple):
    """What came of a call."""

    call_id: str
    content: tuple[Part, ...]
    is_error: bool = False
    duration_ms: int = 0


class ToolResults(NamedTuple):
    """Results of a turn's calls, all of them, in order; their blobs went up before."""

    step: int
    results: tuple[Result, ...]


class Progress(NamedTuple):
    """Output of a running call; `offset` counts bytes of its output before `delta`."""

    call_id: str
    offset: int
    delta: str


class BlobChunk(NamedTuple):
    """Part of a blob, in order."""

    digest: str
    offset: int
    data: bytes
    last: bool


class Elicit(NamedTuple):
    """A server asks a person something while a call runs. `schema` is canonical JSON of a flat object's schema."""

    call_id: str
    skill: str
    elicitation_id: int
    message: str
    schema: bytes


class Failure(NamedTuple):
    """The runner cannot go on."""

    reason: str
    message: str


Ask: TypeAlias = ProbeResult | Ready | SkillState | NextTurn | ToolResults | Progress | BlobChunk | Elicit | Failure
