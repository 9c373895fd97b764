"""The fields that an elicitation asks for, one by one: what may be typed and the value that it becomes. Pure.

MCP allows a flat object of texts, numbers, booleans and choices. A schema with more in it is answered as JSON; the
daemon checks every answer against the whole schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, TypeAlias

from perstackctl.terminal import line

Value: TypeAlias = str | int | float | bool | list[str]
_KINDS: Final = ("string", "integer", "number", "boolean")
_YES: Final = frozenset({"y", "yes", "true", "1"})
_NO: Final = frozenset({"n", "no", "false", "0"})
_MOST_FIELDS: Final = 64


@dataclass(frozen=True, slots=True)
class Field:
    """One member of the answer. `choices` are values with what is shown for each; `several` takes a list of them."""

    name: str
    kind: str
    title: str = ""
    about: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    several: bool = False
    required: bool = False
    default: Value | None = None
    low: float | None = None
    high: float | None = None
    form: str = ""

    def hint(self) -> str:
        """What may be typed, for the prompt."""
        words = ["several of them, with commas"] if self.several else []
        if not self.choices:
            words += [{"string": "text", "integer": "whole number", "boolean": "y/n"}.get(self.kind, self.kind)]
        words += [line(self.form, 24)] if self.form else []
        words += [self._bounds()] if self._bounds() else []
        return ", ".join([*words, "required" if self.required else "may be empty"])

    def _bounds(self) -> str:
        unit = " characters" if self.kind == "string" else ""
        low, high = (f"{value:g}" if value is not None else "" for value in (self.low, self.high))
        if low and high:
            return f"{low} to {high}{unit}"
        return f"at least {low}{unit}" if low else f"at most {high}{unit}" if high else ""

    def read(self, typed: str) -> Value | None:
        """The value of what was typed; None when it is left out.

        Raises:
            ValueError: it does not fit; the message is for the person who typed it.
        """
        text = typed.strip()
        if not text:
            if self.default is None and self.required:
                raise ValueError("this is required")
            return self.default
        if self.several:
            return [self._choice(part.strip()) for part in text.split(",") if part.strip()]
        if self.choices:
            return self._choice(text)
        return _READERS[self.kind](self, text)

    def _choice(self, text: str) -> str:
        for number, (value, title) in enumerate(self.choices, 1):
            if text in {value, title, str(number)}:
                return value
        raise ValueError(f"{text[:40]!r} is none of the choices; type its number or its name")

    def text(self, text: str) -> str:
        """A text whose length fits."""
        self._check(len(text))
        return text

    def number(self, text: str) -> int | float:
        """A number that fits."""
        try:
            value = int(text) if self.kind == "integer" else float(text)
        except ValueError:
            raise ValueError(f"{text[:40]!r} is not a {self.kind}") from None
        if not isfinite(value):
            raise ValueError("that is not a number")
        self._check(value)
        return value

    def boolean(self, text: str) -> bool:
        """Yes or no."""
        if text.lower() in _YES | _NO:
            return text.lower() in _YES
        raise ValueError("type y or n")

    def _check(self, size: float) -> None:
        if (self.low is not None and size < self.low) or (self.high is not None and size > self.high):
            raise ValueError(f"{self._bounds()}, please")


_READERS: Final = {"string": Field.text, "integer": Field.number, "number": Field.number, "boolean": Field.boolean}


def fields_of(schema: Mapping[str, Any]) -> tuple[Field, ...] | None:
    """The fields, those that are required first; None when the schema is not a flat object of what can be typed."""
    members = schema.get("properties", {})
    if schema.get("type", "object") != "object" or not isinstance(members, dict) or len(members) > _MOST_FIELDS:
        return None
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    found = [_field(name, member, required=name in names) for name, member in members.items()]
    if None in found:
        return None
    return tuple(sorted((field for field in found if field), key=lambda field: not field.required))


def _field(name: str, schema: Any, *, required: bool) -> Field | None:
    if not isinstance(schema, dict):
        return None
    several = schema.get("type") == "array"
    inner = schema.get("items", {}) if several else schema
    kind = inner.get("type", "string") if isinstance(inner, dict) else ""
    choices = _choices(inner) if isinstance(inner, dict) else ()
    if kind not in _KINDS or (several and not choices):
        return None
    low, high = ("minLength", "maxLength") if kind == "string" else ("minimum", "maximum")
    return Field(
        name=name,
        kind=kind,
        title=_text(schema, "title"),
        about=_text(schema, "description"),
        choices=choices,
        several=several,
        required=required,
        default=_default(schema, kind, choices, several=several),
        low=_bound(inner, low),
        high=_bound(inner, high),
        form=_text(schema, "format"),
    )


def _choices(schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    values, titles = schema.get("enum"), schema.get("enumNames")
    if isinstance(values, list):
        names = titles if isinstance(titles, list) and len(titles) == len(values) else values
        return tuple((value, str(name)) for value, name in zip(values, names, strict=True) if isinstance(value, str))
    listed = schema.get("oneOf") or schema.get("anyOf")
    options = listed if isinstance(listed, Sequence) and not isinstance(listed, str) else ()
    return tuple(
        (option["const"], _text(option, "title") or option["const"])
        for option in options
        if isinstance(option, dict) and isinstance(option.get("const"), str)
    )


def _default(
    schema: Mapping[str, Any], kind: str, choices: tuple[tuple[str, str], ...], *, several: bool
) -> Value | None:
    """The schema's default when it is one that could have been typed."""
    value = schema.get("default")
    values = {choice for choice, _ in choices}
    if several:
        fits = isinstance(value, list) and all(item in values for item in value if isinstance(item, str))
        return value if fits and all(isinstance(item, str) for item in value or ()) else None
    types: dict[str, tuple[type, ...]] = {"string": (str,), "boolean": (bool,), "integer": (int,)}
    fits = isinstance(value, types.get(kind, (int, float))) and (kind == "boolean" or not isinstance(value, bool))
    fits = fits and not (isinstance(value, float) and not isfinite(value))
    return value if fits and (not choices or value in values) else None


def _bound(schema: Mapping[str, Any], key: str) -> float | None:
    value = schema.get(key)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(schema: Mapping[str, Any], key: str) -> str:
    value = schema.get(key)
    return value if isinstance(value, str) else ""
