"""Jobs that clients of the daemon are shown, event by event: one that delegates, some that ask a person."""

from typing import Any

from tests.fakes.event_log import BEGIN, CHILD, JOB, PARENT, EventLog, Item, result


def question(short_id: str, kind: str, tool: str, message: str = "", skill: str = "", **more: Any) -> dict[str, Any]:
    """A question as an event holds it; `arguments` and `schema` are keywords."""
    return {
        "answerSchema": more.get("schema", {}),
        "arguments": more.get("arguments", {}),
        "callId": f"c{short_id}",
        "id": short_id,
        "kind": kind,
        "message": message,
        "skill": skill,
        "tool": tool,
    }


MOVE = question("1-1", "tool", "askMove", "Your move?", "board", arguments={"board": "X..|.O.|..."})
ISSUE = question(
    "2-1",
    "approval",
    "createIssue",
    "May the skill github call createIssue?",
    "github",
    arguments={"title": "Crash on start", "body": "It crashes.\nEvery time.", "labels": ["bug"]},
)
DATABASE = question(
    "3-1e1",
    "elicitation",
    "query",
    "Which database shall I use?",
    "db",
    schema={
        "type": "object",
        "properties": {
            "database": {"type": "string", "enum": ["staging", "live"], "description": "where it runs"},
            "rows": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
            "note": {"type": "string"},
            "dry": {"type": "boolean", "default": True},
        },
        "required": ["database", "dry"],
    },
)


def asking(job_id: str = JOB, *, of: str = "tool") -> list[Item]:
    """A job that waits for a person: `of` is a question's kind, or "all" for two runs that ask at the same time."""
    log = EventLog(job_id)
    log.created("bot", "Sort the issues")
    log.started(PARENT, "Sort the issues")
    if of in {"tool", "all"}:
        log.turn(PARENT, 1, [("c1-1", "askMove", {"board": "X..|.O.|..."})])
        log.asks(PARENT, 1, MOVE)
    if of in {"approval", "all"}:
        run = CHILD if of == "all" else PARENT
        if of == "all":
            log.started(CHILD, "An issue", "x")
        log.turn(run, 2, [("c2-1", "createIssue", ISSUE["arguments"])])
        log.wants_approval(run, 2, ISSUE)
    if of == "elicitation":
        log.turn(PARENT, 3, [("c3-1e1", "query", {"sql": "select 1"})])
        log.elicits(PARENT, 3, DATABASE)
    return log.items


def ending_well(job_id: str, after: int, answer: str = "All done.") -> list[Item]:
    """What follows the event with that number once everything is answered."""
    log = EventLog(job_id, seq=after, now=BEGIN + 60_000)
    log.completed(PARENT, 4, answer)
    log.finished(answer=answer)
    return log.items


def story(job_id: str = JOB, answer: str = "Ten minutes of rowing, then rest.") -> list[Item]:
    """A coordinator that reads, asks its delegate, writes and answers."""
    log = EventLog(job_id)
    log.created()
    log.started(PARENT, "Start today's session")
    log.turn(PARENT, 1, [("c1", "readTextFile", {"path": "./fitness-log.md"})], "I look at the log first.")
    log.results(PARENT, 1, [("c1", "# Fitness log\n2024-11-18 slept well", False)])
    log.turn(PARENT, 2, [("c2", "pro-trainer", {"query": "A menu for a rested person"})])
    log.add(
        "callDelegate",
        {"calls": [{"callId": "c2", "expertKey": "pro-trainer", "query": "A menu for a rested person"}]},
        run=PARENT,
        step=2,
    )
    log.started(CHILD, "A menu for a rested person", "c2")
    log.add("startGeneration", run=CHILD, step=1)
    for number, piece in enumerate(("Rowing, ", "then ", "rest.")):
        log.stream(piece, run=CHILD, step=1, offset=(0, 8, 13)[number])
    log.completed(CHILD, 1, "Rowing, then rest.")
    log.add("sandboxReleased", {"cause": "finished", "sandboxId": "01JD3ZSANDBOXCHD0000000000"}, run=CHILD)
    log.add("finishToolCall", {"results": [result("c2", "Rowing, then rest.")]}, run=PARENT, step=2)
    log.add("continueToNextStep", {"step": 3}, run=PARENT, step=2, after=0)
    log.turn(PARENT, 3, [("c3", "appendTextFile", {"path": "./fitness-log.md", "text": "rowing"})])
    log.results(PARENT, 3, [("c3", '{"error":"EACCES","message":"read-only"}', True)])
    log.completed(PARENT, 4, answer)
    log.add("sandboxReleased", {"cause": "finished", "sandboxId": "01JD3ZSANDBOXPAR0000000000"}, run=PARENT)
    log.finished(answer=answer)
    return log.items
