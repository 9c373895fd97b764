"""What a perstack.toml becomes."""

from pathlib import Path

import pytest

from perstackd.domain.expert import (
    Approval,
    BaseSkill,
    Definition,
    Expert,
    InteractiveSkill,
    Isolation,
    ModelChoice,
    RemoteSkill,
    StdioSkill,
)
from perstackd.domain.resolution import resolve
from tests.unit.definition.parsed import HEAD, expert, good

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_the_smallest_file_has_the_defaults() -> None:
    assert good(HEAD) == Definition("perstack.toml", (Expert("a", "Do it."),))


def test_the_top_level_is_read() -> None:
    file = good(
        'model = "claude-sonnet-5"\nreasoningBudget = 2048\nruntime = "gvisor"\nmaxSteps = 7\nmaxRetries = 0\n'
        'timeout = 60000\nenvPath = [".env.ci"]\n[provider]\nproviderName = "anthropic"\n[provider.setting]\n'
        'baseUrl = "https://proxy.example/v1"\nheaders = { "x-team" = "blue" }\n' + HEAD
    )
    assert file.model == ModelChoice(
        "anthropic", "claude-sonnet-5", 2048, "https://proxy.example/v1", (("x-team", "blue"),)
    )
    assert (file.template, file.max_steps, file.max_retries, file.timeout_ms) == ("gvisor", 7, 0, 60_000)
    assert file.env_paths == (".env.ci",)


def test_an_expert_is_read() -> None:
    text = (
        'version = "1.2.0-rc.1+x"\nminRuntimeVersion = "v1.0"\ndescription = "Knows"\ndelegates = ["a-b@^1.0.0"]\n'
        'tags = ["x", "y"]\nmaxSteps = 3\nmodel = "claude-haiku-5-5"\nreasoningBudget = "none"\n'
        '[experts.a-b]\ninstruction = "Help."\nversion = "1.4.0"\n'
    )
    first = good(HEAD + text).experts[0]
    assert first == Expert(
        key="a",
        instruction="Do it.",
        version="1.2.0-rc.1+x",
        description="Knows",
        delegates=("a-b@^1.0.0",),
        tags=("x", "y"),
        model=ModelChoice(model="claude-haiku-5-5", reasoning="none"),
        max_steps=3,
    )


def test_a_stdio_skill_is_read() -> None:
    skill = expert(
        '[experts.a.skills.gh]\ntype = "mcpStdioSkill"\ncommand = "uvx"\nargs = ["gh-mcp", "--ro"]\n'
        'description = "Hub"\nrule = "Be kind"\npick = ["issue"]\nomit = ["merge"]\nrequiredEnv = ["GH_TOKEN"]\n'
        'allowedDomains = ["API.github.com", "*.github.com"]\nlazyInit = true\ntoolTimeout = 500\n'
        'approval = ["issue"]\nworkspace = "rw"\n'
    ).skills[0]
    assert skill == StdioSkill(
        name="gh",
        command="uvx",
        args=("gh-mcp", "--ro"),
        description="Hub",
        rule="Be kind",
        pick=("issue",),
        omit=("merge",),
        required_env=("GH_TOKEN",),
        allowed_domains=("api.github.com", "*.github.com"),
        lazy_init=True,
        isolation=Isolation.OWN,
        approval=("issue",),
        tool_timeout_ms=500,
        workspace="rw",
    )


@pytest.mark.parametrize(
    ("lines", "isolation", "workspace"),
    [
        ('command = "tool"', Isolation.SHARED, ""),
        ('command = "npx"\npackageName = "p"', Isolation.OWN, "ro"),
        ('command = "/usr/bin/uvx"\nargs = ["p"]', Isolation.OWN, "ro"),
        ('command = "npx"\npackageName = "p"\nisolation = "shared"', Isolation.SHARED, ""),
        ('requiredEnv = ["X"]', Isolation.OWN, "ro"),
        ('allowedDomains = ["x.example"]', Isolation.OWN, "ro"),
        ('approval = "always"', Isolation.OWN, "ro"),
        ('approval = ["send"]', Isolation.OWN, "ro"),
        ("approval = []", Isolation.SHARED, ""),
        ('approval = "never"', Isolation.SHARED, ""),
        ('isolation = "own"\nworkspace = "none"', Isolation.OWN, "none"),
    ],
)
def test_a_skill_with_something_to_keep_has_a_sandbox_of_its_own(
    lines: str, isolation: Isolation, workspace: str
) -> None:
    command = "" if "command" in lines else 'command = "tool"\n'
    skill = expert(f'[experts.a.skills.s]\ntype = "mcpStdioSkill"\n{command}{lines}\n').skills[0]
    assert isinstance(skill, StdioSkill)
    assert (skill.isolation, skill.workspace) == (isolation, workspace)


@pytest.mark.parametrize(("type_", "transport"), [("mcpSseSkill", "sse"), ("mcpHttpSkill", "http")])
def test_a_remote_skill_is_read_and_needs_the_secrets_that_its_headers_name(type_: str, transport: str) -> None:
    skill = expert(
        f'[experts.a.skills.r]\ntype = "{type_}"\nendpoint = "https://mcp.example/sse"\n'
        'headers = { Authorization = "Bearer ${TOKEN}", x = "${TOKEN} ${OTHER}" }\n'
    ).skills[0]
    assert skill == RemoteSkill(
        name="r",
        transport=transport,
        endpoint="https://mcp.example/sse",
        headers=(("Authorization", "Bearer ${TOKEN}"), ("x", "${TOKEN} ${OTHER}")),
        required_env=("TOKEN", "OTHER"),
        isolation=Isolation.OWN,
        approval=Approval.NEVER,
    )


@pytest.mark.parametrize(
    "schema",
    [
        'inputJsonSchema = \'{"type": "object", "properties": {"cell": {"type": "integer"}}}\'',
        'inputJsonSchema = { type = "object", properties = { cell = { type = "integer" } } }',
    ],
)
def test_an_interactive_skill_is_read_with_its_schema_as_text_or_as_a_table(schema: str) -> None:
    skill = expert(
        f'[experts.a.skills.ask]\ntype = "interactiveSkill"\n[experts.a.skills.ask.tools.move]\n'
        f'description = "Your move"\n{schema}\n'
    ).skills[0]
    assert isinstance(skill, InteractiveSkill)
    assert skill.tools[0].name == "move"
    assert skill.tools[0].input_schema == {"type": "object", "properties": {"cell": {"type": "integer"}}}


def test_the_base_skill_is_built_in_whatever_its_command_package_or_version() -> None:
    base = expert(
        '[experts.a.skills."@perstack/base"]\ntype = "mcpStdioSkill"\ncommand = "npx"\n'
        'packageName = "@perstack/base@0.0.34"\npick = ["todo", "readTextFile"]\nomit = ["exec"]\n'
        'requiredEnv = ["X"]\nrule = "Read first"\n'
    )
    assert base.skills == ()
    assert base.base == BaseSkill(("todo", "readTextFile"), ("exec",), ("X",), "Read first")
    assert base.required_env == ("X",)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080/v1", "http://localhost", "http://[::1]:9", "http://models.intern"]
)
def test_plain_http_is_for_loopback_and_hosts_that_the_operator_allows(url: str) -> None:
    assert good(f'[provider.setting]\nbaseUrl = "{url}"\n{HEAD}').model.base_url == url


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/perstack.toml")), ids=lambda path: path.parent.name)
def test_the_examples_have_nothing_to_complain_about(path: Path) -> None:
    assert good(path.read_text()).experts


def test_the_fitness_assistant_delegates_to_its_trainer() -> None:
    file = good((EXAMPLES / "fitness-assistant/perstack.toml").read_text())
    team = resolve(file, "fitness-assistant")
    assert [member.key for member in team] == ["fitness-assistant", "pro-trainer"]
    assert "./fitness-log.md" in team[0].instruction
    assert team[1].delegates == ()
