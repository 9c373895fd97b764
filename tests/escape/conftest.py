"""One daemon with short time-outs and one workspace root, shared by all probes; a rig for their controls."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon
from tests.escape.attacker import Attacker
from tests.integration.docker.rig import Rig, shared_directory, waiting_image

PROJECT_UID = 1000


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "attack(*names): tries attacks of tests.escape.attacks; passes when they fail")
    config.addinivalue_line("markers", "control(*names): the same without a protection; passes when they succeed")


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
            "templates.skills.min_idle": 2,
            "templates.skills.image": "perstack/base:latest",
            "templates.skills.grant": "",
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


@pytest.fixture(scope="session")
def rig() -> Iterator[Rig]:
    """For containers from the sandboxes' own options, changed."""
    with waiting_image(), shared_directory(Path(f"/tmp/escape-{os.getpid()}")) as root:
        yield Rig(root)
