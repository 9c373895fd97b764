"""A remote skill at a raw HTTP server of the test, and what the runner says of it."""

from typing import Any

from perstack.v1 import runner_pb2 as pb

from tests.integration.runner.fake_daemon import FakeDaemon
from tests.integration.runner.raw_http import RawHttp

SECRET = "Bearer secret-of-this-test"


def remote(server: RawHttp, transport: str = "http", **fields: Any) -> pb.SkillSpec:
    path = "sse" if transport == "sse" else "mcp"
    endpoint = f"http://127.0.0.1:{server.port}/{path}"
    made = pb.RemoteServer(transport=transport, endpoint=endpoint, headers={"Authorization": SECRET})
    return pb.SkillSpec(name="s", remote=made, **fields)


def failed(daemon: FakeDaemon) -> str:
    last = daemon.skill_states[-1]
    assert last.state == pb.SkillState.STATE_FAILED, last
    assert "secret" not in last.detail
    return last.detail


async def echo(daemon: FakeDaemon, step: int) -> str:
    (answer,) = await daemon.results(step, ("echo", {"step": step}), skill="s")
    return str(answer.content[0].text)
