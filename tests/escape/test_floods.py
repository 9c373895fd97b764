"""More than may come: at the link of a sandbox, at its way out, at the streams of watchers. It costs the sandbox that
sends it, and the daemon answers everybody else. The control is a daemon without these bounds.
"""

import json
import threading
import time
from typing import Any

import grpc
import pytest
from perstack.v1 import jobs_pb2 as pb
from perstack.v1 import jobs_pb2_grpc

from tests.escape.attacker import SOLO, Attacker, Call, Outcome, tool
from tests.escape.verdicts import attack, control

pytestmark = pytest.mark.docker

BURST, RATE = 2000, 200  # of messages of one sandbox, see perstackd.rpc.runner
MESSAGES = 4000
LEAST_SECONDS = 0.9 * (MESSAGES - BURST) / RATE
PIECE, PIECES = 4096, 6000
HUGE = 2 << 20  # twice the bound of a message


def call(**given: Any) -> list[Call]:
    return [tool("a", "exec", command="true", **given)]


# --- at the link ------------------------------------------------------------------------------------------------------
def loses_its_sandbox(outcome: Outcome) -> None:
    """A call took its sandbox with it; the run goes on in a fresh one, and the model is told."""
    assert outcome.code == 0, outcome.stderr
    causes = [event["cause"] for event in outcome.events if event["type"] == "sandboxReleased"]
    assert causes[-1:] == ["finished"], causes
    assert len(causes) == 2, causes
    assert causes[0] != "finished"


@attack("huge_frames")
def test_a_message_above_the_bound_ends_its_stream(hostile: Attacker) -> None:
    outcome = hostile.run(call(size=HUGE), mode="huge", options=("--max-steps", "2"))
    loses_its_sandbox(outcome)
    assert "hhhh" not in json.dumps(outcome.events)
    assert hostile.run(call(), mode="honest").answers()["a"] == "honest"


@control("huge_frames")
def test_without_the_bound_it_is_taken(lawless: Attacker) -> None:
    assert len(lawless.run(call(size=HUGE), mode="huge", options=("--max-steps", "1")).answers()["a"]) == HUGE


def seconds_of_flood(attacker: Attacker) -> float:
    began = time.monotonic()
    outcome = attacker.run(call(count=MESSAGES, size=512, seconds=60), mode="flood")
    assert outcome.answers().get("a") == f"sent {MESSAGES}", outcome.stderr
    return time.monotonic() - began


@attack("message_flood")
def test_one_that_sends_too_fast_is_made_to_wait_and_the_daemon_answers(hostile: Attacker) -> None:
    with hostile.watching_latency() as latency:
        assert seconds_of_flood(hostile) > LEAST_SECONDS
    assert max(latency.seconds) < 10


@control("message_flood")
def test_without_the_bound_it_sends_as_fast_as_it_can(lawless: Attacker) -> None:
    assert seconds_of_flood(lawless) < LEAST_SECONDS


@attack("malformed_messages")
def test_bytes_that_are_no_message_end_the_stream(hostile: Attacker) -> None:
    outcome = hostile.run(call(valid=False), mode="garbage")
    loses_its_sandbox(outcome)
    assert hostile.run(call(), mode="honest").answers()["a"] == "honest"


@control("malformed_messages")
def test_a_message_from_the_same_program_is_taken(hostile: Attacker) -> None:
    assert hostile.run(call(valid=True), mode="garbage").answers()["a"] == "honest"


# --- at the way out ---------------------------------------------------------------------------------------------------
@attack("connect_flood")
def test_one_that_holds_all_its_connections_is_turned_away_and_another_is_not(hostile: Attacker) -> None:
    flood: list[Outcome] = []
    flooding = threading.Thread(target=lambda: flood.append(hostile.run(call(count=200), mode="dials")))
    flooding.start()
    other = hostile.run(call(count=1), mode="dials")
    flooding.join(60)
    assert (other.code, flood[0].code) == (0, 0), other.stderr + flood[0].stderr
    assert other.answers().get("a") == "turned away 0", other.events
    assert int(flood[0].answers().get("a", "").removeprefix("turned away ")) > 0, flood[0].events


@control("connect_flood")
def test_without_the_bound_it_holds_them_all(lawless: Attacker) -> None:
    assert lawless.run(call(count=200), mode="dials").answers()["a"] == "turned away 0"


# --- at a watcher's stream --------------------------------------------------------------------------------------------
def kept_for_a_sleeper(attacker: Attacker) -> float:
    """The part of what a job's sandbox sent that the daemon had kept for a watcher who read nothing meanwhile."""
    name = attacker.name("flood")
    calls = call(count=PIECES, size=PIECE, seconds=4)
    attacker.daemon.script(name, {"calls": calls}, {"text": "done"})
    definition = pb.CreateJobRequest().definition.__class__(source="perstack.toml", toml=SOLO.replace("{name}", name))
    workspace = pb.Workspace(ephemeral=pb.Workspace.Ephemeral())
    request = pb.CreateJobRequest(definition=definition, expert_key=name, query="do it", workspace=workspace)
    options = [("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"unix:{attacker.daemon.socket}", options) as channel:
        jobs = jobs_pb2_grpc.JobServiceStub(channel)
        job_id = jobs.CreateJob(request, timeout=10).job.id
        stream = jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, include_streaming=True), timeout=60)
        next(stream)  # it is a watcher now, and reads no further
        for _ in jobs.WatchJob(pb.WatchJobRequest(job_id=job_id), timeout=60):
            pass
        received = sum(piece.ByteSize() for batch in stream for piece in batch.streaming)
        (answer,) = [text for text in sayings(jobs, job_id) if text.startswith("sent ")]
    return received / (int(answer.removeprefix("sent ")) * PIECE)


def sayings(jobs: jobs_pb2_grpc.JobServiceStub, job_id: str) -> list[str]:
    batches = jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, no_follow=True), timeout=10)
    events = [json.loads(event.payload) for batch in batches for event in batch.events]
    results = [result for event in events for result in event.get("results", ())]
    return [part["text"] for result in results for part in result["content"] if "text" in part]


@attack("slow_reads")
def test_little_is_kept_for_a_watcher_who_does_not_read(hostile: Attacker) -> None:
    assert kept_for_a_sleeper(hostile) < 0.6


@control("slow_reads")
def test_without_the_bound_all_is_kept(lawless: Attacker) -> None:
    assert kept_for_a_sleeper(lawless) > 0.9
