"""The daemon's command line: serve, config, doctor, version. Prints and exits; everything else is in `daemon`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from perstackd.domain.errors import Kind, PerstackError
from perstackd.version import VERSION

if TYPE_CHECKING:
    from perstackd.adapters.doctor.subject import Subject
    from perstackd.config import Config

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
@click.version_option(VERSION, message="perstackd %(version)s", help="Show the version.")
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

    The first signal drains: no new jobs, running ones get jobs.drain_s seconds. A second one stops at once. Jobs that
    are not done by then go on at the next start, in the sandboxes that they have; all others are removed.
    """
    from perstackd import daemon
    from perstackd.config import load

    _reporting(lambda: daemon.run(load(path, _overrides(settings))))


@main.group()
def config() -> None:
    """Look at the configuration."""


@config.command("show", short_help="Print the configuration in force as JSON.")
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
        config = load(path, _overrides(settings))
        if any(section.runtime != "runc" for section in config.templates.values()):
            _check_runtimes(_subject(config))
        click.echo(f"{path or DEFAULT_PATH}: ok")

    _reporting(check)


@main.command(short_help="Copy jobs, events and blobs into a new file.")
@_config
@_set
@click.argument("file", type=click.Path(path_type=Path))
def backup(path: Path | None, settings: tuple[str, ...], file: Path) -> None:
    """Copy jobs, events and blobs into a new FILE, while the daemon serves.

    Not in it: the master key (without it the secret values of unfinished jobs cannot be opened), named workspaces and
    the configuration. Back those up by other means, and the key apart from the rest. FILE holds all that was said.
    """
    from perstackd.adapters.store.backup import back_up
    from perstackd.config import load

    def run() -> None:
        found = back_up(load(path, _overrides(settings)).state_directory, file, VERSION)
        click.echo(f"{file}: {found.jobs} jobs, {found.blobs} blobs, {found.size} bytes; the master key is not in it")

    _reporting(run)


@main.command(short_help="Make a store from a backup.")
@_config
@_set
@click.argument("file", type=click.Path(path_type=Path))
def restore(path: Path | None, settings: tuple[str, ...], file: Path) -> None:
    """Make the store of a state directory that has none from a backup FILE. The daemon must not run.

    All of FILE is checked before anything is written. Jobs that had not ended go on at the daemon's next start, from
    where they were when the backup was made; give the master key back before that.
    """
    from perstackd.adapters.state_lock import state_lock
    from perstackd.adapters.store.backup import restore as restored
    from perstackd.config import load

    def run() -> None:
        config = load(path, _overrides(settings))
        with state_lock(config.state_directory):
            found = restored(file, config.state_directory)
        click.echo(f"{config.state_directory}: {found.jobs} jobs, {found.blobs} blobs")
        if not config.secrets.master_key and not config.key_file.exists():
            click.echo(f"perstackd: there is no master key {config.key_file} yet; put the old one there", err=True)

    _reporting(run)


@main.command(short_help="Examine this machine and say what is missing.")
@_config
@_set
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)
def doctor(path: Path | None, settings: tuple[str, ...], output: str) -> None:
    """Examine this machine: kernel, engine, images, file systems, uids, room, programs.

    Starts and removes one sandbox of each template; changes nothing else, takes no lock, and runs without a daemon or
    beside one. Exits 1 when something is to be repaired.
    """
    from perstackd.adapters.doctor.examination import examine
    from perstackd.adapters.doctor.report import Report
    from perstackd.config import load

    def run() -> None:
        report = Report(as_json=output == "json", say=click.echo)
        for finding in examine(_subject(load(path, _overrides(settings)))):
            report.add(finding)
        sys.exit(report.end())

    _reporting(run)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"perstackd {VERSION}")


def _check_runtimes(subject: "Subject") -> None:
    """The one thing that is asked of the machine: a runtime other than runc that the engine cannot run well."""
    from perstackd.adapters.docker.examination import runtimes

    for finding in runtimes(subject):
        if finding.level == "error":
            message = f"{finding.check}: {finding.found}; {finding.remedy}"
            raise PerstackError(Kind.INVALID, "config_invalid", message)


def _subject(config: "Config") -> "Subject":
    """What of a configuration is examined."""
    from perstackd.adapters.doctor.subject import Subject
    from perstackd.adapters.models import assembly
    from perstackd.config import template
    from perstackd.daemon import seccomp_profile

    return Subject(
        state=config.state_directory,
        runtime=config.runtime_directory,
        socket=config.socket_path,
        roots=config.workspace_roots,
        sandbox_uids=config.sandbox_uids,
        uids={
            "workspaces.uid": config.workspaces.uid,
            "workspaces.spare_uid": config.workspaces.spare_uid,
            "egress.uid": config.egress.uid,
        },
        templates=tuple(template(name, section) for name, section in config.templates.items()),
        engine_url=config.engine.url,
        engine_seconds=config.engine.call_deadline_s,
        seccomp_path=str(seccomp_profile()),
        provider=config.models.default_provider,
        keys=assembly.key_names(config.models),
        named_bytes=config.workspaces.named_bytes,
        min_free_memory=config.pool.min_free_memory,
        min_free_disk=config.pool.min_free_disk,
    )


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
