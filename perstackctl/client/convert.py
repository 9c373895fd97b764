"""Where protobuf messages become values and values become messages; those of the expert service in convert_experts."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from perstack.v1 import events_pb2, experts_pb2, jobs_pb2, pools_pb2, runs_pb2, sandboxes_pb2, system_pb2

from perstackctl.client import values as v
from perstackctl.client.convert_experts import findings
from perstackctl.client.errors import ProtocolError
from perstackctl.client.questions import Answer, Question, QuestionKind

_JOB_STATES: Final[dict[int, v.JobState]] = {
    jobs_pb2.JobState.Value(f"JOB_STATE_{state.name}"): state for state in v.JobState
}
_SANDBOX_STATES: Final[dict[int, v.SandboxState]] = {
    sandboxes_pb2.SandboxState.Value(f"SANDBOX_STATE_{state.name}"): state for state in v.SandboxState
}
_QUESTION_KINDS: Final[dict[int, QuestionKind]] = {
    jobs_pb2.QuestionKind.Value(f"QUESTION_KIND_{kind.name}"): kind for kind in QuestionKind
}

_REPLAY_MODES: Final[Mapping[v.ReplayMode | None, jobs_pb2.ReplayMode.ValueType]] = {
    None: jobs_pb2.REPLAY_MODE_UNSPECIFIED,
    v.ReplayMode.MODEL: jobs_pb2.REPLAY_MODE_LIVE_MODEL,
    v.ReplayMode.TOOLS: jobs_pb2.REPLAY_MODE_LIVE_TOOLS,
}


def _job_state(number: int) -> v.JobState:
    # A state that this client does not know yet is shown as such, never taken for a final one.
    return _JOB_STATES.get(number, v.JobState.UNSPECIFIED)


def _sandbox_state(number: int) -> v.SandboxState:
    return _SANDBOX_STATES.get(number, v.SandboxState.UNSPECIFIED)


def usage(message: jobs_pb2.Usage) -> v.Usage:
    """Token counts."""
    return _usage(message)


def _usage(message: jobs_pb2.Usage) -> v.Usage:
    return v.Usage(message.input_tokens, message.output_tokens, message.cached_input_tokens, message.reasoning_tokens)


def _workspace(message: jobs_pb2.Workspace) -> v.Workspace:
    match message.WhichOneof("kind"):
        case "name":
            return v.Workspace(v.WorkspaceKind.NAMED, message.name, message.read_only, message.shared)
        case "path":
            return v.Workspace(v.WorkspaceKind.PATH, message.path, message.read_only)
        case _:
            return v.Workspace(v.WorkspaceKind.EPHEMERAL, "", message.read_only)


def _workspace_message(workspace: v.Workspace) -> jobs_pb2.Workspace:
    match workspace.kind:
        case v.WorkspaceKind.NAMED:
            return jobs_pb2.Workspace(name=workspace.value, read_only=workspace.read_only, shared=workspace.shared)
        case v.WorkspaceKind.PATH:
            return jobs_pb2.Workspace(path=workspace.value, read_only=workspace.read_only)
        case v.WorkspaceKind.EPHEMERAL:
            return jobs_pb2.Workspace(ephemeral=jobs_pb2.Workspace.Ephemeral(), read_only=workspace.read_only)


def definition_message(definition: v.Definition) -> experts_pb2.Definition:
    """A definition as it is sent."""
    return experts_pb2.Definition(source=definition.source, toml=definition.toml)


def create_request(request: v.JobRequest) -> jobs_pb2.CreateJobRequest:
    """A job request as it is sent."""
    parent = request.parent or v.Parent("")
    return jobs_pb2.CreateJobRequest(
        tenant=request.tenant,
        idempotency_key=request.idempotency_key,
        definition=definition_message(request.definition),
        expert_key=request.expert_key,
        query=request.query,
        workspace=None if parent.same_workspace else _workspace_message(request.workspace),
        env=dict(request.env),
        allow_domains=request.allow_domains,
        max_steps=request.max_steps,
        model=request.model,
        provider=request.provider,
        budgets=_budgets_message(request.budgets),
        parent_job_id=parent.job_id,
        parent_checkpoint=parent.checkpoint,
        replay=_REPLAY_MODES[parent.replay],
    )


def _budgets_message(budgets: v.Budgets) -> jobs_pb2.Budgets | None:
    if budgets == v.Budgets():
        return None
    return jobs_pb2.Budgets(
        max_steps=budgets.max_steps,
        wall_clock_ms=budgets.wall_clock_ms,
        tokens=budgets.tokens,
        microdollars=budgets.microdollars,
        tool_calls=budgets.tool_calls,
    )


def _budgets(m: jobs_pb2.Budgets) -> v.Budgets:
    return v.Budgets(m.max_steps, m.wall_clock_ms, m.tokens, m.microdollars, m.tool_calls)


def list_request(tenant: str, states: Iterable[v.JobState], page_size: int, token: str) -> jobs_pb2.ListJobsRequest:
    """One page of jobs as it is asked for."""
    numbers = [jobs_pb2.JobState.Value(f"JOB_STATE_{state.value.upper()}") for state in states]
    return jobs_pb2.ListJobsRequest(tenant=tenant, states=numbers, page_size=page_size, page_token=token)


def job(message: jobs_pb2.Job) -> v.Job:
    """A job as the daemon tells it."""
    return v.Job(
        id=message.id,
        tenant=message.tenant,
        state=_job_state(message.state),
        expert_key=message.expert_key,
        query=message.query,
        created_at=message.created_at,
        finished_at=message.finished_at,
        steps=message.steps,
        runs=message.runs,
        usage=_usage(message.usage),
        answer=message.answer,
        error_reason=message.error_reason,
        error_message=message.error_message,
        exit_code=message.exit_code,
        last_seq=message.last_seq,
        workspace=_workspace(message.workspace),
        queue_place=message.queue_place,
        queue_reason=message.queue_reason,
        provider=message.provider,
        model=message.model,
        budgets=_budgets(message.budgets),
        tool_calls=message.tool_calls,
        cost_microdollars=message.cost_microdollars,
        cost_known=message.cost_known,
        paused=message.paused,
        open_questions=message.open_questions,
        parent_job_id=message.parent_job_id,
        parent_seq=message.parent_seq,
        replay=replay_mode(message.replay),
    )


def replay_mode(number: int) -> v.ReplayMode | None:
    """How a job replays another; None when it does not, or in a way that this client does not know."""
    return next((mode for mode, known in _REPLAY_MODES.items() if known == number), None)


def question(message: jobs_pb2.Question) -> Question:
    """A question as the daemon tells it.

    Raises:
        ProtocolError: its arguments or its schema are not JSON objects.
    """
    return Question(
        id=message.id,
        kind=_QUESTION_KINDS.get(message.kind, QuestionKind.UNSPECIFIED),
        run_id=message.run_id,
        expert_key=message.expert_key,
        skill=message.skill,
        tool=message.tool,
        arguments=_object(message.arguments, message.id),
        message=message.message,
        answer_schema=_object(message.answer_schema, message.id),
        asked_at=message.asked_at,
    )


def _object(document: bytes, question_id: str) -> dict[str, Any]:
    try:
        value = json.loads(document or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ProtocolError(
            f"question {question_id} does not hold JSON objects; daemon and perstackctl are of different versions "
            "(perstackctl system info)"
        )
    return value


def answer_request(job_id: str, question_id: str, answer: Answer) -> jobs_pb2.AnswerQuestionRequest:
    """An answer as it is sent."""
    return jobs_pb2.AnswerQuestionRequest(
        job_id=job_id, question_id=question_id, action=answer.action.value, content=answer.content
    )


def created(message: jobs_pb2.CreateJobResponse) -> v.CreatedJob:
    """The reply to a job request."""
    return v.CreatedJob(job(message.job), findings(message.warnings))


def _event(m: events_pb2.Event) -> v.Event:
    return v.Event(
        m.id,
        m.seq,
        m.schema,
        m.type,
        m.tenant,
        m.job_id,
        m.run_id,
        m.parent_run_id,
        m.expert_key,
        m.step_number,
        m.timestamp,
        m.payload,
    )


def _piece(m: events_pb2.StreamingEvent) -> v.StreamPiece:
    return v.StreamPiece(
        m.after_seq,
        m.stream_id,
        m.offset,
        m.type,
        m.job_id,
        m.run_id,
        m.expert_key,
        m.step_number,
        m.delta,
        m.call_id,
    )


def batch(message: jobs_pb2.WatchJobResponse) -> v.Batch:
    """A batch of a watch."""
    return v.Batch(tuple(map(_event, message.events)), tuple(map(_piece, message.streaming)))


def run(message: runs_pb2.Run) -> v.Run:
    """A run as the daemon tells it."""
    return v.Run(
        id=message.id,
        job_id=message.job_id,
        parent_run_id=message.parent_run_id,
        expert_key=message.expert_key,
        phase=message.phase,
        step_number=message.step_number,
        usage=_usage(message.usage),
        sandbox_ids=tuple(message.sandbox_ids),
        started_at=message.started_at,
        finished_at=message.finished_at,
        outcome=message.outcome,
        tenant=message.tenant,
    )


def sandbox(message: sandboxes_pb2.Sandbox) -> v.Sandbox:
    """A sandbox as the daemon tells it."""
    return v.Sandbox(
        id=message.id,
        tenant=message.tenant,
        template=message.template,
        state=_sandbox_state(message.state),
        container_id=message.container_id,
        image_id=message.image_id,
        uid=message.uid,
        job_id=message.job_id,
        run_id=message.run_id,
        fence=message.fence,
        created_at=message.created_at,
        claimed_at=message.claimed_at,
        runtime=message.runtime,
        problems=tuple(message.problems),
    )


def posture(message: sandboxes_pb2.GetPostureResponse) -> v.Posture:
    """A sandbox's posture."""
    checks = tuple(v.PostureCheck(c.name, c.expected, c.actual, c.ok, c.cis, c.source) for c in message.checks)
    return v.Posture(message.sandbox_id, message.ok, checks, tuple(message.exceptions))


def pool(message: pools_pb2.Pool) -> v.Pool:
    """A pool as the daemon tells it."""
    return v.Pool(
        template=message.template,
        tenant=message.tenant,
        image=message.image,
        image_id=message.image_id,
        min_idle=message.min_idle,
        max=message.max,
        starting=message.starting,
        idle=message.idle,
        claimed=message.claimed,
        removing=message.removing,
        waiting=message.waiting,
        halted=message.halted,
        failures=message.failures,
        started_total=message.started_total,
        claimed_total=message.claimed_total,
        refill_p50_ms=message.refill_p50_ms,
        refill_p99_ms=message.refill_p99_ms,
        wanted_idle=message.wanted_idle,
    )


def info(message: system_pb2.GetInfoResponse) -> v.Info:
    """The daemon itself."""
    return v.Info(
        version=message.version,
        state=message.state,
        started_at=message.started_at,
        engine_version=message.engine_version,
        engine_state=message.engine_state,
        kernel=message.kernel,
        cgroup_version=message.cgroup_version,
        late_binding=message.late_binding,
        late_binding_reason=message.late_binding_reason,
        workspace_roots=tuple(message.workspace_roots),
        state_directory=message.state_directory,
        default_provider=message.default_provider,
        default_model=message.default_model,
        landlock_abi=message.landlock_abi,
        running_jobs=message.running_jobs,
        queued_jobs=message.queued_jobs,
    )
