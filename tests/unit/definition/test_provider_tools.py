"""What an expert asks of its provider beside the model: its values, and what is said of those that are not right."""

import pytest

from perstackd.adapters.definition.parser import TomlDefinitions
from perstackd.domain.expert import Expert, Finding, Severity
from perstackd.domain.messages import ProviderSkill

HEAD = '[experts.a]\ninstruction = "Do it."\n'
ANTHROPIC = '[provider]\nproviderName = "anthropic"\n'
OPENAI = '[provider]\nproviderName = "openai"\n'


def expert(text: str) -> Expert:
    parsed = TomlDefinitions().parse(text, "perstack.toml")
    assert parsed.findings == ()
    assert parsed.definition is not None
    return parsed.definition.experts[0]


def only(text: str) -> Finding:
    """The one finding of a text."""
    parsed = TomlDefinitions().parse(text, "perstack.toml")
    assert len(parsed.findings) == 1, parsed.findings
    finding = parsed.findings[0]
    assert (parsed.definition is None) is (finding.severity is Severity.ERROR)
    return finding


def test_all_keys_become_values() -> None:
    read = expert(
        ANTHROPIC + HEAD + 'modelTier = "middle"\nproviderTools = ["webSearch", "webFetch", "webSearch"]\n'
        'providerSkills = [{ type = "builtin", skillId = "pdf" }]\n'
        '[[experts.b.providerSkills]]\ntype = "custom"\nskillId = "skill_01"\nversion = "1759178010641129"\n'
        '[experts.b]\ninstruction = "Help."\n'
        "[experts.a.providerToolOptions.webSearch]\nmaxUses = 3\n"
        'allowedDomains = ["b.example", "a.example/news"]\n'
        "[experts.a.providerToolOptions.webFetch]\nmaxContentTokens = 900\n"
    )
    assert read.model_tier == "middle"
    assert read.provider_tools == ("webSearch", "webFetch")
    assert read.provider_skills == (ProviderSkill("builtin", "pdf"),)
    assert read.provider_tool_options == (
        '{"webFetch":{"maxContentTokens":900},"webSearch":{"allowedDomains":["b.example","a.example/news"],"maxUses":3}}'
    )


def test_a_skill_of_an_array_of_tables_is_read_as_well() -> None:
    text = ANTHROPIC + HEAD + '[[experts.a.providerSkills]]\ntype = "custom"\nskillId = "skill_01"\nversion = "17"\n'
    assert expert(text).provider_skills == (ProviderSkill("custom", "skill_01", "17"),)


def test_an_expert_that_asks_for_nothing_has_nothing() -> None:
    read = expert(HEAD)
    assert (read.model_tier, read.provider_tools, read.provider_tool_options, read.provider_skills) == ("", (), "", ())


@pytest.mark.parametrize(
    ("text", "key", "column", "says"),
    [
        ('modelTier = "huge"\n', "modelTier", 1, "not one of low, middle, high"),
        ("modelTier = 1\n", "modelTier", 1, "must be a string, not a number"),
        ('providerTools = "webSearch"\n', "providerTools", 1, "must be an array of strings, not a string"),
        ("providerTools = [1]\n", "providerTools[0]", 18, "must be a string, not a number"),
        ("providerSkills = 1\n", "providerSkills", 1, "must be an array of tables, not a number"),
        ('providerSkills = ["pdf"]\n', "providerSkills[0]", 19, "must be a table, not a string"),
        ('providerSkills = [{ skillId = "pdf" }]\n', "providerSkills[0]", 19, "has no type: builtin or custom"),
        ('providerSkills = [{ type = "builtin" }]\n', "providerSkills[0]", 19, "needs a skillId: docx, pdf"),
        (
            'providerSkills = [{ type = "builtin", skillId = "pfd" }]\n',
            "providerSkills[0].skillId",
            39,
            "'pfd' is not one of docx, pdf, pptx, xlsx; did you mean 'pdf'?",
        ),
        (
            'providerSkills = [{ type = "mine", skillId = "x" }]\n',
            "providerSkills[0].type",
            21,
            "not one of builtin, custom",
        ),
        (
            'providerSkills = [{ type = "custom", skillId = "a b" }]\n',
            "providerSkills[0].skillId",
            38,
            "is not the id of a skill",
        ),
        ("providerToolOptions = 1\n", "providerToolOptions", 1, "must be a table, not a number"),
        (
            "providerToolOptions = { webSearch = { maxUses = 0 } }\n",
            "providerToolOptions.webSearch.maxUses",
            39,
            "must be 1 to",
        ),
        (
            'providerToolOptions = { webSearch = { allowedDomains = ["https://a.example"] } }\n',
            "providerToolOptions.webSearch.allowedDomains[0]",
            57,
            "is not a domain; write it as example.com",
        ),
        (
            'providerToolOptions = { webSearch = { allowedDomains = ["a.example"], blockedDomains = ["b.ex"] } }\n',
            "providerToolOptions.webSearch.blockedDomains",
            71,
            "exclude each other",
        ),
    ],
)
def test_what_cannot_be_meant_is_an_error_with_its_place(text: str, key: str, column: int, says: str) -> None:
    finding = only(HEAD + text)
    assert finding.severity is Severity.ERROR
    assert says in finding.message
    assert (finding.key, finding.line, finding.column) == (f"experts.a.{key}", 3, column)


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        (HEAD + 'providerTools = ["webserch"]\n', "providerTools[0]", "did you mean 'webSearch'?"),
        (
            ANTHROPIC + HEAD + 'providerTools = ["webSearch", "fileSearch"]\n',
            "providerTools[1]",
            "'fileSearch' is no tool of the provider 'anthropic' and is left out: it has codeExecution, webFetch",
        ),
        (
            ANTHROPIC + HEAD + 'providerTools = ["webserch"]\n',
            "providerTools[0]",
            "did you mean 'webSearch'?",
        ),
        (OPENAI + HEAD + 'providerTools = ["imageGeneration"]\n', "providerTools[0]", "no way into the workspace"),
        (OPENAI + HEAD + 'providerTools = ["fileSearch"]\n', "providerTools[0]", "fileSearch.vectorStoreIds"),
        (
            HEAD.replace("[experts.a]", '[experts.a]\nprovider = { providerName = "deepseek" }')
            + 'providerTools = ["webSearch"]\n',
            "providerTools[0]",
            "it has none that can be used here",
        ),
        (
            OPENAI + HEAD + 'providerTools = ["webSearch"]\nproviderToolOptions = { webSearch = { maxUses = 3 } }\n',
            "providerToolOptions.webSearch.maxUses",
            "does not take 'maxUses', which is left out: it takes allowedDomains",
        ),
        (
            ANTHROPIC + HEAD + "providerToolOptions = { webSearch = { maxUses = 3 } }\n",
            "providerToolOptions.webSearch",
            "have no effect: providerTools does not name it",
        ),
        (
            OPENAI + HEAD + 'providerSkills = [{ type = "builtin", skillId = "pdf" }]\n',
            "providerSkills",
            "the provider 'openai' has no skills of its own",
        ),
        (
            HEAD + 'providerSkills = [{ type = "custom", name = "mine", definition = "{}" }]\n',
            "providerSkills[0]",
            "the custom skill 'mine' is left out: a provider takes it by its id",
        ),
        (HEAD + "providerToolOptions = { googleMaps = { x = 1 } }\n", "providerToolOptions.googleMaps", "unknown key"),
        (
            HEAD + 'providerSkills = [{ type = "builtin", skillId = "pdf", skilId = "x" }]\n',
            "providerSkills[0].skilId",
            "did you mean 'skillId'?",
        ),
        (HEAD + 'model = "claude-sonnet-5-5"\nmodelTier = "low"\n', "modelTier", "names a model as well"),
    ],
)
def test_what_a_provider_will_not_do_is_one_warning(text: str, key: str, says: str) -> None:
    finding = only(text)
    assert finding.severity is Severity.WARNING
    assert says in finding.message
    assert finding.key == f"experts.a.{key}"
    assert finding.line >= 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("providerTools = [" + ", ".join(f'"t{n}"' for n in range(33)) + "]\n", "has 33 entries, 32 are allowed"),
        ("providerSkills = [" + '{ type = "builtin", skillId = "pdf" }, ' * 9 + "]\n", "has 9 entries, 8 are allowed"),
    ],
)
def test_a_hostile_number_of_entries_is_one_error(text: str, says: str) -> None:
    assert says in only(HEAD + text).message


def test_a_provider_that_this_daemon_does_not_have_is_one_warning_at_its_place() -> None:
    text = ANTHROPIC + HEAD + '[experts.a.provider]\nproviderName = "google"\n' + HEAD.replace("a]", "b]")
    told = TomlDefinitions(provider_problem=lambda name: "" if name == "anthropic" else f"{name} is not there yet")
    (finding,) = told.parse(text + 'providerTools = ["webSearch"]\n', "perstack.toml").findings
    assert (finding.severity, finding.message) == (Severity.WARNING, "google is not there yet")
    assert (finding.line, finding.key) == (6, "experts.a.provider.providerName")
