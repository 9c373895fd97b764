"""Who is needed for a job, and what stops it before it starts."""

import pytest

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Definition, Expert, RemoteSkill, StdioSkill
from perstackd.domain.expert_digest import expert_digest
from perstackd.domain.resolution import cycles, delegate_of, resolve, too_deep


def definition(**delegates: str) -> Definition:
    """Experts by key, each with its delegates separated by blanks."""
    experts = tuple(Expert(key, "Do it.", delegates=tuple(names.split())) for key, names in delegates.items())
    return Definition("team/perstack.toml", experts)


def failure(file: Definition, key: str) -> PerstackError:
    with pytest.raises(PerstackError) as caught:
        resolve(file, key)
    return caught.value


def test_the_asked_expert_comes_first_then_all_it_reaches_once_in_a_stable_order() -> None:
    file = definition(e="", d="e", b="d e", a="c b", c="e", unused="")
    assert [expert.key for expert in resolve(file, "a")] == ["a", "c", "e", "b", "d"]


def test_an_expert_without_delegates_is_all_that_is_needed() -> None:
    assert [expert.key for expert in resolve(definition(a="", b="a"), "a")] == ["a"]


def test_an_unknown_expert_is_told_with_those_that_exist_and_the_nearest() -> None:
    error = failure(definition(**{"pro-trainer": "", "coach": ""}), "pro-trainr")
    assert (error.kind, error.reason) == (Kind.NOT_FOUND, "expert_not_found")
    assert "coach, pro-trainer" in error.message
    assert "Did you mean 'pro-trainer'?" in error.message
    assert "No registry is configured" in error.message
    assert "team/perstack.toml" in error.message


def test_a_missing_delegate_names_both_sides() -> None:
    error = failure(definition(a="b", b="gone"), "a")
    assert (error.kind, error.reason) == (Kind.INVALID, "delegate_missing")
    assert "'b' delegates to 'gone'" in error.message


def test_a_missing_delegate_of_somebody_else_does_not_matter() -> None:
    assert [expert.key for expert in resolve(definition(a="", b="gone"), "a")] == ["a"]


@pytest.mark.parametrize(
    ("file", "path"),
    [
        (definition(a="a"), "a -> a"),
        (definition(a="b", b="a"), "a -> b -> a"),
        (definition(a="b", b="c", c="d", d="b"), "b -> c -> d -> b"),
    ],
)
def test_a_circle_is_shown_as_a_path(file: Definition, path: str) -> None:
    error = failure(file, "a")
    assert (error.kind, error.reason) == (Kind.INVALID, "delegation_cycle")
    assert path in error.message
    assert error.fields["path"] == path


def test_two_ways_to_one_expert_are_no_circle() -> None:
    file = definition(a="b c", b="d", c="d", d="")
    assert cycles(file) == ()
    assert [expert.key for expert in resolve(file, "a")] == ["a", "b", "d", "c"]


def chain(length: int) -> Definition:
    return definition(**{f"e{n}": f"e{n + 1}" for n in range(length)}, **{f"e{length}": ""})


def test_eight_levels_are_allowed_and_nine_are_not() -> None:
    assert len(resolve(chain(8), "e0")) == 9
    error = failure(chain(9), "e0")
    assert (error.kind, error.reason) == (Kind.INVALID, "delegation_too_deep")
    assert error.fields["path"].count("->") == 9


def test_the_longest_way_counts_for_the_depth() -> None:
    file = definition(**{f"e{n}": f"e{n + 1} e9" for n in range(9)}, e9="")
    assert failure(file, "e0").reason == "delegation_too_deep"


def test_a_thousand_experts_in_a_row_do_not_exhaust_the_stack() -> None:
    assert failure(chain(5000), "e0").reason == "delegation_too_deep"
    loop = definition(**{f"e{n}": f"e{(n + 1) % 5000}" for n in range(5000)})
    assert failure(loop, "e0").reason == "delegation_cycle"


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("coach", True),
        ("coach@latest", True),
        ("coach@1.2.3", True),
        ("coach@1.2.4", False),
        ("coach@^1.0.0", True),
        ("coach@^1.3.0", False),
        ("coach@^2.0.0", False),
        ("coach@~1.2.0", True),
        ("coach@~1.1.0", False),
        ("coach@>=1.2.0 <2", True),
        ("coach@1.x || 3", True),
        ("coach@beta", False),
        ("@coach", False),
    ],
)
def test_a_reference_may_ask_for_a_version(reference: str, found: bool) -> None:
    file = Definition("perstack.toml", (Expert("coach", "Do it.", version="1.2.3"),))
    assert (delegate_of(file, reference) is not None) is found


def test_a_caret_on_a_version_below_one_keeps_the_first_number_that_is_not_zero() -> None:
    file = Definition("perstack.toml", (Expert("@me/coach", "Do it.", version="0.2.9"),))
    assert delegate_of(file, "@me/coach@^0.2.1") is not None
    assert delegate_of(file, "@me/coach@^0.1.0") is None


def test_a_delegate_of_another_version_says_which_version_there_is() -> None:
    error = failure(definition(a="b@2.0.0", b=""), "a")
    assert error.reason == "delegate_missing"
    assert "the file's is version 1.0.0" in error.message


def test_chains_that_no_job_can_follow_are_known_from_their_first_expert() -> None:
    assert too_deep(chain(8)) == ()
    assert too_deep(chain(9)) == (tuple(f"e{n}" for n in range(10)),)
    assert too_deep(chain(5000)) == (tuple(f"e{n}" for n in range(10)),)
    assert too_deep(definition(a="b c", b="c", c="gone")) == ()


def test_deep_chains_are_found_among_many_delegates_in_time() -> None:
    wide = definition(**{f"e{n}": " ".join(f"e{m}" for m in range(n + 1, min(n + 200, 600))) for n in range(600)})
    assert too_deep(wide)[0][:2] == ("e0", "e1")


def test_equal_experts_have_equal_digests_and_others_have_others() -> None:
    one = Expert("a", "Do it.", skills=(StdioSkill("s", "tool", args=("x",)),))
    same = Expert(key="a", instruction="Do it.", skills=(StdioSkill(name="s", command="tool", args=("x",)),), tags=())
    assert expert_digest(one) == expert_digest(same)
    others = [
        Expert("a", "Do it!", skills=one.skills),
        Expert("a", "Do it."),
        Expert("a", "Do it.", skills=(StdioSkill("s", "tool", args=("x", "x")),)),
        Expert("a", "Do it.", skills=(RemoteSkill("s", "http", "tool"),)),
    ]
    assert len({expert_digest(expert) for expert in (one, *others)}) == 5


def test_a_digest_does_not_change_with_what_later_versions_add() -> None:
    """Written down once: whoever pins a digest pins it for good."""
    expected = "sha256:4cc15561f25daef2dddc585fd0c0d7ec46b611be5e8190fa8a9aab1b5a76fe4d"
    assert expert_digest(Expert("a", "Do it.", description="Does", skills=(StdioSkill("s", "tool"),))) == expected
