"""A daemon with sandboxes whose runner is one version older: the present one without what came last.

`OLDER` is that difference, which docs/design/runtime.md lists; it is to be written anew when the version is raised.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from perstackd.version import RUNNER_PROTOCOL
from tests.e2e.daemon import Daemon, one, types
from tests.e2e.skill_servers import PROBE, call, expert, player, python, results, stdio, watched

pytestmark = [pytest.mark.docker, pytest.mark.timeout(180)]
OLDER = f"""
_hello, _ask, _order = hello_to_pb, ask_to_pb, order_from_pb


def hello_to_pb(hello, session_token):
    message = _hello(hello, session_token)
    message.hello.protocol_version = {RUNNER_PROTOCOL - 1}
    message.hello.ClearField("self_view")
    return message


def ask_to_pb(ask, counter):
    assert not isinstance(ask, Elicit) and getattr(ask, "state", "") != "toolsChanged"
    return _ask(ask, counter)


def order_from_pb(message):
    if message.HasField("elicited"):
        return None
    for skill in message.assign.skills if message.HasField("assign") else ():
        for name in ("start", "private_directories", "start_timeout_ms"):
            if name in skill.DESCRIPTOR.fields_by_name:
                skill.ClearField(name)
    return _order(message)
"""
NEVER_ASKS = """
_report = Runner._report_skill
Runner._elicit = lambda self, question: False
Runner._report_skill = lambda self, news: None if news.state == "toolsChanged" else _report(self, news)
"""
DOCKERFILE = """
FROM perstack/base:latest
COPY convert loop /older/
RUN cat /older/convert >> /opt/perstack/lib/perstack_runner/convert.py \\
 && cat /older/loop >> /opt/perstack/lib/perstack_runner/loop.py \\
 && python3 -m compileall -q -f --invalidation-mode unchecked-hash /opt/perstack/lib/perstack_runner
"""
IMAGE = "perstack-older-runner:test"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="older-") as directory:
        for name, text in {"convert": OLDER, "loop": NEVER_ASKS, "Dockerfile": DOCKERFILE}.items():
            (Path(directory) / name).write_text(text)
        command = ["docker", "build", "-q", "--network=none", "-t", IMAGE, directory]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    yield IMAGE
    subprocess.run(["docker", "rmi", "-f", IMAGE], capture_output=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def daemon(home: Path, image: str) -> Iterator[Daemon]:
    settings = {"templates.base.image": image, "templates.base.min_idle": 1, "templates.skills.image": image}
    made = Daemon(home, {**settings, "templates.skills.min_idle": 1})
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_a_job_with_tools_a_skill_and_a_question_completes_in_it(daemon: Daemon) -> None:
    toml = expert("solo") + player("solo") + stdio("solo", "probe", PROBE, "look", isolation="shared")
    daemon.script(
        "solo",
        {"calls": [python("tool", "print(6 * 7)"), call("skill", "look", code="print('from the skill')")]},
        {"calls": [call("ask", "askMove", question="Where to?")]},
        {"calls": [call("write", "writeTextFile", path="note", text="kept")]},
        {"calls": [call("read", "readTextFile", path="note")]},
        {"text": "done"},
    )
    with watched(daemon, daemon.definition(toml)) as job:
        job.until("callInteractiveTool")
        job.answer("north")
        job.end()
    said = results(job.seen)
    assert one(job.seen, "jobFinished")["answer"] == "done"
    assert "42" in said["tool"]
    assert said["skill"] == "from the skill\n"
    assert "north" in str(one(job.seen, "questionAnswered"))
    assert "kept" in said["read"]
    assert types(job.seen).count("sandboxAssigned") == 1


def test_it_lives_over_a_kill_of_the_daemon_with_its_job(daemon: Daemon) -> None:
    daemon.script("solo", {"calls": [python("wait", "import time; time.sleep(4); print('went')")]}, {"text": "done"})
    with watched(daemon, daemon.definition(expert("solo"))) as job:
        job.until("callTools")
        daemon.stop(9)
        daemon.start()
        job.end()
    assert one(job.seen, "jobFinished")["answer"] == "done"
    assert "went" in results(job.seen)["wait"]
    assert types(job.seen).count("sandboxAssigned") == 1


def test_what_it_would_not_keep_apart_is_not_given_to_it(daemon: Daemon) -> None:
    """A skill of its own sandbox needs directories that no workspace fills; this runner would leave that out."""
    toml = expert("solo") + stdio("solo", "alone", PROBE, "look", isolation="own")
    daemon.script("solo", {"text": "never said"})
    code, events, _ = daemon.run(daemon.definition(toml), "solo")
    end = one(events, "jobFinished")
    assert (code, end["reason"]) == (1, "runner_protocol")
    assert "make images" in end["message"]
    assert "private directories for the skill 'alone'" in end["message"]
