"""What one job, or a client that guesses, can learn of another job: nothing. There is one tenant yet, and all who may
open the socket are its administrators; so these are about ids, cursors and what an expert can look up.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from perstack.v1 import (
    checkpoints_pb2,
    checkpoints_pb2_grpc,
    jobs_pb2,
    jobs_pb2_grpc,
    retention_pb2,
    sandboxes_pb2,
    secrets_pb2,
    transfers_pb2,
)

from tests.e2e.daemon import one, until
from tests.escape.attacker import SOLO, Attacker, Outcome, python, tool
from tests.escape.verdicts import attack, control

pytestmark = pytest.mark.docker

SAID = "tenant data 7281"
LARGE = f"print('{SAID} ' * 4000)"
ASKING = (
    '[experts.{name}.skills.player]\ntype = "interactiveSkill"\n[experts.{name}.skills.player.tools.askMove]\n'
    """inputJsonSchema = '{"type":"object","properties":{"question":{"type":"string"}},"required":["question"]}'\n"""
)
FILES = (jobs_pb2, checkpoints_pb2, retention_pb2, sandboxes_pb2, secrets_pb2, transfers_pb2)


@pytest.fixture
def channel(attacker: Attacker) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{attacker.daemon.socket}") as channel:
        yield channel


@pytest.fixture
def jobs(channel: grpc.Channel) -> jobs_pb2_grpc.JobServiceStub:
    return jobs_pb2_grpc.JobServiceStub(channel)


def reason_of(call: Callable[[], object]) -> str:
    """The reason that a call was refused with; empty when it was not."""
    try:
        call()
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]
        info = error_details_pb2.ErrorInfo()
        if status is None or not any(detail.Unpack(info) for detail in status.details):
            return str(error.code())
        return str(info.reason)
    return ""


def job_of(outcome: Outcome) -> str:
    return str(outcome.events[0]["jobId"])


def looks(jobs: jobs_pb2_grpc.JobServiceStub, job_id: str) -> list[str]:
    watch = jobs_pb2.WatchJobRequest(job_id=job_id, no_follow=True)
    return [
        reason_of(lambda: jobs.GetJob(jobs_pb2.GetJobRequest(job_id=job_id))),
        reason_of(lambda: jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=job_id))),
        reason_of(lambda: jobs.ListQuestions(jobs_pb2.ListQuestionsRequest(job_id=job_id))),
        reason_of(lambda: list(jobs.WatchJob(watch, timeout=10))),
    ]


# --- ids and cursors --------------------------------------------------------------------------------------------------
@attack("guessed_jobs")
@pytest.mark.parametrize("job_id", ["", "../" * 50, "\0", "0" * 26, "' or 1=1 --", "%", "*"])
def test_a_guessed_job_is_not_found(jobs: jobs_pb2_grpc.JobServiceStub, job_id: str) -> None:
    assert set(looks(jobs, job_id)) == {"job_not_found"}


@attack("guessed_jobs")
def test_a_part_of_an_id_is_not_enough(attacker: Attacker, jobs: jobs_pb2_grpc.JobServiceStub) -> None:
    job_id = job_of(attacker.run())
    assert {reason for cut in (job_id[:-1], job_id + "0", job_id.lower()) for reason in looks(jobs, cut)} == {
        "job_not_found"
    }


@control("guessed_jobs")
def test_the_jobs_own_id_finds_it(attacker: Attacker, jobs: jobs_pb2_grpc.JobServiceStub) -> None:
    assert set(looks(jobs, job_of(attacker.run()))) == {""}


def watched(jobs: jobs_pb2_grpc.JobServiceStub, job_id: str, cursor: int) -> list[Any]:
    watch = jobs_pb2.WatchJobRequest(job_id=job_id, after_seq=cursor, no_follow=True)
    return [event for batch in jobs.WatchJob(watch, timeout=10) for event in batch.events]


@attack("replayed_cursors")
def test_a_cursor_past_the_jobs_end_is_refused(attacker: Attacker, jobs: jobs_pb2_grpc.JobServiceStub) -> None:
    short, long = job_of(attacker.run()), job_of(attacker.run([python("a", "pass")], [python("b", "pass")]))
    of_another = watched(jobs, long, 0)[-1].seq
    for cursor in (of_another, 1000, 2**64 - 1):
        assert reason_of(lambda: watched(jobs, short, cursor)) == "cursor_invalid", cursor  # noqa: B023


@attack("replayed_cursors")
@pytest.mark.parametrize("token", ["x", "0" * 26, "' or 1=1", "../..", "9" * 500])
def test_a_page_token_that_was_made_up_shows_nothing_new(jobs: jobs_pb2_grpc.JobServiceStub, token: str) -> None:
    everything = {job.id for job in jobs.ListJobs(jobs_pb2.ListJobsRequest(page_size=1000)).jobs}
    try:
        page = jobs.ListJobs(jobs_pb2.ListJobsRequest(page_token=token)).jobs
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT  # noqa: PT017 - a token that is taken is fine, too
    else:
        assert {job.id for job in page} <= everything


@control("replayed_cursors")
def test_the_jobs_own_cursor_goes_on_behind_it(attacker: Attacker, jobs: jobs_pb2_grpc.JobServiceStub) -> None:
    job_id = job_of(attacker.run())
    assert next(event.seq for event in watched(jobs, job_id, 3)) == 4


# --- another tenant ---------------------------------------------------------------------------------------------------
def tenant_methods() -> list[MethodDescriptor]:
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    methods = [method for service in services for method in service.methods]
    return [method for method in methods if "tenant" in method.input_type.fields_by_name]


def named(channel: grpc.Channel, method: MethodDescriptor, tenant: str) -> str:
    """What became of a request that says nothing but the tenant."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    message = GetMessageClass(method.input_type)(tenant=tenant).SerializeToString()
    same: Any = lambda data: data  # noqa: E731
    if method.client_streaming:
        return reason_of(lambda: channel.stream_unary(path, same, same)(iter([message]), timeout=10))
    if method.server_streaming:
        return reason_of(lambda: list(channel.unary_stream(path, same, same)(message, timeout=10)))
    return reason_of(lambda: channel.unary_unary(path, same, same)(message, timeout=10))


@attack("other_tenants")
@pytest.mark.parametrize("tenant", ["other", "../default", "default\0", "Default", "' or 1=1"])
@pytest.mark.parametrize("method", [pytest.param(each, id=each.name) for each in tenant_methods()])
def test_another_tenant_is_not_there(channel: grpc.Channel, method: MethodDescriptor, tenant: str) -> None:
    assert named(channel, method, tenant) == "tenant_not_found"


@control("other_tenants")
def test_the_one_that_there_is_is_there(channel: grpc.Channel) -> None:
    listing = [method for method in tenant_methods() if method.name in {"ListJobs", "ListSecrets", "ListSandboxes"}]
    assert len(listing) > 1
    assert {named(channel, method, "default") for method in listing} == {""}


# --- what an expert can look up ---------------------------------------------------------------------------------------
def found(outcome: Outcome) -> str:
    """The last results of a run, as text."""
    results = [event["results"] for event in outcome.events if event["type"] == "resolveToolResults"]
    return json.dumps(results[-1])


@pytest.fixture(scope="module")
def artefact(attacker: Attacker) -> str:
    """The id of a large result of a job that has ended."""
    return found(attacker.run([python("large", LARGE)])).partition('"sha256:')[2][:12]


def read(attacker: Attacker, artefact: str, *before: Any) -> str:
    return found(attacker.run(*before, [tool("read", "readArtifact", id=artefact)]))


@attack("other_artefacts")
def test_an_artefact_of_another_job_is_not_there(attacker: Attacker, artefact: str) -> None:
    said = read(attacker, artefact)
    assert "there is no artefact" in said
    assert SAID not in said


@control("other_artefacts")
def test_the_same_artefact_is_there_in_a_job_that_made_it(attacker: Attacker, artefact: str) -> None:
    assert SAID in read(attacker, artefact, [python("large", LARGE)])


@attack("other_history")
def test_a_search_finds_nothing_that_another_job_said(attacker: Attacker, artefact: str) -> None:
    assert artefact, "a job that said it was there"
    assert "tenant" not in found(attacker.run([tool("search", "searchHistory", pattern='"data 7281"')]))


@control("other_history")
def test_a_search_finds_what_the_job_itself_said(attacker: Attacker) -> None:
    search = tool("search", "searchHistory", pattern='"data 7281"')
    assert "tenant" in found(attacker.run([python("say", f"print('{SAID}')")], [search]))


@attack("other_checkpoints")
def test_a_checkpoint_of_another_job_is_not_there(attacker: Attacker, channel: grpc.Channel) -> None:
    mine, other = attacker.run([python("a", "pass")]), attacker.run([python("b", "pass")], [python("c", "pass")])
    stub = checkpoints_pb2_grpc.CheckpointServiceStub(channel)
    last = checkpoint_of(stub, other)
    for name in (f"{last.run_id}/1", str(last.seq), "0", "-1", f"{last.run_id}/../1"):
        request = checkpoints_pb2.GetCheckpointRequest(job_id=job_of(mine), checkpoint=name)
        assert reason_of(lambda: stub.GetCheckpoint(request)), name  # noqa: B023


@control("other_checkpoints")
def test_the_jobs_own_checkpoint_is_there(attacker: Attacker, channel: grpc.Channel) -> None:
    outcome = attacker.run([python("a", "pass")])
    stub = checkpoints_pb2_grpc.CheckpointServiceStub(channel)
    last = checkpoint_of(stub, outcome)
    request = checkpoints_pb2.GetCheckpointRequest(job_id=job_of(outcome), checkpoint=f"{last.run_id}/1")
    assert stub.GetCheckpoint(request).checkpoint.run_id == last.run_id


# --- stored secrets ---------------------------------------------------------------------------------------------------
STORED = "stored-for-one-expert-1729"
REQUIRES = SOLO + '[experts.{name}.skills."@perstack/base"]\nrequiredEnv = ["GRANTED_TOKEN"]\n'
REVERSED = python("say", "import os; print(os.environ['GRANTED_TOKEN'][::-1])")


def requiring(attacker: Attacker, *, granted: bool) -> Outcome:
    """A run that prints, backwards, a secret that was stored for its own expert or for another one."""
    expert = f"attacker-{attacker.made + 1}"  # the next one's name
    grant = ("--expert", expert if granted else "another-expert")
    done = attacker.daemon.ctl("secret", "put", "GRANTED_TOKEN", *grant, stdin=STORED.encode())
    assert done.returncode == 0, done.stderr
    try:
        return attacker.run([REVERSED], toml=REQUIRES)
    finally:
        attacker.daemon.ctl("secret", "rm", "GRANTED_TOKEN")


@attack("other_secrets")
def test_a_secret_that_was_granted_to_another_expert_is_not_given(attacker: Attacker) -> None:
    outcome = requiring(attacker, granted=False)
    assert outcome.code != 0
    assert "GRANTED_TOKEN" in outcome.stderr
    assert STORED[::-1] not in outcome.stderr + json.dumps(outcome.events)


@control("other_secrets")
def test_the_expert_that_it_was_granted_to_has_it(attacker: Attacker) -> None:
    outcome = requiring(attacker, granted=True)
    assert outcome.printed("say").strip() == STORED[::-1]


def checkpoint_of(stub: Any, outcome: Outcome) -> Any:
    return stub.ListCheckpoints(checkpoints_pb2.ListCheckpointsRequest(job_id=job_of(outcome))).checkpoints[-1]


# --- answers ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def answering(attacker: Attacker) -> list[str]:
    """What became of: an answer, the same by another, and the question's id in another job that asks the same."""
    ids, processes = [], []
    for _ in range(2):
        name = attacker.name()
        attacker.daemon.script(name, {"calls": [tool("q", "askMove", question="Where?")]}, {"text": "done"})
        directory = attacker.daemon.definition((SOLO + ASKING).replace("{name}", name))
        processes.append(attacker.daemon.begin(directory, name))
        ids.append(one(until(processes[-1], "callInteractiveTool"), "callInteractiveTool")["jobId"])
    with grpc.insecure_channel(f"unix:{attacker.daemon.socket}") as channel:
        jobs = jobs_pb2_grpc.JobServiceStub(channel)
        first, second = (jobs.ListQuestions(jobs_pb2.ListQuestionsRequest(job_id=each)).questions[0].id for each in ids)

        def answered(job_id: str, question: str, text: str) -> str:
            content = json.dumps(text).encode()
            request = jobs_pb2.AnswerQuestionRequest(
                job_id=job_id, question_id=question, action="answer", content=content
            )
            return reason_of(lambda: jobs.AnswerQuestion(request))

        seen = [answered(ids[0], second, "crossed"), answered(ids[0], first, "taken")]
        seen += [answered(ids[0], first, "another"), answered(ids[1], first, "taken")]
        open_still = len(jobs.ListQuestions(jobs_pb2.ListQuestionsRequest(job_id=ids[1])).questions)
        jobs.CancelJob(jobs_pb2.CancelJobRequest(job_id=ids[1]))
    for process in processes:
        process.communicate(timeout=60)
    return [*seen, str(open_still)]


@attack("replayed_answer")
def test_an_answer_counts_once_and_in_its_own_job(answering: list[str]) -> None:
    crossed, _, again, elsewhere, open_still = answering
    assert crossed == elsewhere == "question_not_found"
    assert again == "question_closed"
    assert open_still == "1"


@control("replayed_answer")
def test_the_first_answer_is_taken(answering: list[str]) -> None:
    assert answering[1] == ""
