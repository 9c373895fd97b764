import json

import pytest

from perstackctl.terminal import clean, escaped_json, line, width

ATTACKS = {
    "colour": ("a\x1b[31mred\x1b[0m", "ared"),
    "cursor": ("a\x1b[2J\x1b[1;1Hb", "ab"),
    "title": ("a\x1b]0;owned\x07b", "ab"),
    "clipboard": ("a\x1b]52;c;cm0gLXJmIC8=\x1b\\b", "ab"),
    "link": ("\x1b]8;;http://x.example\x1b\\text\x1b]8;;\x1b\\", "text"),
    "device control": ("a\x1bP+q544e\x1b\\b", "ab"),
    "eight-bit control": ("a\x9b31mred\x9d0;t\x07b", "aredb"),
    "private mode": ("\x1b[?1049ha", "a"),
    "charset": ("\x1b(0qqq", "qqq"),
    "reset": ("a\x1bcb", "ab"),
    "overwritten line": ("rm -rf /\rls       ", "rm -rf /\nls       "),
    "backspaces": ("evil\b\b\b\bgood", "evilgood"),
    "bell and null": ("a\x07\x00b", "ab"),
    "bidirectional override": ("a\u202eb\u2066c", "abc"),
    "invisible tags": ("a\U000e0041b", "ab"),
    "unterminated": ("a\x1b]0;title that never ends", "a]0;title that never ends"),
    "escape inside an escape": ("\x1b\x1b[31m[31mx", "[31mx"),
    "lone surrogate": ("a\ud800b", "ab"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_acts_on_a_terminal_is_removed(name: str) -> None:
    hostile, harmless = ATTACKS[name]
    assert clean(hostile) == harmless


def test_no_string_of_control_characters_survives_cleaning() -> None:
    everything = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    left = clean(everything)
    assert not {char for char in left if ord(char) < 32 or 0x7F <= ord(char) <= 0x9F} - {"\n", "\t"}


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    text = "naïve 日本語 עברית 👩‍👩‍👧 tabs\tand\nlines"
    assert clean(text) == text


def test_a_line_is_one_line_and_says_that_it_was_cut() -> None:
    assert line("a\n b\t\tc") == "a b c"
    assert line("abcdef", 4) == "abc…"
    assert line("abcd", 4) == "abcd"
    assert line("a" + " " * 1000 + "b", 4) == "a…"


def test_json_on_a_terminal_keeps_its_value_and_loses_its_teeth() -> None:
    document = json.dumps({"text": "\x9b31m\u202e\U000e0041 日本"}, ensure_ascii=False)
    shown = escaped_json(document)
    assert json.loads(shown) == json.loads(document)
    assert not {"\x9b", "\u202e", "\U000e0041"} & set(shown)
    assert "日本" in shown


def test_width_counts_columns_and_not_characters() -> None:
    assert (width("abc"), width("日本"), width("e\u0301")) == (3, 4, 1)
