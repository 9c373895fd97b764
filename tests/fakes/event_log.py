"""A job's events as the daemon sends them, written by the test: what `FakeDaemon` tells and what clients are shown."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from perstack.v1 import events_pb2, jobs_pb2

JOB = "01JD3Z0000000000000000JOB0"
PARENT = "01JD3Z00000000000000000PAR"
CHILD = "01JD3Z00000000000000000CHD"
BEGIN = 1_732_000_000_000
ROUTES = [{"name": "pro-trainer", "owner": "delegate", "target": "pro-trainer"}]
FINAL = {
    "completed": (jobs_pb2.JOB_STATE_COMPLETED, 0),
    "failed": (jobs_pb2.JOB_STATE_FAILED, 1),
    "stopped": (jobs_pb2.JOB_STATE_STOPPED, 3),
    "cancelled": (jobs_pb2.JOB_STATE_CANCELLED, 5),
    "refused": (jobs_pb2.JOB_STATE_REFUSED, 6),
}

Item = events_pb2.Event | events_pb2.StreamingEvent


@dataclass
class EventLog:
    """Writes events as the daemon's codec does: canonical camelCase JSON with the type inside, numbered per job."""

    job_id: str = JOB
    now: int = BEGIN
    items: list[Item] = field(default_factory=list)
    seq: int = 0

    def add(
        self, kind: str, payload: dict[str, Any] | None = None, *, run: str = "", step: int = 0, after: int = 10
    ) -> events_pb2.Event:
        self.seq += 1
        self.now += after
        document = {"type": kind, **(payload or {})}
        event = events_pb2.Event(
            id=f"01JD3ZEVENT{self.seq:015d}",
            seq=self.seq,
            schema=1,
            type=kind,
            tenant="default",
            job_id=self.job_id,
            run_id=run,
            parent_run_id=PARENT if run == CHILD else "",
            expert_key={PARENT: "fitness-assistant", CHILD: "pro-trainer"}.get(run, ""),
            step_number=step,
            timestamp=self.now,
            payload=json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(),
        )
        self.items.append(event)
        return event

    def stream(
        self, delta: str, *, run: str, step: int, offset: int, kind: str = "streamRunResult", call: str = ""
    ) -> None:
        self.items.append(
            events_pb2.StreamingEvent(
                after_seq=self.seq,
                stream_id=f"{run}-{step}-{kind}-{call}",
                offset=offset,
                type=kind,
                job_id=self.job_id,
                run_id=run,
                step_number=step,
                delta=delta,
                call_id=call,
            )
        )

    def created(self, expert: str = "fitness-assistant", query: str = "Start today's session") -> None:
        payload = {
            "definitionDigest": "sha256:00",
            "expertKey": expert,
            "model": "claude-sonnet-5",
            "provider": "anthropic",
            "query": query,
            "workspace": "named:demo",
        }
        self.add("jobCreated", payload)
        self.add("jobAdmitted")

    def started(self, run: str, query: str, call: str = "") -> None:
        sandbox = {
            "containerId": "c0ffee",
            "fence": 1,
            "sandboxId": f"01JD3ZSANDBOX{run[-3:]}0000000000",
            "template": "base",
        }
        self.add("sandboxAssigned", sandbox, run=run)
        start = {"model": "claude-sonnet-5", "provider": "anthropic", "query": query, "reasoning": "low", "system": "s"}
        self.add(
            "startRun", start | {"routes": ROUTES, "tools": []} | ({"callId": call} if call else {}), run=run, step=1
        )

    def turn(self, run: str, step: int, calls: Sequence[tuple[str, str, dict[str, Any]]], text: str = "") -> None:
        self.add("startGeneration", run=run, step=step)
        said = [{"text": text, "type": "text"}] if text else []
        made = [{"arguments": a, "callId": i, "name": n, "type": "toolCall"} for i, n, a in calls]
        turn = {"finishReason": "toolCalls", "parts": said + made, "usage": {"inputTokens": 1000, "outputTokens": 50}}
        self.add("callTools", {"turn": turn}, run=run, step=step, after=400)

    def results(self, run: str, step: int, results: Sequence[tuple[str, str, bool]], after: int = 30) -> None:
        self.add(
            "resolveToolResults", {"results": [result(*each) for each in results]}, run=run, step=step, after=after
        )
        self.add("finishToolCall", run=run, step=step, after=0)
        self.add("continueToNextStep", {"step": step + 1}, run=run, step=step, after=0)

    def asks(self, run: str, step: int, *questions: dict[str, Any]) -> None:
        self.add("callInteractiveTool", {"questions": list(questions)}, run=run, step=step)

    def wants_approval(self, run: str, step: int, question: dict[str, Any]) -> None:
        self.add("approvalRequested", {"question": question}, run=run, step=step)

    def elicits(self, run: str, step: int, question: dict[str, Any]) -> None:
        self.add("elicitationRequested", {"elicitation": 1, "question": question}, run=run, step=step)

    def completed(self, run: str, step: int, text: str) -> None:
        turn = {
            "finishReason": "stop",
            "parts": [{"text": text, "type": "text"}],
            "usage": {"inputTokens": 1000, "outputTokens": 50},
        }
        usage = {"inputTokens": 1000 * step, "outputTokens": 50 * step}
        self.add("completeRun", {"text": text, "turn": turn, "usage": usage}, run=run, step=step, after=300)

    def finished(self, outcome: str = "completed", answer: str = "", reason: str = "", message: str = "") -> None:
        said = {"answer": answer, "message": message, "reason": reason}
        kept = {key: value for key, value in said.items() if value}
        self.add("jobFinished", {"exitCode": FINAL[outcome][1], "outcome": outcome, **kept})


def result(call_id: str, text: str, is_error: bool = False) -> dict[str, Any]:
    return {"callId": call_id, "content": [{"text": text, "type": "text"}]} | ({"isError": True} if is_error else {})
