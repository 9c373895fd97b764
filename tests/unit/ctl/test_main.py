import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from perstackctl.main import cli

SLOW = ("grpc", "rich", "dotenv", "uvloop", "pydantic", "keyring")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_of_the_grammar_is_there() -> None:
    found = {" ".join(path) for path, command in commands(cli) if not isinstance(command, click.Group)}
    assert found == {
        "run",
        "start",
        "version",
        "workspace ls",
        "workspace create",
        "workspace get",
        "workspace put",
        "workspace rm",
        "job ls",
        "job get",
        "job watch",
        "job questions",
        "job answer",
        "job pause",
        "job resume",
        "job cancel",
        "job runs",
        "job log",
        "job tree",
        "job checkpoints",
        "job checkpoint",
        "job replay",
        "job record",
        "job export",
        "job import",
        "job rm",
        "job erase",
        "sandbox ls",
        "sandbox get",
        "sandbox posture",
        "pool ls",
        "pool status",
        "egress explain",
        "system info",
        "secret put",
        "secret ls",
        "secret rm",
        "secret rotate",
        "expert validate",
        "expert show",
        "expert new",
    }


@pytest.mark.parametrize("path", [" ".join(path) for path, _ in commands(cli)])
def test_every_command_explains_itself_and_its_options(path: str) -> None:
    shown = CliRunner().invoke(cli, [*path.split(), "--help"])
    assert shown.exit_code == 0
    command = dict((" ".join(name), command) for name, command in commands(cli))[path]
    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name
    if not isinstance(command, click.Group) and path != "version":
        assert "Example" in shown.output


def test_the_first_page_says_who_is_admin_and_how_to_complete() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    assert "SECURITY: whoever may open the daemon's admin socket is admin" in shown
    assert "_PERSTACKCTL_COMPLETE=bash_source" in shown


def test_a_mistyped_command_is_answered_with_the_nearest_one() -> None:
    shown = CliRunner().invoke(cli, ["jbo", "ls"])
    assert shown.exit_code == 2
    assert "there is no command 'jbo'. Did you mean 'job'?" in shown.output


@pytest.mark.parametrize("group", ["sandbox", "pool", "workspace", "secret", "system", "job"])
def test_the_list_of_commands_has_whole_sentences(group: str) -> None:
    shown = CliRunner().invoke(cli, [group, "--help"]).output.partition("Commands:")[2]
    assert shown
    assert "..." not in shown
    known = CliRunner().invoke(cli, [group, "lss"])
    assert (known.exit_code, "there is no command 'lss'" in known.output) == (2, True)


def test_commands_are_completed() -> None:
    typed = {"_PERSTACKCTL_COMPLETE": "bash_complete", "COMP_WORDS": "perstackctl sa", "COMP_CWORD": "1"}
    shown = CliRunner().invoke(cli, [], prog_name="perstackctl", env=typed)
    assert "sandbox" in shown.output


PROGRAM = """
import sys
from perstackctl.main import main
sys.argv[1:] = {!r}
main()
print(*sys.modules, file=sys.stderr)
"""


def imported_by(*args: str) -> set[str]:
    """Top-level packages that a call of perstackctl imports."""
    argv = [sys.executable, "-c", PROGRAM.format(list(args))]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "args", [("--help",), ("run", "--help"), ("job", "--help"), ("job", "log", "--help"), ("version",)]
)
def test_help_imports_nothing_that_is_slow(args: tuple[str, ...]) -> None:
    assert not imported_by(*args) & set(SLOW)


def test_listing_jobs_imports_no_terminal_library() -> None:
    assert not imported_by("job", "ls", "--address", "/nonexistent/p.sock") & {"rich", "dotenv", "uvloop", "pydantic"}
