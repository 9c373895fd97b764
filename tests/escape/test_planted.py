"""Files of a workspace that a package runner or an interpreter would obey: a skill with a sandbox of its own never sees
them. The control is the same skill beside the shell, by the definition's own choice.
"""

import json
from pathlib import Path

import pytest

from tests.escape.attacker import Attacker, Outcome, python, tool
from tests.escape.verdicts import attack, control

pytestmark = pytest.mark.docker

SERVER = Path(__file__).with_name("hostile_server.py").read_text()
RAN = "the planted program ran with the key"
PLANT = f"""
import json, os
tool = 'node_modules/planted-tool'
os.makedirs('node_modules/.bin'); os.makedirs(tool)
json.dump({{'name': 'planted-tool', 'version': '1.0.0', 'bin': 'run.js'}}, open(tool + '/package.json', 'w'))
here = {{'name': 'here', 'version': '1.0.0', 'dependencies': {{'planted-tool': '1.0.0'}}}}
json.dump(here, open('package.json', 'w'))
run = '#!/usr/bin/env node\\nif (process.env.HOSTILE_TOKEN) console.error({json.dumps(RAN)})\\n'
open(tool + '/run.js', 'w').write(run)
os.chmod(tool + '/run.js', 0o755)
os.symlink('../planted-tool/run.js', 'node_modules/.bin/planted-tool')
planted = 'import os, sys\\nif "HOSTILE_TOKEN" in os.environ: print({json.dumps(RAN)}, file=sys.stderr, flush=True)\\n'
for name in ('contextlib.py', 'sitecustomize.py', 'usercustomize.py'): open(name, 'w').write(planted)
for name in ('pip.conf', 'uv.toml', '.python-version', 'pyproject.toml'): open(name, 'w').write('[planted')
"""
ENV = {"HOSTILE_TOKEN": "only-for-the-server-1618"}
COMMANDS = {
    "planted_node_modules": 'command = "npx"\npackageName = "planted-tool"\n',
    "planted_python": f'command = "python3"\nargs = ["-c", {json.dumps(SERVER)}, "said"]\n',
}


@pytest.fixture(scope="module")
def planted(attacker: Attacker) -> str:
    """A named workspace with such files."""
    outcome = attacker.run([python("plant", PLANT)], workspace="planted")
    assert outcome.answers()["plant"]["exitCode"] == 0, outcome.answers()
    return "planted"


def ran(attacker: Attacker, workspace: str, name: str, isolation: str) -> Outcome:
    toml = (
        '[experts.{name}]\ninstruction = "Work."\n[experts.{name}.skills.hostile]\ntype = "mcpStdioSkill"\n'
        f'{COMMANDS[name]}requiredEnv = ["HOSTILE_TOKEN"]\nisolation = "{isolation}"\n'
    )
    toml = 'runtime = "full"\n' * (isolation == "shared") + toml
    return attacker.run([tool("call", "speak")], toml=toml, workspace=workspace, env=ENV)


@pytest.mark.parametrize("name", [pytest.param(name, marks=attack(name)) for name in COMMANDS])
def test_a_skill_with_its_own_sandbox_does_not_obey_the_workspace(attacker: Attacker, planted: str, name: str) -> None:
    outcome = ran(attacker, planted, name, "own")
    assert RAN not in json.dumps(outcome.events) + outcome.stderr
    assert [event for event in outcome.events if event["type"] == "secretReleased"], "it had the key"


@pytest.mark.parametrize("name", [pytest.param(name, marks=control(name)) for name in COMMANDS])
def test_a_skill_beside_the_shell_obeys_it(attacker: Attacker, planted: str, name: str) -> None:
    outcome = ran(attacker, planted, name, "shared")
    assert RAN in json.dumps(outcome.events) + outcome.stderr
