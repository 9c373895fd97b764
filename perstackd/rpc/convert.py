"""Between the API's messages and the domain's values."""

import json
from collections.abc import Sequence
from typing import Final

from perstack.v1 import events_pb2, experts_pb2, jobs_pb2, runs_pb2, sandboxes_pb2

from perstackd.app.job_request import JobParent, JobRequest
from perstackd.app.standing import OpenQuestion
from perstackd.domain.budget import Budgets
from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.events import QuestionKind, StoredEvent, StreamPiece
from perstackd.domain.expert import Finding, ModelChoice, Severity
from perstackd.domain.ids import DEFAULT_TENANT, JobId, TenantId
from perstackd.domain.job import JobRecord, JobState
from perstackd.domain.messages import JsonObject, Usage
from perstackd.domain.reenactment import ReplayMode
from perstackd.domain.run_record import RunRecord
from perstackd.domain.sandbox import Posture, SandboxRecord, SandboxState
from perstackd.domain.workspace import WorkspaceKind, WorkspaceSpec

_JOB_STATES: Final = {state: jobs_pb2.JobState.Value(f"JOB_STATE_{state.name}") for state in JobState}
_STATES_JOB: Final[dict[int, JobState]] = {number: state for state, number in _JOB_STATES.items()}
_SANDBOX_STATES: Final = {
    state: sandboxes_pb2.SandboxState.Value(f"SANDBOX_STATE_{state.name}") for state in SandboxState
}
_REPLAY_MODES: Final = {
    ReplayMode.MODEL: jobs_pb2.REPLAY_MODE_LIVE_MODEL,
    ReplayMode.TOOLS: jobs_pb2.REPLAY_MODE_LIVE_TOOLS,
}
_MODES_REPLAY: Final[dict[int, ReplayMode]] = {number: mode for mode, number in _REPLAY_MODES.items()}
_QUESTION_KINDS: Final = {kind: jobs_pb2.QuestionKind.Value(f"QUESTION_KIND_{kind.name}") for kind in QuestionKind}
_SEVERITIES: Final = {
    Severity.WARNING: experts_pb2.SEVERITY_WARNING,
    Severity.ERROR: experts_pb2.SEVERITY_ERROR,
}


def tenant(text: str) -> TenantId:
    """The tenant of a request. Until tenancy there is one.

    Raises:
        PerstackError: NOT_FOUND `tenant_not_found`.
    """
    if text not in ("", DEFAULT_TENANT):
        message = f"there is no tenant {text[:64]!r}; only {DEFAULT_TENANT!r} is there yet"
        raise PerstackError(Kind.NOT_FOUND, "tenant_not_found", message)
    return DEFAULT_TENANT


def job_request(message: jobs_pb2.CreateJobRequest) -> JobRequest:
    """What a caller asks for, not yet checked."""
    parent = _parent(message)
    return JobRequest(
        tenant=tenant(message.tenant),
        source=message.definition.source[:4096] or "perstack.toml",
        toml=message.definition.toml,
        expert_key=message.expert_key if parent else _required(message.expert_key, "expert_key"),
        query=message.query,
        workspace=workspace(message.workspace),
        idempotency_key=message.idempotency_key,
        env=dict(message.env),
        allow_domains=tuple(message.allow_domains),
        budgets=_budgets(message),
        model=ModelChoice(message.provider, message.model),
        parent=parent,
    )


def _parent(message: jobs_pb2.CreateJobRequest) -> JobParent | None:
    if not message.parent_job_id:
        if message.parent_checkpoint or message.replay:
            raise PerstackError(Kind.INVALID, "field_missing", "parent_checkpoint and replay need parent_job_id")
        return None
    same = message.workspace.WhichOneof("kind") is None
    return JobParent(JobId(message.parent_job_id), message.parent_checkpoint, same, _replay_mode(message.replay))


def _replay_mode(number: int) -> ReplayMode | None:
    if number and number not in _MODES_REPLAY:
        raise PerstackError(Kind.INVALID, "replay_invalid", f"there is no way of replaying {number}")
    return _MODES_REPLAY.get(number)


def replay_mode(text: str) -> jobs_pb2.ReplayMode.ValueType:
    """How a job replays another; unspecified when it does not."""
    return _REPLAY_MODES[ReplayMode(text)] if text else jobs_pb2.REPLAY_MODE_UNSPECIFIED


def _budgets(message: jobs_pb2.CreateJobRequest) -> Budgets:
    budgets = message.budgets
    return Budgets(
        max_steps=message.max_steps or budgets.max_steps,
        wall_clock_ms=budgets.wall_clock_ms,
        tokens=budgets.tokens,
        microdollars=budgets.microdollars,
        tool_calls=budgets.tool_calls,
    )


def workspace(message: jobs_pb2.Workspace) -> WorkspaceSpec:
    """Nothing said means ephemeral."""
    match message.WhichOneof("kind"):
        case "name":
            return WorkspaceSpec(WorkspaceKind.NAMED, message.name, message.read_only, message.shared)
        case "path":
            return WorkspaceSpec(WorkspaceKind.PATH, message.path, message.read_only)
        case _:
            return WorkspaceSpec(WorkspaceKind.EPHEMERAL, "", message.read_only)


def job(record: JobRecord, queue: tuple[int, str] | None = None) -> jobs_pb2.Job:
    """A job as callers see it."""
    place, reason = queue or (0, "")
    return jobs_pb2.Job(
        id=record.id,
        tenant=record.tenant,
        state=_JOB_STATES[record.state],
        expert_key=record.expert_key,
        query=record.query,
        created_at=record.created_at,
        finished_at=record.finished_at,
        steps=record.steps,
        runs=record.runs,
        usage=usage(record.usage),
        answer=record.answer,
        error_reason=record.error_reason,
        error_message=record.error_message,
        exit_code=record.exit_code,
        last_seq=record.last_seq,
        workspace=_workspace(record.workspace),
        queue_place=place,
        queue_reason=reason,
        provider=record.provider,
        model=record.model,
        budgets=jobs_pb2.Budgets(
            max_steps=record.budgets.max_steps,
            wall_clock_ms=record.budgets.wall_clock_ms,
            tokens=record.budgets.tokens,
            microdollars=record.budgets.microdollars,
            tool_calls=record.budgets.tool_calls,
        ),
        tool_calls=record.tool_calls,
        cost_microdollars=record.microdollars,
        cost_known=record.cost_known,
        paused=record.paused,
        open_questions=record.open_questions,
        parent_job_id=record.parent_job_id,
        parent_seq=record.parent_seq,
        replay=replay_mode(record.replay),
    )


def question(value: OpenQuestion) -> jobs_pb2.Question:
    """A question as callers see it."""
    asked = value.question
    return jobs_pb2.Question(
        id=value.id,
        kind=_QUESTION_KINDS[asked.kind],
        run_id=value.run_id,
        expert_key=value.expert_key,
        skill=asked.skill,
        tool=asked.tool,
        arguments=_canonical(asked.arguments),
        message=asked.message,
        answer_schema=_canonical(asked.answer_schema),
        asked_at=value.asked_at,
    )


def _canonical(value: JsonObject) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def job_states(numbers: list[int]) -> tuple[JobState, ...]:
    """Raises PerstackError INVALID `state_unknown`."""
    unknown = [number for number in numbers if number not in _STATES_JOB]
    if unknown:
        raise PerstackError(Kind.INVALID, "state_unknown", f"there is no job state {unknown[0]}")
    return tuple(_STATES_JOB[number] for number in dict.fromkeys(numbers))


def usage(value: Usage) -> jobs_pb2.Usage:
    """Token counts."""
    return jobs_pb2.Usage(
        input_tokens=value.input_tokens,
        output_tokens=value.output_tokens,
        cached_input_tokens=value.cached_input_tokens,
        reasoning_tokens=value.reasoning_tokens,
    )


def event(stored: StoredEvent) -> events_pb2.Event:
    """A stored event; its document is passed on as it is."""
    value, origin = stored.event, stored.event.origin
    return events_pb2.Event(
        id=value.id,
        seq=value.seq,
        schema=value.schema,
        type=value.payload.type,
        tenant=value.tenant,
        job_id=value.job_id,
        run_id=origin.run_id,
        parent_run_id=origin.parent_run_id,
        expert_key=origin.expert_key,
        step_number=origin.step,
        timestamp=value.timestamp,
        payload=stored.document,
    )


def streaming(piece: StreamPiece) -> events_pb2.StreamingEvent:
    """A piece of text."""
    return events_pb2.StreamingEvent(
        after_seq=piece.after_seq,
        stream_id=piece.stream_id,
        offset=piece.offset,
        type=piece.type,
        job_id=piece.job_id,
        run_id=piece.origin.run_id,
        expert_key=piece.origin.expert_key,
        step_number=piece.origin.step,
        delta=piece.delta,
        call_id=piece.call_id,
    )


def finding(value: Finding) -> experts_pb2.Finding:
    """A finding."""
    return experts_pb2.Finding(
        severity=_SEVERITIES[value.severity],
        message=value.message,
        line=value.line,
        column=value.column,
        key=value.key,
    )


def run(record: RunRecord) -> runs_pb2.Run:
    """A run of a job."""
    return runs_pb2.Run(
        id=record.id,
        job_id=record.job_id,
        tenant=record.tenant,
        parent_run_id=record.parent_run_id,
        expert_key=record.expert_key,
        phase=record.phase,
        step_number=record.step,
        usage=usage(record.usage),
        sandbox_ids=record.sandbox_ids,
        started_at=record.started_at,
        finished_at=record.finished_at,
        outcome=record.outcome,
    )


def sandbox(record: SandboxRecord, problems: Sequence[str]) -> sandboxes_pb2.Sandbox:
    """A live sandbox, and what resists its removal."""
    return sandboxes_pb2.Sandbox(
        id=record.id,
        tenant=record.tenant,
        template=record.template,
        state=_SANDBOX_STATES[record.state],
        container_id=record.container_id,
        image_id=record.image_id,
        uid=record.uid,
        job_id=record.job_id,
        run_id=record.run_id,
        fence=record.fence,
        created_at=record.created_at,
        claimed_at=record.claimed_at,
        runtime=record.runtime,
        problems=problems,
    )


def posture(value: Posture) -> sandboxes_pb2.GetPostureResponse:
    """A posture with its checks in their order."""
    checks = [
        sandboxes_pb2.PostureCheck(
            name=check.name,
            expected=check.expected,
            actual=check.actual,
            ok=check.ok,
            cis=check.cis,
            source=check.source,
        )
        for check in value.checks
    ]
    return sandboxes_pb2.GetPostureResponse(
        sandbox_id=value.sandbox_id, checks=checks, ok=value.ok, exceptions=value.exceptions
    )


def _workspace(spec: WorkspaceSpec) -> jobs_pb2.Workspace:
    match spec.kind:
        case WorkspaceKind.NAMED:
            return jobs_pb2.Workspace(name=spec.value, read_only=spec.read_only, shared=spec.shared)
        case WorkspaceKind.PATH:
            return jobs_pb2.Workspace(path=spec.value, read_only=spec.read_only)
        case _:
            return jobs_pb2.Workspace(ephemeral=jobs_pb2.Workspace.Ephemeral(), read_only=spec.read_only)


def _required(text: str, name: str) -> str:
    if not text:
        raise PerstackError(Kind.INVALID, "field_missing", f"{name} is missing")
    return text
