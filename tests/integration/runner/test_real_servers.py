"""Skills with MCP servers that nobody here wrote: over stdio, and over streamable HTTP and SSE on loopback."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from perstack.v1 import runner_pb2 as pb

from tests.free_port import free_port
from tests.integration.runner.fake_daemon import FakeDaemon, value_of
from tests.integration.runner.real_servers import RealServers, installed
from tests.integration.runner.test_skills import states

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
TRANSPORTS = ("stdio", "http", "sse")


@pytest.fixture(scope="session")
def servers() -> RealServers:
    return installed()


@asynccontextmanager
async def everything(servers: RealServers, transport: str) -> AsyncIterator[pb.SkillSpec]:
    """The server that has everything, over a transport; one that listens is started, and ended after."""
    if transport == "stdio":
        yield stdio("all", servers.javascript("server-everything", "stdio"))
        return
    port = free_port()
    argv = servers.javascript("server-everything", {"http": "streamableHttp", "sse": "sse"}[transport])
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await _listening(port)
        path = {"http": "mcp", "sse": "sse"}[transport]
        yield remote("all", transport, f"http://127.0.0.1:{port}/{path}")
    finally:
        process.kill()
        await process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            return


def stdio(name: str, argv: list[str], **fields: Any) -> pb.SkillSpec:
    return pb.SkillSpec(name=name, stdio=pb.StdioServer(command=argv), **fields)


def remote(name: str, transport: str, endpoint: str, **fields: Any) -> pb.SkillSpec:
    return pb.SkillSpec(name=name, remote=pb.RemoteServer(transport=transport, endpoint=endpoint), **fields)


def connected(daemon: FakeDaemon) -> pb.SkillState:
    (news,) = [each for each in daemon.skill_states if each.state == pb.SkillState.STATE_CONNECTED]
    return news


def text_of(result: pb.ToolResult) -> str:
    return "\n".join(part.text for part in result.content)


# --- those in Python, and the file system -----------------------------------------------------------------------------
async def test_the_time_server_lists_its_tools_and_answers(
    program: FakeDaemon, workspace: Path, servers: RealServers
) -> None:
    await program.begin(workspace, skills=[stdio("time", servers.python("mcp_server_time", "--local-timezone=UTC"))])
    news = connected(program)
    assert sorted(tool.name for tool in news.tools) == ["convert_time", "get_current_time"]
    assert json.loads(news.tools[0].input_schema)["type"] == "object"
    (result,) = await program.results(1, ("get_current_time", {"timezone": "Europe/Berlin"}), skill="time")
    assert not result.is_error
    assert json.loads(result.content[0].text)["timezone"] == "Europe/Berlin"
    (wrong,) = await program.results(2, ("get_current_time", {"timezone": "Nowhere"}), skill="time")
    assert wrong.is_error


async def test_the_git_server_reads_a_repository_of_the_workspace(
    daemon: FakeDaemon, workspace: Path, servers: RealServers
) -> None:
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", str(workspace)], check=True)
    (workspace / "new.txt").write_text("x")
    skill = stdio("git", servers.python("mcp_server_git"))
    await daemon.begin(workspace, skills=[skill])
    assert "git_status" in [tool.name for tool in connected(daemon).tools]
    status, outside = await daemon.results(
        1, ("git_status", {"repo_path": str(workspace)}), ("git_status", {"repo_path": "/nowhere"}), skill="git"
    )
    assert not status.is_error
    assert "new.txt" in text_of(status)
    assert outside.is_error


async def test_the_fetch_server_lists_its_tool_and_fails_with_a_sentence_without_a_way_out(
    daemon: FakeDaemon, workspace: Path, servers: RealServers
) -> None:
    await daemon.begin(workspace, skills=[stdio("fetch", servers.python("mcp_server_fetch"))])
    assert [tool.name for tool in connected(daemon).tools] == ["fetch"]
    (result,) = await daemon.results(1, ("fetch", {"url": "https://example.invalid/"}), skill="fetch")
    assert result.is_error
    assert "example.invalid" in text_of(result)


async def test_the_file_system_server_is_kept_to_what_it_was_given(
    daemon: FakeDaemon, workspace: Path, place: Path, servers: RealServers
) -> None:
    (workspace / "a.txt").write_text("inside")
    (place / "b.txt").write_text("outside")
    await daemon.begin(workspace, skills=[stdio("fs", servers.javascript("server-filesystem", str(workspace)))])
    inside, outside = await daemon.results(
        1,
        ("read_text_file", {"path": str(workspace / "a.txt")}),
        ("read_text_file", {"path": str(place / "b.txt")}),
        skill="fs",
    )
    assert text_of(inside) == "inside"  # and not once more as structured content
    assert outside.is_error


# --- the one that has everything --------------------------------------------------------------------------------------
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_tools_are_listed_and_called(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        news = connected(daemon)
        assert (news.server_name, news.server_version) == ("mcp-servers/everything", "2.0.0")
        names = [tool.name for tool in news.tools]
        assert {"echo", "get-tiny-image", "trigger-elicitation-request", "get-roots-list"} <= set(names)
        # Neither is announced, so that the server does not offer what would be refused.
        assert not {"trigger-sampling-request", "trigger-url-elicitation"} & set(names)
        echo, total, wrong = await daemon.results(
            1, ("echo", {"message": "hällo"}), ("get-sum", {"a": 2, "b": 40}), ("get-sum", {"a": "x"}), skill="all"
        )
        assert text_of(echo) == "Echo: hällo"
        assert "42" in text_of(total)
        assert wrong.is_error


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_images_links_resources_and_structured_content_are_kept(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        image, links, resource, structured = await daemon.results(
            1,
            ("get-tiny-image", {}),
            ("get-resource-links", {"count": 2}),
            ("get-resource-reference", {"resourceType": "Blob", "resourceId": 1}),
            ("get-structured-content", {"location": "New York"}),
            skill="all",
        )
        kinds = [part.WhichOneof("kind") for part in image.content]
        assert kinds == ["text", "blob", "text"]
        assert image.content[1].blob.media_type == "image/png"
        assert daemon.blobs[image.content[1].blob.digest].startswith(b"\x89PNG")
        assert [json.loads(part.text)["type"] for part in links.content[1:]] == ["resource_link"] * 2
        assert [part.WhichOneof("kind") for part in resource.content] == ["text", "blob", "text"]
        # The text is the structured content as JSON: it comes once.
        (once,) = structured.content
        assert set(json.loads(once.text)) == {"temperature", "conditions", "humidity"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_progress_is_shown_while_a_call_runs(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        call = ("trigger-long-running-operation", {"duration": 0.4, "steps": 4})
        (result,) = await daemon.results(1, call, skill="all")
        assert "completed" in text_of(result)
        assert "".join(each.delta for each in daemon.progress) == "1 of 4\n2 of 4\n3 of 4\n4 of 4\n"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("action", ["accept", "decline", "cancel"])
async def test_a_servers_form_is_put_to_a_person_and_the_answer_reaches_it(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str, action: str
) -> None:
    async with everything(servers, transport) as skill:
        skill.tool_timeout_ms = 2_000
        await daemon.begin(workspace, skills=[skill])
        daemon.turn(1, ("trigger-elicitation-request", {}), skill="all")
        question = await daemon.next("elicit")
        assert (question.call_id, question.skill, question.elicitation_id) == ("c1-0", "all", 1)
        assert question.message == "Please provide inputs for the following fields:"
        assert "birthdate" in json.loads(question.schema)["properties"]
        content = b'{"check":true,"integer":7,"name":"Ada","untitledMultipleSelectEnum":["Piano"]}'
        daemon.order(
            elicited=pb.Elicited(elicitation_id=1, action=action, content=content if action == "accept" else b"")
        )
        (result,) = await daemon.take_results(1)
        said = {"accept": "Name: Ada", "decline": "User declined", "cancel": "User cancelled"}
        assert said[action] in text_of(result)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cancelled_call_ends_at_once_and_the_server_goes_on(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        daemon.turn(1, ("trigger-long-running-operation", {"duration": 60, "steps": 600}), skill="all")
        async with asyncio.timeout(20):
            while not daemon.progress:
                await asyncio.sleep(0.01)
        async with asyncio.timeout(3):
            daemon.order(cancel_calls=pb.CancelCalls(call_ids=["c1-0"]))
            (result,) = await daemon.take_results(1)
        assert value_of(result)["error"] == "cancelled"
        (echo,) = await daemon.results(2, ("echo", {"message": "still here"}), skill="all")
        assert text_of(echo) == "Echo: still here"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_root_of_a_server_is_the_workspace(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        await states(daemon, "stderr")  # the server says when it has them
        (result,) = await daemon.results(1, ("get-roots-list", {}), skill="all")
        assert f"file://{workspace}" in text_of(result)


async def test_a_server_without_a_workspace_has_no_root(daemon: FakeDaemon, servers: RealServers) -> None:
    async with everything(servers, "http") as skill:
        await daemon.begin("", skills=[skill], base_tools=[])
        await states(daemon, "stderr")
        (result,) = await daemon.results(1, ("get-roots-list", {}), skill="all")
        assert "file://" not in text_of(result)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_log_messages_of_a_server_are_lines_of_its_standard_error(
    daemon: FakeDaemon, workspace: Path, servers: RealServers, transport: str
) -> None:
    async with everything(servers, transport) as skill:
        await daemon.begin(workspace, skills=[skill])
        async with asyncio.timeout(20):
            while not any("[info] everything-server: Roots updated: 1" in each.detail for each in daemon.skill_states):
                await asyncio.sleep(0.02)


async def test_a_session_is_ended_with_delete_and_one_that_is_lost_is_begun_again(
    daemon: FakeDaemon, workspace: Path, servers: RealServers
) -> None:
    """The server forgets its sessions when it is started again; the call that finds out is made once more."""
    async with everything(servers, "http") as skill:
        await daemon.begin(workspace, skills=[skill])
        (first,) = await daemon.results(1, ("echo", {"message": "one"}), skill="all")
        assert text_of(first) == "Echo: one"
    port = skill.remote.endpoint.rpartition(":")[2].partition("/")[0]
    argv = servers.javascript("server-everything", "streamableHttp")
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, "PORT": port}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await _listening(int(port))
        (second,) = await daemon.results(2, ("echo", {"message": "two"}), skill="all")
        assert text_of(second) == "Echo: two"
    finally:
        process.kill()
        await process.wait()


# --- package runners --------------------------------------------------------------------------------------------------
async def test_a_package_runner_of_a_private_skill_does_not_find_what_the_workspace_plants(
    daemon: FakeDaemon, workspace: Path, servers: RealServers
) -> None:
    """A control runs the planted program: it is there to be found."""
    planted = workspace / "node_modules/.bin/planted"
    planted.parent.mkdir(parents=True)
    planted.write_text(f"#!/bin/sh\ntouch {workspace}/ran-$SKILL\nexit 1\n")
    planted.chmod(0o755)
    (workspace / "package.json").write_text("{}")
    argv = [*servers.npx, "--no-install", "--offline", "planted"]
    skills = [
        pb.SkillSpec(
            name=name,
            stdio=pb.StdioServer(command=argv, env={"SKILL": name, "PATH": f"{servers.node.parent}:/usr/bin:/bin"}),
            private_directories=name == "private",
        )
        for name in ("control", "private")
    ]
    await daemon.begin(workspace, skills=skills)
    assert (workspace / "ran-control").exists()
    assert not (workspace / "ran-private").exists()
