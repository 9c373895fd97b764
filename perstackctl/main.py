"""The command line: the root group, and how every error becomes a sentence and an exit code."""

import os
import sys
from typing import Final

import click

from perstackctl.client.errors import ClientError
from perstackctl.commands.lazy import LazyCommand, LazyGroup
from perstackctl.commands.options import ADDRESS_HELP, remember_address
from perstackctl.output import note

_NAME: Final = "perstackctl"
_COMPLETE: Final = "_PERSTACKCTL_COMPLETE"
INTERRUPTED: Final = 130
CLOSED_PIPE: Final = 141

_COMMANDS: Final = {
    "run": LazyCommand("perstackctl.commands.run:run", "Run an expert and wait for its end."),
    "start": LazyCommand("perstackctl.commands.start:start", "Choose an expert, say what to do, watch it."),
    "job": LazyCommand("perstackctl.commands.job:job", "List, show, watch, answer, pause and cancel jobs."),
    "expert": LazyCommand("perstackctl.commands.expert:expert", "Check, show and begin experts."),
    "sandbox": LazyCommand("perstackctl.commands.sandbox:sandbox", "Show sandboxes and their posture."),
    "pool": LazyCommand("perstackctl.commands.pool:pool", "Show the pools of warm sandboxes."),
    "workspace": LazyCommand("perstackctl.commands.workspace:workspace", "Make, fill, read and delete workspaces."),
    "secret": LazyCommand("perstackctl.commands.secret:secret", "Store, list, delete and rotate secrets."),
    "egress": LazyCommand("perstackctl.commands.egress:egress", "Say where sandboxes may connect to, and why not."),
    "system": LazyCommand("perstackctl.commands.system:system", "Show the daemon and its machine."),
    "version": LazyCommand("perstackctl.commands.version:version", "Show the version."),
}

_EPILOG = """\b
Examples:
  perstackctl run fitness-assistant "Start today's session"
  perstackctl job ls
  perstackctl job watch 01JD3Z
  perstackctl job answer 01JD3Z 3-1 "b2"
  perstackctl job log 01JD3Z --errors
  perstackctl sandbox posture 01JD40

\b
Completion, for bash (zsh and fish alike):
  eval "$(_PERSTACKCTL_COMPLETE=bash_source perstackctl)"

SECURITY: whoever may open the daemon's admin socket is admin of the daemon: they may run anything in its sandboxes,
use every workspace root and see every job. Add only such people to the group that owns the socket.
"""


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value and not ctx.resilient_parsing:
        from perstackctl.commands.version import installed

        click.echo(f"perstackctl {installed()}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--address",
    envvar="PERSTACK_ADDRESS",
    metavar="ADDRESS",
    expose_value=False,
    callback=remember_address,
    help=ADDRESS_HELP,
)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Run Perstack experts in the sandboxes of a perstackd, and look at what they do."""


def main() -> int:
    """Run the command line; returns the exit code (see `perstackctl run --help`)."""
    # gRPC's own log lines about a socket that is not there would stand beside our sentence about it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code = _invoke()
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort) as interrupt:
        note(str(interrupt) or "interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ClientError as error:
        note(error.message)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output left. Python would complain again while it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    return code


def _invoke() -> int:
    if _COMPLETE in os.environ:
        cli.main(prog_name=_NAME)
    # Not cli.main: it makes its own of interrupts and of closed pipes.
    with cli.make_context(_NAME, sys.argv[1:]) as ctx:
        code = cli.invoke(ctx)
        return code if isinstance(code, int) else 0
