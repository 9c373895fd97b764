"""Sandboxes, their postures, pools and the daemon itself, through the real program."""

import json

import pytest
from perstack.v1 import pools_pb2, sandboxes_pb2, system_pb2

from tests.fakes.daemon_api import FakeDaemon
from tests.rpc.ctl_program import SANDBOX, Ctl

pytestmark = pytest.mark.anyio


async def test_a_posture_is_a_table_with_cis_numbers_and_exceptions(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base")]
    good = sandboxes_pb2.PostureCheck(
        name="CapEff", expected="0", actual="0", ok=True, cis="5.3", source="/proc/1/status"
    )
    bad = sandboxes_pb2.PostureCheck(name="Seccomp", expected="2", actual="0", ok=False, cis="5.21")
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(
        sandbox_id=SANDBOX, checks=[good, bad], ok=False, exceptions=["netadmin"]
    )
    done = await ctl("sandbox", "posture", SANDBOX[:13])
    assert done.code == 1
    rows = [row.split() for row in done.out.split("\n")]
    assert rows[0] == ["OK", "CHECK", "ACTUAL", "CIS", "SOURCE"]
    assert rows[1] == ["ok", "CapEff", "0", "5.3", "/proc/1/status"]
    assert rows[2] == ["DIFFERS", "Seccomp", "0", "5.21", "-"]
    assert "Seccomp differs\n  expected: 2\n  actual:   0" in done.out
    assert "1 of 2 checks differ. Exceptions of the template: netadmin." in done.out
    daemon.postures[SANDBOX].ok = True
    assert (await ctl("sandbox", "posture", SANDBOX, "-o", "json")).code == 0


async def test_a_check_that_an_exception_loosens_is_marked_and_said_what_it_expects(
    daemon: FakeDaemon, ctl: Ctl
) -> None:
    root = sandboxes_pb2.PostureCheck(
        name="root", expected="rw (exception writable-root)", actual="relatime rw", ok=True, cis="5.12"
    )
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base")]
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(
        sandbox_id=SANDBOX, checks=[root], ok=True, exceptions=["writable-root"]
    )
    done = await ctl("sandbox", "posture", SANDBOX)
    assert done.code == 0
    assert done.out.split("\n")[1].split()[:2] == ["excepted", "root"]
    assert "root is loosened, CIS 5.12: rw (exception writable-root)" in done.out
    assert "as its template asks. Exceptions of the template: writable-root." in done.out


async def test_what_resists_its_removal_is_named(daemon: FakeDaemon, ctl: Ctl) -> None:
    state = sandboxes_pb2.SANDBOX_STATE_REMOVING
    problems = ["remove container: the engine does not answer", "detach: busy\x1b[2J"]
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base", state=state, problems=problems)]
    for command in ("sandbox ls", f"sandbox get {SANDBOX}"):
        done = await ctl(*command.split())
        said = "resists its removal, which is tried again: remove container: the engine does not answer; detach: busy"
        assert f"{SANDBOX} {said}" in done.out
        assert "\x1b" not in done.out
    assert json.loads((await ctl("sandbox", "ls", "-o", "json")).out)[0]["problems"] == problems


async def test_sandboxes_pools_and_the_daemon_are_shown(daemon: FakeDaemon, ctl: Ctl) -> None:
    state = sandboxes_pb2.SANDBOX_STATE_IDLE
    daemon.sandboxes = [sandboxes_pb2.Sandbox(id=SANDBOX, template="base", state=state, uid=200001, runtime="runc")]
    daemon.pools = [
        pools_pb2.Pool(template="base", idle=2, min_idle=4, max=16, refill_p50_ms=250, refill_p99_ms=300),
        pools_pb2.Pool(template="full", halted="no such image", failures=5),
    ]
    daemon.info = system_pb2.GetInfoResponse(version="0.1.0", state="serving", kernel="6.1", cgroup_version=2)
    assert f"{SANDBOX}  base      idle   200001  runc" in (await ctl("sandbox", "ls")).out
    assert f"Sandbox:   {SANDBOX}" in (await ctl("sandbox", "get", SANDBOX[:8])).out
    pools = (await ctl("pool", "status")).out
    assert "250/300 ms" in pools
    assert "no such image (5 failed starts in a row)" in pools
    assert (await ctl("pool", "ls")).out == pools
    daemon.postures[SANDBOX] = sandboxes_pb2.GetPostureResponse(sandbox_id=SANDBOX, ok=True)
    daemon.postures[SANDBOX].checks.add(name="mounts", ok=True, actual="/run/" * 50, cis="5.5", source="engine")
    narrow = Ctl(ctl.address, ctl.cwd, {**ctl.env, "COLUMNS": "80"})
    for command in ("sandbox ls", "pool status", f"sandbox posture {SANDBOX}"):
        rows = (await narrow(*command.split())).out.partition("\n\n")[0].splitlines()
        assert max(map(len, rows)) <= 80
    info = (await ctl("system", "info")).out
    assert "perstackd 0.1.0, serving" in info
    assert "6.1, cgroup v2" in info
    for command in ("sandbox ls", f"sandbox get {SANDBOX}", "pool status", "system info", "version"):
        assert json.loads((await ctl(*command.split(), "-o", "json")).out)
