"""Events: the facts of a job. State events carry only what is new; a run's or a job's state is a fold of them.

Names and meaning are Perstack's where it has the event; `jobCreated` ... `egressDenied` are ours. Payload classes
may gain fields with defaults within a schema version; any other change raises the version in `SCHEMA`.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from perstackd.domain.budget import Budgets
from perstackd.domain.ids import EventId, JobId, RunId, SandboxId, TenantId
from perstackd.domain.messages import JsonObject, Message, ProviderSkill, ToolResultPart, ToolSpec, Turn, Usage

SCHEMA: Final = 1


# --- of a job -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JobCreated:
    """A caller's request was accepted. `definition_digest` names the definition blob that it is pinned to; `asked_...`
    are what the caller put in place of the definition's model. A job that goes on from another's checkpoint names that
    job, and the event that the checkpoint stands at; one that replays another names it, and how (`ReplayMode`).
    """

    expert_key: str
    query: str
    definition_digest: str
    workspace: str
    provider: str
    model: str
    required_env: tuple[str, ...] = ()
    allow_domains: tuple[str, ...] = ()
    template: str = ""
    skills_template: str = ""
    asked_provider: str = ""
    asked_model: str = ""
    budgets: Budgets = field(default_factory=Budgets)
    parent_job_id: str = ""
    parent_seq: int = 0
    replay: str = ""
    type: Literal["jobCreated"] = "jobCreated"


@dataclass(frozen=True, slots=True)
class JobQueued:
    """It waits: its place (1 is next) and why."""

    place: int
    reason: str
    type: Literal["jobQueued"] = "jobQueued"


@dataclass(frozen=True, slots=True)
class JobAdmitted:
    """Its coordinator's run begins."""

    type: Literal["jobAdmitted"] = "jobAdmitted"


@dataclass(frozen=True, slots=True)
class JobPaused:
    """Its runs finish the step in hand and start no other."""

    type: Literal["jobPaused"] = "jobPaused"


@dataclass(frozen=True, slots=True)
class JobResumed:
    """Its runs go on."""

    type: Literal["jobResumed"] = "jobResumed"


@dataclass(frozen=True, slots=True)
class JobFinished:
    """The last event of a job. `outcome` is completed, failed, stopped, cancelled or refused."""

    outcome: str
    exit_code: int
    answer: str = ""
    reason: str = ""
    message: str = ""
    type: Literal["jobFinished"] = "jobFinished"


# --- of a run's sandbox ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SandboxAssigned:
    """A sandbox was claimed for the run; `fence` rises with each."""

    sandbox_id: SandboxId
    container_id: str
    fence: int
    template: str
    role: str = "expert"
    type: Literal["sandboxAssigned"] = "sandboxAssigned"


@dataclass(frozen=True, slots=True)
class SandboxReleased:
    """The run gave it up. `cause`: finished, cancelled, oomKilled, exited, lost, misbehaved, drained, unknown."""

    sandbox_id: SandboxId
    cause: str
    detail: str = ""
    type: Literal["sandboxReleased"] = "sandboxReleased"


@dataclass(frozen=True, slots=True)
class InitializeRuntime:
    """The runner inside took over: the first event that comes from a sandbox."""

    sandbox_id: SandboxId
    runner_version: str
    workspace_path: str
    type: Literal["initializeRuntime"] = "initializeRuntime"


@dataclass(frozen=True, slots=True)
class SecretReleased:
    """A value went into the sandbox: its name only, and for which skill."""

    name: str
    skill: str
    type: Literal["secretReleased"] = "secretReleased"


@dataclass(frozen=True, slots=True)
class SkillStarting:
    """A skill's server is being started."""

    skill: str
    type: Literal["skillStarting"] = "skillStarting"


@dataclass(frozen=True, slots=True)
class SkillConnected:
    """A skill's tools are known."""

    skill: str
    server_name: str
    server_version: str
    tools: tuple[str, ...]
    type: Literal["skillConnected"] = "skillConnected"


@dataclass(frozen=True, slots=True)
class SkillToolsChanged:
    """A server now offers other tools than the run was started with; the run keeps its list."""

    skill: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...] = ()
    type: Literal["skillToolsChanged"] = "skillToolsChanged"


@dataclass(frozen=True, slots=True)
class ToolRenamed:
    """A tool is shown to the model by another name than its server's: that was taken, too long, or not legal."""

    skill: str
    tool: str
    shown: str
    type: Literal["toolRenamed"] = "toolRenamed"


@dataclass(frozen=True, slots=True)
class ReasoningMapped:
    """The model takes its reasoning in another form than the definition gives it; the note says which."""

    note: str
    type: Literal["reasoningMapped"] = "reasoningMapped"


@dataclass(frozen=True, slots=True)
class SkillStderr:
    """What a skill's server wrote to its standard error."""

    skill: str
    text: str
    type: Literal["skillStderr"] = "skillStderr"


@dataclass(frozen=True, slots=True)
class SkillDisconnected:
    """A skill's server is gone, or could not be started."""

    skill: str
    detail: str
    type: Literal["skillDisconnected"] = "skillDisconnected"


@dataclass(frozen=True, slots=True)
class EgressDenied:
    """A connection out was refused; the reason says which rule."""

    host: str
    port: int
    reason: str
    type: Literal["egressDenied"] = "egressDenied"


@dataclass(frozen=True, slots=True)
class ProxyAccess:
    """A connection out ended; `reason` is why it was cut, empty after a clean end."""

    host: str
    port: int
    bytes_up: int
    bytes_down: int
    duration_ms: int
    reason: str = ""
    type: Literal["proxyAccess"] = "proxyAccess"


# --- of a run -------------------------------------------------------------------------------------------------------
class Owner(StrEnum):
    """Who answers a call: a sandbox, the daemon at once, the daemon from the job's history and artefacts, a child run,
    a person.
    """

    SANDBOX = "sandbox"
    DAEMON = "daemon"
    ARCHIVE = "archive"
    DELEGATE = "delegate"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class ToolRoute:
    """From the name shown to the model to its owner: `skill` is empty for base tools; `target` is the tool's own
    name, or the delegate's key. A call with `approval` waits until a person allows it.
    """

    name: str
    owner: Owner
    target: str
    skill: str = ""
    approval: bool = False


@dataclass(frozen=True, slots=True)
class StartRun:
    """A run begins, with all that its model requests hold beside the history: nothing is hidden.

    `call_id` is the parent's call that it answers; empty for the coordinator. `max_steps` 0 means none of its own.
    `compact_at` are the tokens from which on its history is compacted; 0 means never.
    """

    query: str
    system: str
    tools: tuple[ToolSpec, ...]
    routes: tuple[ToolRoute, ...]
    provider: str
    model: str
    reasoning: str | int
    depth: int = 0
    call_id: str = ""
    max_steps: int = 0
    max_retries: int = 5
    compact_at: int = 0
    provider_tools: tuple[str, ...] = ()
    provider_tool_options: str = ""
    provider_skills: tuple[ProviderSkill, ...] = ()
    type: Literal["startRun"] = "startRun"


@dataclass(frozen=True, slots=True)
class TodoItem:
    """One entry of a run's todo list."""

    id: int
    title: str
    completed: bool = False


@dataclass(frozen=True, slots=True)
class HistoryInherited:
    """A run begins with the history of another job's run, up to one of its checkpoints. `start` is what that run was
    started with, without its query: the tools and the prompt that the history was made under stay. The history is
    kept here whole, so that the job does not depend on the one that it comes from.
    """

    parent_job_id: str
    parent_run_id: str
    parent_seq: int
    start: StartRun
    messages: tuple[Message, ...]
    todos: tuple[TodoItem, ...] = ()
    type: Literal["historyInherited"] = "historyInherited"


@dataclass(frozen=True, slots=True)
class StartGeneration:
    """The model is asked for this step's turn."""

    type: Literal["startGeneration"] = "startGeneration"


@dataclass(frozen=True, slots=True)
class Retry:
    """The generation gave nothing usable and is tried again after `delay_ms`. `turn` is kept when the model must
    see it.
    """

    reason: str
    message: str
    delay_ms: int = 0
    turn: Turn | None = None
    results: tuple[ToolResultPart, ...] = ()
    type: Literal["retry"] = "retry"


@dataclass(frozen=True, slots=True)
class CallTools:
    """The model's turn, with its calls."""

    turn: Turn
    type: Literal["callTools"] = "callTools"


@dataclass(frozen=True, slots=True)
class DelegateCall:
    """One delegation: the expert and what it is asked."""

    call_id: str
    expert_key: str
    query: str


@dataclass(frozen=True, slots=True)
class CallDelegate:
    """Children are started. `results` are the turn's results so far."""

    calls: tuple[DelegateCall, ...]
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["callDelegate"] = "callDelegate"


class QuestionKind(StrEnum):
    """What a person is asked: an interactive tool's question, whether a call may be made, what a server wants to know
    while its tool runs.
    """

    TOOL = "tool"
    APPROVAL = "approval"
    ELICITATION = "elicitation"


@dataclass(frozen=True, slots=True)
class Question:
    """Something that waits for a person. `id` is unique in its run. `answer_schema` is a JSON Schema of the answer."""

    id: str
    kind: QuestionKind
    call_id: str
    skill: str
    tool: str
    arguments: JsonObject
    message: str
    answer_schema: JsonObject


@dataclass(frozen=True, slots=True)
class CallInteractiveTool:
    """A person is asked, for each of the turn's interactive calls. `results` are the turn's results since the last fact
    that carried some.
    """

    questions: tuple[Question, ...]
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["callInteractiveTool"] = "callInteractiveTool"


@dataclass(frozen=True, slots=True)
class ApprovalRequested:
    """A call is held back until a person has said whether it may be made. `results` as in callInteractiveTool."""

    question: Question
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["approvalRequested"] = "approvalRequested"


@dataclass(frozen=True, slots=True)
class ElicitationRequested:
    """A skill's server asks a person something while its tool runs. `elicitation` is the sandbox's own number."""

    question: Question
    elicitation: int
    type: Literal["elicitationRequested"] = "elicitationRequested"


@dataclass(frozen=True, slots=True)
class QuestionAnswered:
    """A tool's question or an elicitation has its answer: action `answer`, `accept`, `decline` or `cancel`; content is
    the text of a tool's answer or the canonical JSON of an object.
    """

    id: str
    call_id: str
    kind: QuestionKind
    action: str
    content: str = ""
    type: Literal["questionAnswered"] = "questionAnswered"


@dataclass(frozen=True, slots=True)
class ApprovalDecided:
    """A person allowed a call, or did not."""

    id: str
    call_id: str
    approved: bool
    reason: str = ""
    type: Literal["approvalDecided"] = "approvalDecided"


@dataclass(frozen=True, slots=True)
class ResolveToolResults:
    """All calls of the turn are answered. `results` are those that no earlier fact of the step carried; `todos` is the
    new list when one of them changed it.
    """

    results: tuple[ToolResultPart, ...]
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["resolveToolResults"] = "resolveToolResults"


@dataclass(frozen=True, slots=True)
class AttemptCompletion:
    """The expert says that it is done. `results` are the turn's other results that no earlier fact carried."""

    call_id: str
    results: tuple[ToolResultPart, ...] = ()
    todos: tuple[TodoItem, ...] | None = None
    type: Literal["attemptCompletion"] = "attemptCompletion"


@dataclass(frozen=True, slots=True)
class FinishToolCall:
    """The tool message is complete. `results` are those that no earlier event of the step carried."""

    results: tuple[ToolResultPart, ...] = ()
    type: Literal["finishToolCall"] = "finishToolCall"


@dataclass(frozen=True, slots=True)
class ResumeToolCalls:
    """Calls that have no result are made now: those that a person approved, or those of a run that was taken up again.
    `results` are errors for the calls of which nobody knows whether they took effect.
    """

    call_ids: tuple[str, ...]
    results: tuple[ToolResultPart, ...] = ()
    type: Literal["resumeToolCalls"] = "resumeToolCalls"


@dataclass(frozen=True, slots=True)
class FinishAllToolCalls:
    """A run that was taken up again found all its calls answered."""

    type: Literal["finishAllToolCalls"] = "finishAllToolCalls"


@dataclass(frozen=True, slots=True)
class ContinueToNextStep:
    """The step is over; the next one has number `step`."""

    step: int
    type: Literal["continueToNextStep"] = "continueToNextStep"


@dataclass(frozen=True, slots=True)
class ContextCompacted:
    """The model is shown `summary` in place of the messages before `kept_from`, the query excepted. What it stands for
    is in the events before. `before_tokens` is about what the history took; `usage` is what the summary took.
    """

    summary: str
    kept_from: int
    before_tokens: int
    usage: Usage
    model: str = ""
    type: Literal["contextCompacted"] = "contextCompacted"


@dataclass(frozen=True, slots=True)
class CompactionFailed:
    """No summary came. It is asked for again after `delay_ms`, or it is `given_up` and the history stays as it is."""

    reason: str
    message: str
    delay_ms: int = 0
    given_up: bool = False
    usage: Usage = field(default_factory=Usage)
    type: Literal["compactionFailed"] = "compactionFailed"


@dataclass(frozen=True, slots=True)
class CompleteRun:
    """The run's answer. `turn` is there when no earlier event carried it."""

    text: str
    usage: Usage
    turn: Turn | None = None
    type: Literal["completeRun"] = "completeRun"


@dataclass(frozen=True, slots=True)
class StopRunByInteractiveTool:
    """The sandbox is given up while a person is asked."""

    call_ids: tuple[str, ...]
    type: Literal["stopRunByInteractiveTool"] = "stopRunByInteractiveTool"


@dataclass(frozen=True, slots=True)
class StopRunByDelegate:
    """The sandbox is given up while children run."""

    call_ids: tuple[str, ...]
    type: Literal["stopRunByDelegate"] = "stopRunByDelegate"


@dataclass(frozen=True, slots=True)
class StopRunByExceededMaxSteps:
    """The step limit: whose it is (`run` or `job`) and what it was."""

    limit: int
    scope: str
    type: Literal["stopRunByExceededMaxSteps"] = "stopRunByExceededMaxSteps"


@dataclass(frozen=True, slots=True)
class StopRunByExceededBudget:
    """Another limit of the job: `wallClock`, `tokens`, `money`, `toolCalls`."""

    budget: str
    limit: int
    type: Literal["stopRunByExceededBudget"] = "stopRunByExceededBudget"


@dataclass(frozen=True, slots=True)
class StopRunByError:
    """The run failed: a stable reason and a sentence."""

    reason: str
    message: str
    type: Literal["stopRunByError"] = "stopRunByError"


@dataclass(frozen=True, slots=True)
class StopRunByCancel:
    """The caller cancelled."""

    message: str = ""
    type: Literal["stopRunByCancel"] = "stopRunByCancel"


JobPayload: TypeAlias = JobCreated | JobQueued | JobAdmitted | JobPaused | JobResumed | JobFinished
RuntimePayload: TypeAlias = (
    SandboxAssigned
    | SandboxReleased
    | InitializeRuntime
    | SecretReleased
    | SkillStarting
    | SkillConnected
    | SkillStderr
    | SkillDisconnected
    | SkillToolsChanged
    | ToolRenamed
    | ReasoningMapped
    | EgressDenied
    | ProxyAccess
)
RunPayload: TypeAlias = (
    HistoryInherited
    | StartRun
    | StartGeneration
    | Retry
    | CallTools
    | CallDelegate
    | CallInteractiveTool
    | ApprovalRequested
    | ElicitationRequested
    | QuestionAnswered
    | ApprovalDecided
    | ResolveToolResults
    | AttemptCompletion
    | FinishToolCall
    | ResumeToolCalls
    | FinishAllToolCalls
    | ContinueToNextStep
    | ContextCompacted
    | CompactionFailed
    | CompleteRun
    | StopRunByInteractiveTool
    | StopRunByDelegate
    | StopRunByExceededMaxSteps
    | StopRunByExceededBudget
    | StopRunByError
    | StopRunByCancel
)
Payload: TypeAlias = JobPayload | RuntimePayload | RunPayload


@dataclass(frozen=True, slots=True)
class Origin:
    """Which run an event is of; empty ids for events of the job itself."""

    run_id: RunId = RunId("")
    parent_run_id: RunId = RunId("")
    expert_key: str = ""
    step: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """A fact with its place. `seq` counts 1, 2, 3 ... per job; `timestamp` is milliseconds since the epoch."""

    id: EventId
    seq: int
    tenant: TenantId
    job_id: JobId
    origin: Origin
    timestamp: int
    payload: Payload
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it is kept and sent: the payload's canonical JSON was written once and is never made again."""

    event: Event
    document: bytes


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """A live-only piece of text: `offset` in UTF-8 bytes of the text that `stream_id` names."""

    after_seq: int
    stream_id: str
    offset: int
    type: str
    job_id: JobId
    origin: Origin
    delta: str
    call_id: str = ""
