"""A daemon that is not there, dies or cuts a watch: what the real program says and how it goes on."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import grpc
import pytest

from tests.fakes.daemon_api import Cut, FakeDaemon
from tests.fakes.event_log import JOB
from tests.fakes.stories import story
from tests.rpc.ctl_program import LAST, ROOT, TIMEOUT, Ctl, ended

pytestmark = pytest.mark.anyio


async def test_a_missing_socket_is_one_sentence_and_7(ctl: Ctl, tmp_path: Path) -> None:
    ctl.address = str(tmp_path / "none.sock")
    done = await ctl("job", "ls")
    assert (done.code, done.out, done.err.count("\n")) == (7, "", 1)
    assert f"there is no daemon at {tmp_path}/none.sock" in done.err


async def test_a_dead_daemon_is_one_sentence_and_7(ctl: Ctl, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "dead.sock"))
    done = await ctl("run", "e", "q", "--address", str(tmp_path / "dead.sock"))
    assert (done.code, done.err.count("\n")) == (7, 1)
    assert "nobody listens" in done.err


async def test_the_address_next_to_the_command_counts(daemon: FakeDaemon, ctl: Ctl) -> None:
    ctl.address = "/nonexistent/p.sock"
    assert (await ctl("system", "info", "--address", daemon.path)).code == 0
    assert (await ctl("--address", daemon.path, "system", "info")).code == 0
    assert (await ctl("--address", daemon.path, "system", "info", "--address", "/nonexistent/x.sock")).code == 7


async def test_a_daemon_that_dies_while_a_job_is_watched_leaves_the_way_to_go_on(ctl: Ctl, tmp_path: Path) -> None:
    path = str(tmp_path / "mortal.sock")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/proto"}
    mortal = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.fakes.daemon_api", path, "0.05", stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=env
    )
    try:
        assert mortal.stdout is not None
        await asyncio.wait_for(mortal.stdout.readline(), TIMEOUT)
        ctl.address = path
        process = await ctl.start("run", "e", "q", "--reconnect", "0.5")
        assert process.stdout is not None
        seen = [await asyncio.wait_for(process.stdout.readline(), TIMEOUT) for _ in range(5)]
        mortal.kill()
        done = await ended(process)
    finally:
        if mortal.returncode is None:
            mortal.kill()
        await mortal.wait()
    last = json.loads(seen[-1])["seq"] if not done.rows else done.rows[-1]["seq"]
    assert done.code == 7
    sentence = done.err.strip().split("\n")[-1]
    assert sentence.startswith(f"perstackctl: lost the daemon while watching job {JOB}")
    assert sentence.endswith(f"go on with: perstackctl job watch {JOB} --after {last}")
    assert "Traceback" not in done.err


async def test_a_cut_watch_prints_every_event_once(daemon: FakeDaemon, ctl: Ctl) -> None:
    daemon.add_job(story())
    daemon.batch_size = 1
    daemon.cuts = [Cut(5), Cut(11, grpc.StatusCode.ABORTED, "watch_cut")]
    done = await ctl("job", "watch", JOB)
    assert done.code == 0
    assert [row["seq"] for row in done.rows] == list(range(1, LAST + 1))
