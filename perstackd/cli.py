"""The daemon's command line: serve, config, version. Prints and exits; everything else is in `daemon`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from perstackd.domain.errors import PerstackError
from perstackd.version import VERSION

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    envvar="PERSTACKD_CONFIG",
    help="Configuration file. Default: /etc/perstackd/perstackd.toml, or the defaults when it is not there.",
)
_set = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key, as in --set templates.base.min_idle=4. Repeatable.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run Perstack experts in a pool of warm, hardened Docker sandboxes.

    SECURITY: until tenancy arrives, everyone who may open the admin socket is an administrator: they may use every
    workspace root and every configured model key. The socket's directory is 0750, owned by root and socket_group.
    """


@main.command()
@_config
@_set
def serve(path: Path | None, settings: tuple[str, ...]) -> None:
    """Serve until SIGTERM or SIGINT.

    The first signal drains: no new jobs, running ones get jobs.drain_s seconds. A second one stops at once. Either
    way all sandboxes, mounts and sockets are removed.
    """
    from perstackd import daemon
    from perstackd.config import load

    _reporting(lambda: daemon.run(load(path, _overrides(settings))))


@main.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show")
@_config
@_set
def config_show(path: Path | None, settings: tuple[str, ...]) -> None:
    """Print the configuration in force as JSON: defaults, file, environment and flags together. It holds no secret."""
    from perstackd.config import load

    _reporting(lambda: click.echo(load(path, _overrides(settings)).model_dump_json(indent=2)))


@config.command("check")
@_config
@_set
def config_check(path: Path | None, settings: tuple[str, ...]) -> None:
    """Check the configuration and tell all its problems at once. Exits 2 when there is one."""
    from perstackd.config import DEFAULT_PATH, load

    def check() -> None:
        load(path, _overrides(settings))
        click.echo(f"{path or DEFAULT_PATH}: ok")

    _reporting(check)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"perstackd {VERSION}")


def _overrides(settings: tuple[str, ...]) -> dict[str, Any]:
    """`a.b=VALUE` with VALUE in TOML, or a plain text."""
    import tomllib

    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--set takes KEY=VALUE, not {setting!r}")
        try:
            overrides[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            overrides[key] = text
    return overrides


def _reporting(action: Callable[[], None]) -> None:
    """Errors as sentences: 2 for a bad configuration, 1 for the rest."""
    try:
        action()
    except PerstackError as error:
        click.echo(f"perstackd: {error.message}", err=True)
        sys.exit(EXIT_USAGE if error.reason.startswith("config_") else EXIT_FAILED)
