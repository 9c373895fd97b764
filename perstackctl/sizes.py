"""Sizes in bytes that people write and read, in powers of 1024."""

import re
from typing import Final

import click

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE: Final = re.compile(r"(\d{1,15})\s?([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


def size(text: str) -> int:
    """Bytes of 1048576, 500M, 2G or 2GiB.

    Raises:
        ValueError: it is something else, or nothing.
    """
    match = _SIZE.fullmatch(text)
    amount = int(match[1]) * _UNITS[match[2].lower()] if match else 0
    if not 0 < amount < 1 << 63:
        raise ValueError(f"{text!r} is not a size; write it as 500M or 2G")
    return amount


def sized(amount: int) -> str:
    """Bytes for people: 950 B, 1.2 KiB, 34 MiB."""
    value, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"


class Size(click.ParamType[int]):
    """An option that is a size; its value is bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
