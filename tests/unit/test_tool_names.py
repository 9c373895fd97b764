"""The names that a model sees."""

import re
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from perstackd.domain.tool_names import Origin, name_tools, without_version

LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
HASHED = re.compile(r".*_[0-9a-f]{6}")


def names(*, base: str = "", delegates: str = "", skills: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """Shown name by what the tool is at its owner."""
    tools = name_tools(base.split(), delegates.split(), skills)
    return {f"{tool.source}:{tool.tool}".strip(":"): tool.shown for tool in tools}


def test_names_that_fit_stay_as_they_are() -> None:
    assert names(base="exec todo", delegates="pro-trainer", skills=(("web", "fetch_page"),)) == {
        "exec": "exec",
        "todo": "todo",
        "pro-trainer": "pro-trainer",
        "web:fetch_page": "fetch_page",
    }


def test_a_delegate_is_named_by_its_last_segment_without_version() -> None:
    assert names(delegates="@acme/pro-trainer@^1.0.0")["@acme/pro-trainer@^1.0.0"] == "pro-trainer"
    assert without_version("@acme/coach") == "@acme/coach"


def test_scopes_are_kept_when_delegates_clash() -> None:
    found = names(delegates="@a/coach @b/coach coach")
    assert found == {"@a/coach": "a_coach", "@b/coach": "b_coach", "coach": "coach"}


def test_a_delegate_yields_to_a_base_tool() -> None:
    tools = {(tool.origin, tool.source): tool.shown for tool in name_tools(["exec", "todo"], ["exec", "@a/todo"], [])}
    assert tools[Origin.DELEGATE, "@a/todo"] == "a_todo"
    assert re.fullmatch(r"exec_[0-9a-f]{6}", tools[Origin.DELEGATE, "exec"])


def test_a_skills_tool_yields_to_base_tools_and_delegates() -> None:
    found = names(base="exec", delegates="coach", skills=(("shell", "exec"), ("team", "coach")))
    assert found["exec"] == "exec"
    assert found["coach"] == "coach"
    assert re.fullmatch(r"exec_[0-9a-f]{6}", found["shell:exec"])
    assert re.fullmatch(r"coach_[0-9a-f]{6}", found["team:coach"])


def test_two_skills_with_one_name_both_yield() -> None:
    found = names(skills=(("a", "search"), ("b", "search")))
    assert all(HASHED.fullmatch(name) for name in found.values())
    assert len(set(found.values())) == 2


def test_foreign_characters_long_names_and_odd_beginnings_are_mended() -> None:
    found = names(skills=(("a", "files.read"), ("a", "9lives"), ("a", "x" * 65), ("a", "日本")))
    assert found["a:files.read"] == "files_read"
    assert found["a:9lives"] == "t_9lives"
    assert len(found["a:" + "x" * 65]) == 64
    assert HASHED.fullmatch(found["a:" + "x" * 65])
    assert found["a:日本"] == "t___"


def test_names_that_become_one_by_mending_are_told_apart() -> None:
    found = names(skills=(("a", "read.file"), ("a", "read_file")))
    assert len(set(found.values())) == 2


def test_the_order_of_the_arguments_does_not_matter() -> None:
    skills = (("a", "search"), ("b", "search"), ("c", "exec"))
    results = {name_tools(["todo", "exec"], ["@x/b", "@y/b"], order) for order in permutations(skills)}
    assert results == {name_tools(["exec", "todo"], ["@y/b", "@x/b"], skills)}


_ANY = st.text(max_size=80)


@given(st.sets(st.sampled_from(["exec", "todo", "readTextFile"])), st.sets(_ANY), st.sets(st.tuples(_ANY, _ANY)))
def test_every_tool_has_a_legal_name_of_its_own(
    base: set[str], delegates: set[str], skills: set[tuple[str, str]]
) -> None:
    tools = name_tools(sorted(base), sorted(delegates), sorted(skills))
    assert len(tools) == len(base) + len(delegates) + len(skills)
    assert len({tool.shown for tool in tools}) == len(tools)
    assert all(LEGAL.fullmatch(tool.shown) for tool in tools)
    assert [tool.shown for tool in tools] == sorted(tool.shown for tool in tools)
    assert {tool.shown for tool in tools if tool.origin is Origin.BASE} == base
