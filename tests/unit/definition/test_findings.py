"""What is said about a perstack.toml that is not right, and where."""

import pytest

from perstackd.domain.expert import Severity
from tests.unit.definition.parsed import HEAD, only, parse


@pytest.mark.parametrize(
    ("text", "key", "place", "says"),
    [
        ("x = \n", "", (1, 5), "not TOML"),
        ("a = 1\na = 2\n", "a", (2, 1), "a is there twice, first in line 1"),
        (HEAD + "[experts.b]\n" + HEAD, "experts.a", (4, 10), "experts.a is there twice, first in line 1"),
        (HEAD + 'x.y = 1\nx.y = """\n"""\n', "experts.a.x.y", (4, 3), "is there twice, first in line 3"),
        ('a = { "b" = 1, b = 2 }\n', "a.b", (1, 16), "a.b is there twice"),
        ("a = 1\na = 2\nb = \n", "a", (2, 1), "a is there twice"),
        ("b = \na = 1\na = 2\n", "", (1, 5), "not TOML"),
        ('"\\UFFFFFFFF" = 1\n', "", (1, 12), "not TOML"),
        ("a = [1,\n", "", (2, 1), "not TOML"),
        ("maxSteps = 1\n", "experts", (0, 0), "no experts"),
        ("experts = 1\n", "experts", (1, 1), "must be a table, not a number"),
        ("".join(f"[experts.e{n}]\n" for n in range(10_001)), "experts", (1, 2), "10,001 experts, 10,000 are allowed"),
        ('[experts.a]\ndescription = "x"\n', "experts.a", (1, 10), "no instruction"),
        ('[experts.a]\ninstruction = " "\n', "experts.a.instruction", (2, 1), "is empty"),
        ("[experts.a]\ninstruction = 5\n", "experts.a.instruction", (2, 1), "must be a string, not a number"),
        ('[experts."Bad Key"]\ninstruction = "x"\n', 'experts."Bad Key"', (1, 10), "not an expert's key"),
        ('[experts."@a/b/c"]\ninstruction = "x"\n', 'experts."@a/b/c"', (1, 10), "not an expert's key"),
        (f'[experts."{"x" * 512}"]\ninstruction = "x"\n', f"experts.{'x' * 512}", (1, 10), "not an expert's key"),
        (HEAD + 'version = "1.0"\n', "experts.a.version", (3, 1), "not a version"),
        (HEAD + 'minRuntimeVersion = "v9.1"\n', "experts.a.minRuntimeVersion", (3, 1), "needs the runtime v9.1"),
        (HEAD + 'description = """' + "x" * 2049 + '"""\n', "experts.a.description", (3, 1), "2,049 characters, 2,048"),
        (
            '[experts.a]\ninstruction = "' + "x" * 20481 + '"\n',
            "experts.a.instruction",
            (2, 1),
            "20,481 characters, 20,480",
        ),
        (HEAD + f"delegates = {['d'] * 256}\n", "experts.a.delegates", (3, 1), "256 entries, 255"),
        (HEAD + 'delegates = [\n  "b c"]\n', "experts.a.delegates[0]", (4, 3), "not an expert's key"),
        (
            HEAD + 'delegates = ["b@1.2.3.4"]\n',
            "experts.a.delegates[0]",
            (3, 14),
            "asks for '1.2.3.4', which is no version",
        ),
        (HEAD + 'delegates = ["b@"]\n', "experts.a.delegates[0]", (3, 14), "asks for '', which is no version"),
        (HEAD + f"tags = {[str(n) for n in range(9)]}\n", "experts.a.tags", (3, 1), "9 entries, 8"),
        (HEAD + 'delegates = ["a"]\n', "experts.a.delegates", (3, 1), "a -> a"),
        (HEAD + "maxSteps = 0\n", "experts.a.maxSteps", (3, 1), "must be 1 to"),
        (HEAD + "maxSteps = true\n", "experts.a.maxSteps", (3, 1), "must be a whole number, not true or false"),
        ("maxRetries = -1\n" + HEAD, "maxRetries", (1, 1), "must be 0 to"),
        ("timeout = 1.5\n" + HEAD, "timeout", (1, 1), "must be a whole number, not 1.5"),
        ('envPath = ".env"\n' + HEAD, "envPath", (1, 1), "must be an array of strings, not a string"),
        ('envPath = [".env", 5]\n' + HEAD, "envPath[1]", (1, 20), "must be a string, not a number"),
        ('runtime = "No Such"\n' + HEAD, "runtime", (1, 1), "not the name of a sandbox template"),
        ('reasoningBudget = "hihg"\n' + HEAD, "reasoningBudget", (1, 1), "did you mean 'high'?"),
        ("reasoningBudget = -5\n" + HEAD, "reasoningBudget", (1, 1), "must be 0 or more"),
        ("reasoningBudget = false\n" + HEAD, "reasoningBudget", (1, 1), "a number of tokens, not true or false"),
        ('model = "a\\u0000"\n' + HEAD, "model", (1, 1), "NUL"),
        ("model = 1979-05-27\n" + HEAD, "model", (1, 1), "a date or time"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(text: str, key: str, place: tuple[int, int], says: str) -> None:
    finding = only(text)
    assert finding.severity is Severity.ERROR
    assert says in finding.message
    assert (finding.line, finding.column) == place
    assert finding.key == key


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com", "must be https; plain http is for loopback only"),
        ("http://127.0.0.1.example.com", "must be https"),
        ("http://2130706433", "must be https"),
        ("ftp://example.com", "not an https URL"),
        ("example.com", "not an https URL"),
        ("https://user:pw@example.com", "user name or password"),
        ("https://example.com/?key=1", "has a query"),
        ("https://example.com/#x", "has a fragment"),
        ("https://exa mple.com", "not an https URL"),
        ("https://[::1", "not a URL"),
        ("https://example.com:99999", "not a URL"),
    ],
)
def test_a_base_url_that_may_not_be_called_is_an_error(url: str, says: str) -> None:
    finding = only(f'[provider.setting]\nbaseUrl = "{url}"\n{HEAD}')
    assert finding.severity is Severity.ERROR
    assert says in finding.message
    assert (finding.line, finding.key) == (2, "provider.setting.baseUrl")


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('"x y" = "1"', "not the name of a header"),
        ('Host = "evil"', "cannot be set"),
        ('x = "a\\r\\nevil: 1"', "control characters"),
        ("x = 1", "must be a string"),
    ],
)
def test_a_header_that_could_break_the_request_is_an_error(header: str, says: str) -> None:
    finding = only(f"[provider.setting.headers]\n{header}\n{HEAD}")
    assert finding.severity is Severity.ERROR
    assert says in finding.message


STDIO = '[experts.a.skills.s]\ntype = "mcpStdioSkill"\ncommand = "tool"\n'
REMOTE = '[experts.a.skills.s]\ntype = "mcpHttpSkill"\n'
ASK = '[experts.a.skills.s]\ntype = "interactiveSkill"\n[experts.a.skills.s.tools.move]\n'


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ('[experts.a.skills.s]\ntype = "mcpStdoSkill"\n', "type", "did you mean 'mcpStdioSkill'?"),
        ('[experts.a.skills.s]\ncommand = "npx"\n', "type", "the skill has no type"),
        ('[experts.a.skills.s]\ntype = "mcpStdioSkill"\npackageName = "p"\n', "command", "needs a command"),
        (STDIO + 'packageName = "p"\nargs = ["p"]\n', "packageName", "exclude each other"),
        (STDIO + 'requiredEnv = ["A-B"]\n', "requiredEnv[0]", "not the name of an environment variable"),
        (STDIO + 'allowedDomains = ["xn--pple-43d.com"]\n', "allowedDomains[0]", "punycode"),
        (STDIO + 'allowedDomains = ["*.com"]\n', "allowedDomains[0]", "top-level"),
        (STDIO + 'allowedDomains = ["127.0.0.1"]\n', "allowedDomains[0]", "address"),
        (STDIO + 'allowedDomains = ["https://x.example"]\n', "allowedDomains[0]", "not a host name"),
        (STDIO + 'isolation = "mine"\n', "isolation", "not one of own, shared"),
        (STDIO + 'isolation = "onw"\n', "isolation", "did you mean 'own'?"),
        (STDIO + 'isolation = "own"\nworkspace = "wr"\n', "workspace", "not one of none, ro, rw"),
        (STDIO + 'approval = "sometimes"\n', "approval", '"never", "always" or an array'),
        (STDIO + "toolTimeout = 0\n", "toolTimeout", "must be 1 to"),
        (STDIO + "startTimeout = 0\n", "startTimeout", "must be 1 to"),
        (STDIO + 'lazyInit = "yes"\n', "lazyInit", "must be true or false, not a string"),
        (REMOTE, "endpoint", "is empty"),
        (REMOTE + 'endpoint = "http://localhost:1"\n', "endpoint", "must be https"),
        ('[experts.a.skills.s]\ntype = "interactiveSkill"\n', "tools", "at least one"),
        (ASK + 'description = "x"\n', "tools.move.inputJsonSchema", "is missing"),
        (ASK + "inputJsonSchema = '[1]'\n", "tools.move.inputJsonSchema", "must be a JSON Schema of an object"),
        (ASK + "inputJsonSchema = '{'\n", "tools.move.inputJsonSchema", "is not JSON"),
        (ASK + 'inputJsonSchema = \'{"type": "string"}\'\n', "tools.move.inputJsonSchema", "must describe an object"),
        (ASK + "inputJsonSchema = { default = 1979-05-27 }\n", "tools.move.inputJsonSchema", "has a date"),
    ],
)
def test_a_skill_that_cannot_work_is_an_error(text: str, key: str, says: str) -> None:
    finding = only(HEAD + text)
    assert finding.severity is Severity.ERROR
    assert says in finding.message
    assert finding.key == f"experts.a.skills.s.{key}"
    assert finding.line >= 3


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("max_steps = 3\n" + HEAD, "max_steps", "did you mean 'maxSteps'?"),
        ('perstackApiBaseUrl = "https://x"\n' + HEAD, "perstackApiBaseUrl", "original's registry client"),
        ('perstackBaseSkillCommand = ["x"]\n' + HEAD, "perstackBaseSkillCommand", "base tools are built in"),
        ('[provider]\nenvPath = [".env"]\n' + HEAD, "provider.envPath", "it belongs at the top level"),
        ('instruction = "x"\n' + HEAD, "instruction", "it belongs under [experts.KEY]"),
        (HEAD + "xyzzy = 1\n", "experts.a.xyzzy", "unknown key 'xyzzy' is ignored"),
        (HEAD + STDIO + 'alowedDomains = ["x.example"]\n', "experts.a.skills.s.alowedDomains", "'allowedDomains'"),
        ('runtime = "docker"\n' + HEAD, "runtime", "default template is used"),
        ('model = "claude-3-5-haiku-20241022"\n' + HEAD, "model", "is retired"),
        (HEAD + 'delegates = ["@acme/coach"]\n', "experts.a.delegates[0]", "no registry is configured"),
        (HEAD + STDIO + 'workspace = "rw"\n', "experts.a.skills.s.workspace", "shares the expert's sandbox"),
        (
            HEAD + '[experts.a.skills."@perstack/base"]\npick = ["think"]\n',
            'experts.a.skills."@perstack/base".pick',
            "'think' is not a base tool",
        ),
        (
            HEAD + '[experts.a.skills."@perstack/base"]\nrequiredEnv = ["GH_TOKEN"]\n',
            'experts.a.skills."@perstack/base".requiredEnv',
            "whatever this expert runs with exec",
        ),
    ],
)
def test_what_is_passed_over_is_a_warning_at_its_place(text: str, key: str, says: str) -> None:
    finding = only(text)
    assert finding.severity is Severity.WARNING
    assert says in finding.message
    assert finding.key == key
    rest = text.split("\n")[finding.line - 1][finding.column - 1 :]
    assert rest.startswith('"' if key.endswith("]") else key.rpartition(".")[2].strip('"'))


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    findings = parse('maxSteps = 0\n[experts.B]\ninstruction = ""\nfoo = 1\n[experts.c]\nversion = "x"\n').findings
    assert [(finding.line, finding.severity.value) for finding in findings] == [
        (1, "error"),
        (2, "error"),
        (3, "error"),
        (4, "warning"),
        (5, "error"),
        (6, "error"),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_no_error() -> None:
    text = "\ufeff" + HEAD.replace("\n", "\r\n") + "maxSteps = 0\r\n"
    assert (only(text).line, only(text).column) == (3, 1)


def test_the_number_of_findings_is_bounded() -> None:
    findings = parse("".join(f"key{n} = 1\n" for n in range(5000)) + HEAD).findings
    assert len(findings) == 201
    assert findings[-1].message == "there are 4800 more problems"


@pytest.mark.parametrize(
    "text",
    [
        "x" * (4 * 2**20 + 1),
        "a = " + "[" * 5000 + "]" * 5000,
        "a = " + "{a=" * 5000,
        "[" + "a." * 100_000 + "a]",
        "a." * 100_000 + "a = 1",
        "a = {" + "a." * 100_000 + "a = 1}",
        "[" + '"x y" . ' * 50_000 + "a]",
        "a = " + "1" * 5000,
        'a = """' + '"\\' * 100_000,
    ],
    ids=["long", "arrays", "inline", "header", "dotted", "inline-dotted", "quoted", "digits", "unterminated"],
)
def test_a_file_made_to_exhaust_the_parser_is_an_error(text: str) -> None:
    assert parse(text).definition is None
