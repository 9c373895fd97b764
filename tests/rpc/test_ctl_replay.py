"""Replays with live tools and with a live model, from the command line to the daemon's own servicers and back."""

import json
from pathlib import Path

import pytest

from perstackctl import client as api
from perstackctl.client import Client, Definition, JobRequest, ReplayMode
from perstackctl.client.values import Parent
from perstackd.domain.messages import TextPart, ToolResultPart
from perstackd.domain.session import RoutedCall
from tests.rpc.test_ctl_logs import client, ctl, daemon, finished, root
from tests.unit.app.daemon_in_memory import TEAM, World
from tests.unit.app.test_jobs import LEAD, calls

__all__ = ["client", "daemon", "root"]  # fixtures

pytestmark = pytest.mark.anyio
NEEDS = TEAM + '[experts.lead.skills."@perstack/base"]\ntype = "mcpStdioSkill"\nrequiredEnv = ["REPLAY_TOKEN"]\n'


def otherwise(call: RoutedCall) -> ToolResultPart:
    return ToolResultPart(call.call_id, (TextPart("something else"),))


@pytest.mark.parametrize(("option", "mode"), [("--live-tools", "liveTools"), ("--live-model", "liveModel")])
async def test_a_replay_that_comes_out_the_same_ends_with_0(client: Client, root: Path, option: str, mode: str) -> None:
    job = await finished(client)
    code, said, told = await ctl(root, "job", "replay", job.id, option)
    assert (code, said.startswith("the same: ")) == (0, True), told
    assert f"replays {job.id}" in told
    assert "created: lead" in told  # how it goes is told beside what comes of it
    code, said, _ = await ctl(root, "job", "replay", job.id.lower(), option, "-o", "json")
    found = json.loads(said)
    assert (code, found["replayedJobId"], found["mode"], found["divergence"]) == (0, job.id, mode, None)
    again = await client.get_job(found["jobId"])
    assert (again.parent_job_id, again.replay, again.parent_seq) == (job.id, ReplayMode(mode), 0)
    _, shown, _ = await ctl(root, "job", "get", again.id)
    assert f"{job.id} (live {mode[4:].lower()})" in shown
    assert "Goes on from" not in shown
    _, listed, _ = await ctl(root, "job", "ls")
    assert "[replay]" in listed


async def test_a_result_that_is_another_is_named_and_ends_with_1(client: Client, daemon: World, root: Path) -> None:
    job = await finished(client)
    daemon.links.tool = otherwise
    code, said, _ = await ctl(root, "job", "replay", job.id, "--live-tools", "--workspace", "ephemeral")
    assert code == 1
    assert f"of {job.id} and event " in said
    assert "results[0].content[0].text" in said
    assert "something else" in said
    code, said, _ = await ctl(root, "job", "replay", job.id, "--live-tools", "-o", "json")
    difference = json.loads(said)["divergence"]
    assert (code, difference["field"]) == (1, "results[0].content[0].text")
    assert (difference["recorded"]["type"], difference["made"]["type"]) == ("resolveToolResults", "resolveToolResults")
    assert difference["seq"] > 0
    assert difference["madeSeq"] > 0


async def test_a_call_that_is_not_in_the_record_is_named(client: Client, daemon: World, root: Path) -> None:
    job = await finished(client)
    daemon.models._scripts[LEAD] = (calls(("z", "exec", {"n": 5})), *daemon.models._scripts[LEAD][1:])
    code, said, _ = await ctl(root, "job", "replay", job.id, "--live-model")
    assert (code, 'Not in the record: exec {"n": 5} (lead, step 1, event ' in said) == (1, True)
    assert "turn.parts[0].arguments.n" in said


async def test_values_that_are_missing_are_named_before_anything_begins(
    client: Client, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await finished(client, definition=Definition(NEEDS, "/p/perstack.toml"), env={"REPLAY_TOKEN": "s3cret-value"})
    monkeypatch.delenv("REPLAY_TOKEN", raising=False)
    code, _, error = await ctl(root, "job", "replay", job.id, "--live-tools")
    assert (code, "no value for REPLAY_TOKEN" in error) == (2, True)
    code, _, error = await ctl(root, "job", "replay", job.id, "--live-model")
    assert code == 0, error
    monkeypatch.setenv("REPLAY_TOKEN", "s3cret-value")
    code, _, error = await ctl(root, "job", "replay", job.id, "--live-tools")
    assert code == 0, error


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--live-tools", "--live-model"), "perstackctl run"),
        (("--model", "x"), "--live-model"),
        (("--live-tools", "--provider", "x"), "--live-model"),
        (("--live-model", "--workspace", "x"), "--live-tools"),
        (("--env-path", ".env"), "--live-tools"),
    ],
)
async def test_options_that_have_no_place_are_usage_errors(root: Path, options: tuple[str, ...], word: str) -> None:
    code, _, error = await ctl(root, "job", "replay", "01JD3Z", *options)
    assert (code, word in error) == (2, True)


async def test_the_api_refuses_what_is_no_replay(client: Client) -> None:
    job = await finished(client)
    with pytest.raises(api.PreconditionError) as plain:
        await client.logs.compare_replay(job.id)
    assert plain.value.reason == "job_not_replay"
    request = JobRequest(Definition(""), "", "else", parent=Parent(job.id, replay=ReplayMode.MODEL))
    with pytest.raises(api.InvalidError) as asked:
        await client.create_job(request)
    assert asked.value.reason == "replay_invalid"
    done = await finished(
        client, definition=Definition(""), expert_key="", query="", parent=Parent(job.id, replay=ReplayMode.MODEL)
    )
    await client.logs.delete_jobs([job.id])
    with pytest.raises(api.PreconditionError) as gone:
        await client.logs.compare_replay(done.id)
    assert gone.value.reason == "replayed_job_gone"
