"""Amounts that people write and read: lengths of time and money. Exact: no floating point."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

import click

_MICRO: Final = 1_000_000
_MOST: Final = 2**63 - 1
_UNITS: Final[Mapping[str, int]] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LENGTH: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_PLAIN: Final = re.compile(r"\d{1,12}", re.ASCII)
_MONEY: Final = re.compile(r"\$?(\d{1,12}(?:\.\d+)?|\.\d+)", re.ASCII)


def milliseconds(text: str) -> int:
    """A length of time as people write it: 90 or 90s, 10m, 2h, 1h30m, 1d.

    Raises:
        ValueError: it is something else, or nothing.
    """
    if _PLAIN.fullmatch(text):
        total = int(text) * 1000
    else:
        match = _LENGTH.fullmatch(text)
        parts = zip("dhms", match.groups(), strict=True) if match and len(text) <= 40 else ()
        total = sum(int(count) * _UNITS[unit] for unit, count in parts if count)
    if not 0 < total <= _MOST:
        raise ValueError(f"{text!r} is not a length of time; write 90 (seconds), 90s, 10m, 2h or 1h30m")
    return total


def microdollars(text: str) -> int:
    """US dollars, with or without a $, as whole millionths.

    Raises:
        ValueError: not a positive amount, or finer than a millionth.
    """
    match = _MONEY.fullmatch(text)
    try:
        exact = Decimal(match.group(1)) * _MICRO if match and len(text) <= 40 else Decimal(0)
    except InvalidOperation:
        exact = Decimal(0)
    if exact <= 0:
        raise ValueError(f"{text!r} is not an amount of US dollars; write it as 0.50")
    if exact != int(exact):
        raise ValueError(f"{text!r} is finer than a millionth of a dollar; write at most 6 decimals")
    return int(exact)


def dollars(micro: int) -> str:
    """Millionths of a US dollar for people: $0.0123, $12.34; never $0 for what is more than nothing."""
    if 0 < micro < 100:
        return "<$0.0001"
    places = 4 if micro < 10 * _MICRO else 2
    return f"${Decimal(micro) / _MICRO:,.{places}f}"


class Length(click.ParamType[int]):
    """An option that is a length of time; its value is milliseconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else milliseconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Money(click.ParamType[int]):
    """An option that is an amount of US dollars; its value is millionths."""

    name = "dollars"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else microdollars(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
