"""What is said about skills beyond their types: what they share, need, and cannot have."""

import json
import time
from pathlib import Path

import pytest

from perstackd.adapters.definition.allowed import reaches_loopback
from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.adapters.definition.skills import BASE_TOOLS
from perstackd.domain.assignment import installer, start_ms
from perstackd.domain.expert import Finding, InteractiveSkill, RemoteSkill, Severity, StdioSkill

ROOT = Path(__file__).parents[3]
HEAD = '[experts.a]\ninstruction = "Do it."\n'
STDIO = '[experts.a.skills.s]\ntype = "mcpStdioSkill"\ncommand = "tool"\n'
REMOTE = '[experts.a.skills.s]\ntype = "mcpHttpSkill"\nendpoint = "https://mcp.example/x"\n'
BASE = '[experts.a.skills."@perstack/base"]\n'
ASK = '[experts.a.skills.s]\ntype = "interactiveSkill"\n[experts.a.skills.s.tools.move]\n'


def findings(text: str, *, loopback: bool = False) -> tuple[Finding, ...]:
    return TomlDefinitions(loopback_endpoints=loopback).parse(HEAD + text, "perstack.toml").findings


def only(text: str, *, loopback: bool = False) -> Finding:
    found = findings(text, loopback=loopback)
    assert len(found) == 1, found
    return found[0]


def skill(text: str) -> object:
    parsed = TomlDefinitions().parse(HEAD + text, "perstack.toml")
    assert parsed.definition is not None, parsed.findings
    return parsed.definition.experts[0].skills[0]


def test_arguments_are_kept_as_they_are_written_also_twice() -> None:
    found = skill(STDIO + 'args = ["--header", "a", "--header", "a"]\n')
    assert isinstance(found, StdioSkill)
    assert found.args == ("--header", "a", "--header", "a")


def test_a_package_may_stand_beside_an_empty_array_of_arguments() -> None:
    assert findings(STDIO + 'packageName = "p"\nargs = []\n') == ()


@pytest.mark.parametrize(
    ("lines", "wait"),
    [
        (STDIO, 10),
        (STDIO + "startTimeout = 7\n", 7),
        (REMOTE + "startTimeout = 7\n", 7),
        (STDIO.replace("tool", "npx") + 'packageName = "p"\n', 30),
        (STDIO.replace("tool", "uvx") + 'args = ["p"]\n', 30),
        (STDIO.replace("tool", "npx") + 'packageName = "p"\nstartTimeout = 7\n', 7),
    ],
)
def test_a_start_has_the_skills_own_time_and_longer_than_usual_where_a_package_is_installed(
    lines: str, wait: int
) -> None:
    found = skill(lines)
    assert isinstance(found, StdioSkill | RemoteSkill)
    assert start_ms(found, usual_ms=10) == wait


@pytest.mark.parametrize("package", ['packageName = "p"', 'args = ["-y", "p"]'])
def test_a_package_runner_installs_what_its_arguments_name_as_well(package: str) -> None:
    found = skill(STDIO.replace("tool", "npx") + package + "\n")
    assert isinstance(found, StdioSkill)
    assert installer(found) == "npx"


def test_the_built_in_tools_are_those_of_the_one_list() -> None:
    listed = {tool["name"] for tool in json.loads((ROOT / "proto/perstack/v1/base_tools.json").read_text())}
    assert set(BASE_TOOLS) == listed


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (STDIO + 'requiredEnv = ["A", "B"]\nisolation = "shared"\n', "isolation", "exec and the expert's other skills"),
        (STDIO + 'requiredEnv = ["A", "B"]\nisolation = "shared"\n', "isolation", "can then read A, B;"),
        (STDIO + 'allowedDomains = ["x.example"]\nisolation = "shared"\n', "isolation", "can then reach x.example;"),
        (STDIO + 'approval = "always"\nisolation = "shared"\n', "isolation", "call its server without asking"),
        (REMOTE + 'isolation = "shared"\n', "isolation", "can then reach mcp.example;"),
        (STDIO + 'pick = ["a", "b"]\nomit = ["b"]\n', "pick", "'b' is in omit as well"),
        (STDIO + 'pick = ["a"]\napproval = ["send"]\n', "approval", "'send' is not among the tools"),
        (STDIO + 'omit = ["send"]\napproval = ["send"]\n', "approval", "'send' is not among the tools"),
        (
            '[experts.a.skills.s]\ntype = "mcpStdioSkill"\ncommand = "tool --flag"\n',
            "command",
            "put arguments into args",
        ),
        (STDIO + 'packageName = "@perstack/base@0.0.34"\n', "packageName", "is built in"),
        (REMOTE + 'requiredEnv = ["TOKEN"]\n', "requiredEnv", "TOKEN goes nowhere"),
        (REMOTE + 'headers = { Authorization = "Bearer abc" }\n', "headers.Authorization", "looks like a key"),
        (REMOTE + 'workspace = "rw"\n', "workspace", "has no files of ours"),
    ],
)
def test_what_a_skill_gives_away_or_cannot_have_is_a_warning(text: str, key: str, says: str) -> None:
    finding = only(text)
    assert finding.severity is Severity.WARNING
    assert says in finding.message
    assert finding.key == f"experts.a.skills.s.{key}"
    assert finding.line >= 3


def test_an_expert_without_exec_shares_with_its_other_skills_only() -> None:
    text = BASE + 'omit = ["exec"]\n' + STDIO + 'requiredEnv = ["A"]\nisolation = "shared"\n'
    assert only(text).message.startswith("the expert's other skills can then read A")


def test_a_shared_skill_with_nothing_to_keep_is_fine() -> None:
    assert findings(STDIO + 'isolation = "shared"\n') == ()


@pytest.mark.parametrize(
    ("lines", "key", "says"),
    [
        ('omit = ["attemptCompletion"]', "omit", "cannot be taken away"),
        ('pick = ["exec"]\nomit = ["exec"]', "pick", "is in omit as well"),
        ('isolation = "own"', "isolation", "run in the expert's own sandbox"),
        ('workspace = "ro"', "workspace", "run in the expert's own sandbox"),
        ('approval = "always"', "approval", "nobody is asked"),
    ],
)
def test_what_the_base_skill_cannot_have_is_a_warning(lines: str, key: str, says: str) -> None:
    finding = only(BASE + lines + "\n")
    assert finding.severity is Severity.WARNING
    assert says in finding.message
    assert finding.key == f'experts.a.skills."@perstack/base".{key}'


def test_a_secret_of_the_base_skill_is_no_secret_from_a_shell_and_fine_without_one() -> None:
    assert "runs with exec" in only(BASE + 'requiredEnv = ["A"]\n').message
    assert findings(BASE + 'requiredEnv = ["A"]\nomit = ["exec"]\n') == ()


def remote(endpoint: str) -> str:
    return f'[experts.a.skills.s]\ntype = "mcpHttpSkill"\nendpoint = "{endpoint}"\n'


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:8080/mcp", "http://localhost:1", "http://[::1]/"])
def test_plain_http_to_loopback_is_for_operators_who_allow_it(endpoint: str) -> None:
    refused = only(remote(endpoint))
    assert refused.severity is Severity.ERROR
    assert "egress.allow_addresses" in refused.message
    allowed = only(remote(endpoint), loopback=True)
    assert allowed.severity is Severity.WARNING
    assert "that of the sandbox which the skill runs in" in allowed.message


def test_an_origin_route_is_an_endpoint_without_a_word_of_anybody() -> None:
    assert findings(remote("http://127.0.0.1:3129/api/mcp")) == ()
    assert "must be https" in only(remote("http://127.0.0.1:31290/api/mcp")).message


@pytest.mark.parametrize("loopback", [True, False])
def test_plain_http_to_elsewhere_is_refused_whatever_the_operator_says(loopback: bool) -> None:
    finding = only(remote("http://mcp.example"), loopback=loopback)
    assert (finding.severity, "must be https" in finding.message) == (Severity.ERROR, True)


def test_an_endpoint_that_egress_refuses_is_a_warning() -> None:
    assert "is an address" in only(remote("https://10.0.0.1/mcp")).message
    assert "punycode" in only(remote("https://xn--pple-43d.com/mcp")).message


@pytest.mark.parametrize("value", ["${A-B}", "${", "Bearer ${1A}", "${A"])
def test_what_looks_like_a_secrets_name_in_a_header_and_is_none_is_an_error(value: str) -> None:
    finding = only(REMOTE + f'headers = {{ x = "{value}" }}\n')
    assert finding.severity is Severity.ERROR
    assert "write ${NAME}" in finding.message


def test_only_names_in_headers_are_asked_for_of_a_remote_skill() -> None:
    found = skill(REMOTE + 'requiredEnv = ["A", "B"]\nheaders = { x = "${B}" }\n')
    assert isinstance(found, RemoteSkill)
    assert found.required_env == ("B",)


def test_a_schema_in_a_table_is_complained_about_at_its_own_place() -> None:
    text = ASK + '[experts.a.skills.s.tools.move.inputJsonSchema.properties.cell]\ntype = "intger"\n'
    finding = only(text)
    assert finding.key == "experts.a.skills.s.tools.move.inputJsonSchema.properties.cell.type"
    assert (finding.line, finding.column) == (7, 1)


def test_the_schemas_of_a_definition_are_bounded_together() -> None:
    schema = json.dumps({"properties": {f"p{n}": {"type": "string"} for n in range(1200)}})
    tools = "".join(f"[experts.a.skills.s.tools.t{n}]\ninputJsonSchema = '{schema}'\n" for n in range(60))
    began = time.process_time()
    found = findings('[experts.a.skills.s]\ntype = "interactiveSkill"\n' + tools)
    assert "is not read: the schemas before it are too large together" in found[0].message
    assert time.process_time() - began < 20


def test_an_interactive_skill_has_a_bounded_number_of_tools() -> None:
    tools = "".join(f"[experts.a.skills.s.tools.t{n}]\ninputJsonSchema = '{{}}'\n" for n in range(129))
    assert "has 129 tools, 128 are allowed" in only('[experts.a.skills.s]\ntype = "interactiveSkill"\n' + tools).message


def test_an_interactive_skill_keeps_its_tools_in_their_order() -> None:
    text = ASK + "inputJsonSchema = '{}'\n[experts.a.skills.s.tools.ask]\ninputJsonSchema = '{}'\n"
    found = skill(text)
    assert isinstance(found, InteractiveSkill)
    assert [tool.name for tool in found.tools] == ["move", "ask"]


@pytest.mark.parametrize(
    ("blocks", "reaches"),
    [((), False), (("10.0.0.0/8",), False), (("10.0.0.0/8", "127.0.0.0/8"), True), (("::1/128",), True)],
)
def test_the_operator_allows_loopback_by_its_address(blocks: tuple[str, ...], reaches: bool) -> None:
    assert reaches_loopback(blocks) is reaches
