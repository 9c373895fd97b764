"""Groups whose commands are imported when they are used: `--help` and completion stay fast."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """Where a command is (`module:attribute`) and what the list of commands says about it."""

    target: str
    summary: str

    def load(self) -> click.Command:
        """Import it."""
        module, attribute = self.target.split(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is not a command")
        return command


class Nouns(click.Group):
    """A click group that lists its commands with their whole first sentence, and knows the nearest name."""

    def summary(self, ctx: click.Context, name: str) -> str:
        """What the list says about a command; nothing about a hidden one."""
        command = self.get_command(ctx, name)
        if command is None or command.hidden:
            return ""
        said = " ".join((command.short_help or command.help or "").split("\n\n")[0].split())
        return said.partition(". ")[0].rstrip(".") + "."

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0] if args else "", self.list_commands(ctx)
        if name and name not in known and not name.startswith("-"):
            ctx.fail(f"there is no command {name!r}{_nearest(name, known)} See {ctx.command_path} --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        told = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, summary in told if summary])


class LazyGroup(Nouns):
    """The same over `LazyCommand`s, listed in the order given and not imported for it."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = self._lazy.get(cmd_name)
        return lazy.load() if lazy else None

    def summary(self, ctx: click.Context, name: str) -> str:
        return self._lazy[name].summary


def _nearest(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f". Did you mean {near[0]!r}?" if near else "."
