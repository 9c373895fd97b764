"""One daemon with short time-outs and one workspace root, shared by all probes."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.escape.attacker import Attacker

PROJECT_UID = 1000


@pytest.fixture(scope="session")
def attacker() -> Iterator[Attacker]:
    with tempfile.TemporaryDirectory(prefix="pe-", dir="/tmp") as directory:
        home = Path(directory)
        home.chmod(0o755)
        project = home / "root/project"
        project.mkdir(parents=True)
        os.chown(project, PROJECT_UID, PROJECT_UID)
        settings = {
            "templates.base.min_idle": 3,
            "jobs.tool_timeout_ms": 4000,
            "jobs.skill_start_timeout_ms": 5000,
            "workspace_roots": [str(home / "root")],
        }
        daemon = Daemon(home, settings)
        daemon.start()
        try:
            yield Attacker(daemon, project)
        finally:
            daemon.stop()
