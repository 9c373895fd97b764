"""The main job as a user runs it: real daemon, real engine, real sandboxes; only the model is a script."""

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, docker, events_of, one, types, until

pytestmark = pytest.mark.docker

TEAM = """
[experts.lead]
instruction = "Lead."
delegates = ["helper"]
[experts.helper]
instruction = "Help."
"""


def call(call_id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": call_id, "name": name, "arguments": arguments}


def exec_call(call_id: str, *argv: str) -> dict[str, Any]:
    return call(call_id, "exec", command=argv[0], args=list(argv[1:]), stdout=True, stderr=True)


def script_team(daemon: Daemon) -> None:
    daemon.script("lead", {"calls": [call("d", "helper", query="plan")]}, {"text": "done"})
    daemon.script("helper", {"calls": [exec_call("e", "sleep", "0.3")]}, {"text": "the plan"})


def test_a_delegating_job_uses_two_sandboxes_that_live_at_the_same_time_by_the_engines_own_word(daemon: Daemon) -> None:
    script_team(daemon)
    process = daemon.begin(daemon.definition(TEAM), "lead")
    seen = until(process, "sandboxAssigned", 2)
    parent, child = (event["containerId"] for event in seen if event["type"] == "sandboxAssigned")
    both = docker("inspect", "--format", "{{.State.Running}}", parent, child).split()
    assert both == ["true", "true"]
    began = time.time()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert parent != child
    # The engine is asked for a little of the future: removal follows the answer.
    span = ("--since", f"{began:.3f}", "--until", f"{time.time() + 2:.3f}")
    gone = docker("events", *span, "--filter", "event=die", "--format", "{{.ID}}").split()
    assert {parent, child} <= set(gone)
    assert one(events_of(rest), "jobFinished")["outcome"] == "completed"


def test_the_events_are_gapless_and_the_answer_is_the_last_one(daemon: Daemon) -> None:
    script_team(daemon)
    code, events, _ = daemon.run(daemon.definition(TEAM), "lead")
    assert code == 0
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert one(events, "jobFinished")["answer"] == "done"
    job = daemon.json("job", "get", events[0]["jobId"])
    assert job["state"] == "completed"


def test_parent_and_child_work_in_the_same_tree(daemon: Daemon) -> None:
    daemon.script(
        "lead",
        {
            "calls": [
                call("w", "writeTextFile", path="note.txt", text="from the lead"),
                call("d", "helper", query="read"),
            ]
        },
        {"calls": [call("r", "readTextFile", path="answer.txt")]},
        {"text": "done"},
    )
    daemon.script(
        "helper",
        {"calls": [call("r", "readTextFile", path="note.txt")]},
        {"calls": [call("w", "writeTextFile", path="answer.txt", text="from the helper")]},
        {"text": "read it"},
    )
    code, events, stderr = daemon.run(daemon.definition(TEAM), "lead")
    assert code == 0, stderr
    results = json.dumps([event.get("results") for event in events])
    assert "from the lead" in results
    assert "from the helper" in results


def test_inspect_of_a_working_sandbox_shows_the_base_set_and_no_secret(daemon: Daemon) -> None:
    toml = (
        '[experts.solo]\ninstruction = "Work."\n[experts.solo.skills."@perstack/base"]\ntype = "mcpStdioSkill"\n'
        'command = "npx"\nrequiredEnv = ["MY_TOKEN"]\n'
    )
    secret = "correct-horse-battery"
    daemon.script(
        "solo", {"calls": [exec_call("e", "sh", "-c", "echo $MY_TOKEN | tr a-y b-z; sleep 1")]}, {"text": "done"}
    )
    os.environ["MY_TOKEN"] = secret
    try:
        process = daemon.begin(daemon.definition(toml), "solo")
        seen = until(process, "callTools")
        container = one(seen, "sandboxAssigned")["containerId"]
        inspected = docker("inspect", container)
        rest, _ = process.communicate(timeout=60)
    finally:
        del os.environ["MY_TOKEN"]
    (found,) = json.loads(inspected)
    host = found["HostConfig"]
    assert host["CapDrop"] == ["ALL"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert any("no-new-privileges" in option for option in host["SecurityOpt"])
    assert secret not in inspected
    events = seen + events_of(rest)
    assert secret not in json.dumps(events)
    assert "dpssfdu-ipstf-cbuufsz" in json.dumps(one(events, "resolveToolResults"))
    assert one(events, "secretReleased")["name"] == "MY_TOKEN"
    assert secret not in daemon.log()
    for path in (daemon.home / "state").rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()


def test_a_run_whose_sandbox_is_killed_goes_on_in_another_and_the_model_is_told(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [exec_call("e", "sleep", "30")]}, {"text": "done"})
    process = daemon.begin(daemon.definition('[experts.solo]\ninstruction = "Work."\n'), "solo")
    seen = until(process, "callTools")
    docker("kill", "--signal", "KILL", one(seen, "sandboxAssigned")["containerId"])
    rest, _ = process.communicate(timeout=60)
    events = seen + events_of(rest)
    assert process.returncode == 0
    assert [event["fence"] for event in events if event["type"] == "sandboxAssigned"] == [1, 2]
    resumed = json.dumps(one(events, "resumeToolCalls"))
    assert "may or may not have taken effect" in resumed
    assert "137" in resumed


def test_ctrl_c_cancels_the_job_and_every_descendant(daemon: Daemon) -> None:
    """How soon is told by test_cancel.py, which has the machine to itself."""
    daemon.script("solo", {"calls": [exec_call("e", "sh", "-c", "setsid sleep 1234 & sleep 1234")]}, {"text": "never"})
    process = daemon.begin(daemon.definition('[experts.solo]\ninstruction = "Work."\n'), "solo")
    seen = until(process, "callTools")
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    events = seen + events_of(rest)
    assert "stopRunByCancel" in types(events)
    stopped, released = (one(events, name)["timestamp"] for name in ("stopRunByCancel", "sandboxReleased"))
    assert abs(released - stopped) < 10_000


def test_ten_delegating_jobs_all_finish_on_a_pool_of_two(home: Path) -> None:
    small = home / "small"
    small.mkdir()
    daemon = Daemon(small, {"templates.base.min_idle": 2, "templates.base.max": 2})
    daemon.start()
    try:
        daemon.script("lead", {"calls": [call("d", "helper", query="plan")]}, {"text": "done"})
        daemon.script("helper", {"text": "the plan"})
        directory = daemon.definition(TEAM)
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(daemon.run(directory, "lead")[0])) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert codes == [0] * 10
    finally:
        daemon.stop()


def test_a_denied_host_is_an_error_that_names_it_and_an_event(daemon: Daemon) -> None:
    reach = "import urllib.request; urllib.request.urlopen('https://example.com/', timeout=5)"
    daemon.script("solo", {"calls": [exec_call("e", "python3", "-c", reach)]}, {"text": "done"})
    code, events, _ = daemon.run(daemon.definition('[experts.solo]\ninstruction = "Work."\n'), "solo")
    assert code == 0
    denied = one(events, "egressDenied")
    assert (denied["host"], denied["reason"]) == ("example.com", "host_not_allowed")
    assert "403" in json.dumps(one(events, "resolveToolResults"))


def test_nothing_is_left_after_the_daemon_stopped(home: Path) -> None:
    own = home / "own"
    own.mkdir()
    daemon = Daemon(own)
    daemon.start()
    containers = {row["containerId"] for row in daemon.json("sandbox", "ls") if row["containerId"]}  # or it starts
    assert containers
    script_team(daemon)
    code, events, _ = daemon.run(daemon.definition(TEAM), "lead")
    assert code == 0
    containers |= {event["containerId"] for event in events if event["type"] == "sandboxAssigned"}
    daemon.stop()
    assert daemon.process.exitcode == 0
    assert not leftovers(own, containers)


def leftovers(home: Path, containers: set[str]) -> list[str]:
    """Whatever of a daemon is still there: containers, shims, cgroups, mounts, sockets, processes, loop devices."""
    found = [line for line in docker("ps", "-aq", "--no-trunc").split() if line in containers]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(home) in line]
    found += [str(path) for path in home.rglob("*") if path.is_socket()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(home) in command or any(container in command for container in containers):
            found.append(command)
    found += [str(path) for path in Path("/sys/fs/cgroup").rglob("docker/*") if path.name in containers]
    loops = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in loops.splitlines() if str(home) in line]
