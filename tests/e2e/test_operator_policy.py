"""What an operator decides above definitions: which hosts may be reached at all, and what a template leaves out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, one

pytestmark = pytest.mark.docker
REACHING = """
[experts.reporter]
instruction = "Report."
[experts.reporter.skills.tracker]
type = "mcpStdioSkill"
command = "tracker-mcp"
isolation = "shared"
allowedDomains = ["{host}"]
"""
SOLO = '[experts.solo]\ninstruction = "Work."\n'
ROOT = "touch /var/tmp/x && echo written; grep ' / ' /proc/mounts"


@pytest.fixture(scope="module")
def daemon(home: Path) -> Iterator[Daemon]:
    settings = {
        "egress.allow_hosts": ["*.in.test"],
        "templates.base.exceptions": ["writable-root"],
        "templates.base.min_idle": 1,
    }
    daemon = Daemon(home, settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def test_a_job_that_needs_more_is_refused_in_one_sentence_and_nothing_is_left(daemon: Daemon) -> None:
    cwd = daemon.definition(REACHING.format(host="api.out.test"))
    sentence = (
        "the skill 'tracker' of 'reporter' needs api.out.test, which egress.allow_hosts of this daemon's operator "
        "leaves out (*.in.test)"
    )
    done = daemon.ctl("run", "reporter", "Report.", "--workspace", "ephemeral", cwd=cwd)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    validated = daemon.ctl("expert", "validate", cwd=cwd)
    assert (validated.returncode, sentence in validated.stdout + validated.stderr) == (1, True)
    assert daemon.json("job", "ls") == []
    assert all(not each["jobId"] for each in daemon.json("sandbox", "ls"))


def test_what_is_asked_for_beside_is_refused_too_and_the_dry_run_names_the_policy(daemon: Daemon) -> None:
    cwd = daemon.definition(SOLO)
    done = daemon.ctl("run", "solo", "Work.", "--workspace", "ephemeral", "--allow-domain", "out.test", cwd=cwd)
    assert "--allow-domain needs out.test, which egress.allow_hosts" in done.stderr
    explained = daemon.ctl("egress", "explain", "out.test", "--allow-domain", "out.test", cwd=cwd)
    assert (explained.returncode, "egress_not_permitted" in explained.stdout) == (1, True)
    inside = daemon.ctl("egress", "explain", "a.in.test", cwd=cwd)
    assert "host_not_allowed" in inside.stdout


def test_a_loosened_template_is_told_at_the_start_and_by_the_posture_and_serves(daemon: Daemon) -> None:
    assert '"exception": "writable-root"' in daemon.log()
    assert "template is loosened" in daemon.log()
    sandbox = daemon.json("sandbox", "ls")[0]["id"]
    posture = daemon.ctl("sandbox", "posture", sandbox)
    assert (posture.returncode, "Exceptions of the template: writable-root." in posture.stdout) == (0, True)
    assert "read_only_root is loosened, CIS 5.12" in posture.stdout
    call = {"id": "e", "name": "exec", "arguments": {"command": "sh", "args": ["-c", ROOT], "stdout": True}}
    daemon.script("solo", {"calls": [call]}, {"text": "done"})
    code, events, error = daemon.run(daemon.definition(SOLO), "solo")
    assert code == 0, error
    result = str(one(events, "resolveToolResults"))
    assert "written" in result
    assert " / overlay rw" in result
