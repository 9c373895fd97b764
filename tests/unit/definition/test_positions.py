"""Every key of a text is found where it stands."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perstackd.adapters.definition.positions import Path, Positions

TRICKY = '''# [not.a.table]
title = "a # b" # comment
"quoted key" = 'x = 1'
a.b . c = 1_000
when = 1979-05-27 07:32:00
text = """
[looks.like]
a = "table" \\"""
"""
raw = \'\'\'
'' # [x]
y = 1\'\'\'
list = [ 1, [2, 3], # two ] lists
  "]", { x = 1, "y.z" = [ { deep = true } ] },
]
empty = []
point = { x = 1, y.z = { w = 2 } }
[experts."@me/coach"]
instruction = """He said: "x = 1"."""
[experts."@me/coach".skills."@perstack/base"]
pick = [
  "exec",
  "todo", ]
[[items]]
name = 1
[items.sub]
deep = 1
[[items]]
name = 2
[items.sub]
deep = 2
[ "sp\\u0061ced" . out ]
last=1'''


def paths(values: Any, at: Path = ()) -> list[Path]:
    """All paths of parsed values, without the elements of an array of tables, which have headers and no value."""
    found: list[Path] = []
    if isinstance(values, dict):
        for key, value in values.items():
            found += [(*at, key), *paths(value, (*at, key))]
    elif isinstance(values, list):
        for index, value in enumerate(values):
            found += paths(value, (*at, index))
    return found


def test_every_key_of_a_tricky_text_is_at_its_place() -> None:
    positions = Positions(TRICKY)
    lines = TRICKY.split("\n")
    for path in paths(tomllib.loads(TRICKY)):
        line, column = positions.place(path)
        rest = lines[line - 1][column - 1 :].replace("\\u0061", "a")
        assert rest.lstrip("\"'").startswith(str(path[-1])), path


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("title",), (2, 1)),
        (("a", "b", "c"), (4, 7)),
        (("list", 1, 1), (13, 17)),
        (("list", 3, "y.z", 0, "deep"), (14, 29)),
        (("experts", "@me/coach", "skills", "@perstack/base", "pick", 1), (23, 3)),
        (("items", 0, "name"), (25, 1)),
        (("items", 1, "sub", "deep"), (31, 1)),
    ],
)
def test_places_are_lines_and_columns_from_one(path: Path, place: tuple[int, int]) -> None:
    assert Positions(TRICKY).place(path) == place


def test_what_is_not_written_has_the_place_of_its_table() -> None:
    positions = Positions(TRICKY)
    assert positions.place(("experts", "@me/coach", "version")) == positions.place(("experts", "@me/coach"))
    assert positions.place(("nowhere",)) == (0, 0)


_KEY = st.text("ab-_.\"' \\é", min_size=1, max_size=6)
_VALUE = st.one_of(st.integers(0, 99), st.text("x=[]{}#\"'\\\n,", max_size=8), st.booleans())


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def written(value: int | str | bool) -> str:
    return quoted(value) if isinstance(value, str) else str(value).lower()


@given(st.dictionaries(_KEY, st.dictionaries(_KEY, st.lists(_VALUE, max_size=3), max_size=3), max_size=4))
def test_any_text_that_the_parser_takes_is_understood(tables: dict[str, dict[str, list[int | str | bool]]]) -> None:
    text = "".join(
        f"[{quoted(name)}]\n" + "".join(f"{quoted(k)} = [{', '.join(map(written, v))}]\n" for k, v in table.items())
        for name, table in tables.items()
    )
    assert tomllib.loads(text) == tables
    positions = Positions(text)
    line = 0
    for name, table in tables.items():
        line += 1
        assert positions.place((name,)) == (line, 2)
        for key in table:
            line += 1
            assert positions.place((name, key)) == (line, 1)


def test_elements_of_arrays_are_found_when_they_are_asked_for() -> None:
    positions = Positions('[a]\nb = ["x", "y"] # two\nc = [\n  "z",\n  """w""" ]\nd = 1\n')
    assert positions.place(("a", "b", 1)) == (2, 11)
    assert positions.place(("a", "c", 0)) == (4, 3)
    assert positions.place(("a", "c", 1)) == (5, 3)
    assert positions.place(("a", "b", 0)) == (2, 6)
    assert positions.place(("a", "b", 7)) == (2, 1)
    assert positions.place(("a", "d")) == (6, 1)


@pytest.mark.parametrize(
    ("text", "path", "offsets"),
    [
        ("a = 1\na = 2\n", ("a",), (0, 6)),
        ("[a]\n[b]\n[a]\n", ("a",), (1, 9)),
        ("a.b = 1\na.c = 1\na.b = [1]\n", ("a", "b"), (2, 18)),
        ("[a]\nb = 1\n[a.b]\n", None, ()),  # tomllib's own words are as good
        ("[[a]]\nb = 1\n[[a]]\nb = 1\n[a.c]\n[[a]]\n[a.c]\n", None, ()),
        ("[a.b]\n[a]\n[a.c]\n", None, ()),
    ],
)
def test_what_is_there_twice_is_known(text: str, path: "Path | None", offsets: tuple[int, ...]) -> None:
    repeated = Positions(text).repeated
    assert repeated == (None if path is None else (path, *offsets))
