"""What of a job's replay is live: the options, and what they come to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import click

from perstackctl.client.errors import InvalidError
from perstackctl.client.values import ReplayMode

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option("--live-model", is_flag=True, help="Ask the model anew; no tool is run."),
    click.option("--live-tools", is_flag=True, help="Run the tools anew; no model is asked."),
    click.option("--model", default="", help="With --live-model: instead of the job's model."),
    click.option("--provider", default="", help="With --live-model: instead of the job's provider."),
    click.option(
        "--workspace",
        metavar="PATH|NAME|ephemeral",
        default="",
        help="With --live-tools: where the tools work.  [default: the job's workspace, as it is now]",
    ),
    click.option(
        "--env-path",
        metavar="PATH",
        multiple=True,
        help="With --live-tools: a .env file with required values. Repeatable, later ones win; the environment wins "
        "over files.",
    ),
)


@dataclass(frozen=True, slots=True)
class Live:
    """What is done in earnest, and with what."""

    mode: ReplayMode
    model: str = ""
    provider: str = ""
    workspace: str = ""
    env_path: tuple[str, ...] = ()


def live_options(function: Callable[P, R]) -> Callable[P, R]:
    """All of them, in the order of the help."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_live(options: dict[str, Any]) -> Live | None:
    """What the options say; None when nothing is live.

    Raises:
        InvalidError: they contradict each other.
    """
    of_model, of_tools = options.pop("live_model"), options.pop("live_tools")
    if of_model and of_tools:
        message = "with a live model and live tools nothing of the record is left; use perstackctl run instead"
        raise InvalidError(message, reason="usage")
    needed = {"model": of_model, "provider": of_model, "workspace": of_tools, "env_path": of_tools}
    for name, given in options.items():
        if given and not needed[name]:
            mode = "--live-model" if name in {"model", "provider"} else "--live-tools"
            raise InvalidError(f"--{name.replace('_', '-')} is for {mode}", reason="usage")
    if not (of_model or of_tools):
        return None
    return Live(ReplayMode.MODEL if of_model else ReplayMode.TOOLS, **options)
