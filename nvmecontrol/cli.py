"""The group of commands: loads a command when it is run, and ends with one line and an exit code.

Click's own messages and exit code 2 become ours; `--json` and `--dev` are taken before and after a
command's name.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
import click

from .failure import EX_INTERRUPTED, Failure, failure_of, label_of, usage

if TYPE_CHECKING:
    from nvmf_host.messages import Request

    from .discovery import Discover
    from .node import Node, OpenNode

PROGRAM: Final = "nvmecontrol"
SCHEMA: Final = 1

#: Name -> the module that holds it and what it does.  A module names its command after it.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "discover": ("discover", "List what a discovery controller offers."),
    "connect": ("connect", "Connect to a controller; prints the name of its device."),
    "connect-all": ("connect_all", "Connect to all that a discovery controller offers."),
    "reconnect": ("connect", "Connect a lost controller again, perhaps at another address."),
    "disconnect": ("disconnect", "Shut a controller down and remove its nodes."),
    "disconnect-all": ("disconnect", "Shut all controllers down and remove their nodes."),
    "devlist": ("devlist", "List controllers and namespaces, and what keeps them waiting."),
    "set": ("set", "Change how long a lost controller is waited for."),
    "paused": ("paused", "List the requests that wait, and why."),
    "resume": ("by_hand", "Let a paused namespace go on."),
    "fail": ("by_hand", "Fail what waits for a namespace."),
    "identify": ("identify", "Show the identify data of a controller or namespace."),
    "logpage": ("logpage", "Show a log page."),
    "nsid": ("ns", "Show which controller and NSID a node stands for."),
    "ns": ("ns", "List and identify the namespaces of a controller."),
    "flush": ("io", "Make all that was written to a namespace durable."),
    "dsm": ("io", "Deallocate ranges of a namespace."),
    "write-zeroes": ("io", "Zero a range of a namespace."),
    "hostnqn": ("hostnqn", "Show this host's NQN and Host ID, and where they come from."),
}


@attrs.define(eq=False)
class Session:
    """What a command works with: the global options, and the ways out of this process."""

    open_node: "OpenNode"
    discover: "Discover"
    dev: Path | None = None
    json: bool = False
    #: Field and value of what an error without a field is about: a device or an address.
    subject: tuple[str, str] | None = None
    command: str = PROGRAM
    #: Field of a request -> how the command line calls it.
    labels: dict[str, str] = attrs.field(factory=dict)
    _nodes: list["Node"] = attrs.field(factory=list)

    def directory(self) -> Path:
        """DIR: --dev, else its default."""
        from .node import default_directory

        return default_directory() if self.dev is None else self.dev

    def node(self) -> "Node":
        """The session with the daemon, opened at the first call."""
        if not self._nodes:
            self._nodes.append(self.open_node(self.directory()))
        return self._nodes[0]

    def request(self, request: "Request") -> dict[str, Any]:
        """Asks the daemon; raises `Failure`."""
        return self.node().request(request)

    def device(self, text: str) -> str:
        """The name of a node that was given by name or by path; a path names DIR, too."""
        from .node import split_device

        directory, name = split_device(text)
        if directory is not None:
            self.dev = directory
        self.subject = ("device", name)
        return name

    def show(self, value: dict[str, Any]) -> None:
        """Prints a result as JSON."""
        click.echo(json.dumps({"schema": SCHEMA, **value}))

    def note(self, text: str) -> None:
        """Tells on standard error what is no failure."""
        from .failure import printable

        click.echo(f"{self.command}: {printable(text)}", err=True)

    def close(self) -> None:
        """Ends the session with the daemon."""
        while self._nodes:
            self._nodes.pop().close()


pass_session = click.make_pass_decorator(Session)


def _set_dev(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.find_object(Session).dev = Path(value)  # type: ignore[union-attr]


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_object(Session).json = True  # type: ignore[union-attr]


def _global_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--dev"],
            metavar="DIR",
            expose_value=False,
            callback=_set_dev,
            help="Directory that fusedev serves. [default: $NVMF_DEV, else /run/nvmf for root, "
            "$XDG_RUNTIME_DIR/nvmf for others]",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_set_json,
            help="Print the result, or the error, as JSON.",
        ),
    ]


#: -h is taken where a command has no -h of its own.
_HELP_NAMES: Final = ["-h", "-?", "--help"]


class _Named(click.Command):
    """Has the global options, and leaves its name for error messages."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params += _global_options()

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        session = parent.find_object(Session) if parent else None
        if session is not None and parent is not None:
            session.command = f"{parent.command_path} {info_name}"
            session.labels = {each.name: label_of(each) for each in self.params if each.name}
        context = super().make_context(info_name, args, parent, **extra)
        if session is not None:
            # What nobody typed is not called by an option's name.
            session.labels = {
                name: label for name, label in session.labels.items() if _was_given(context, name)
            }
        return context


def _was_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE


class Command(_Named):
    """A command of this program."""


class SubGroup(_Named, click.Group):
    """A command that has commands, as `ns`."""

    command_class: type[click.Command] | None = Command

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.invoke_without_command = True
        self.no_args_is_help = False

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _check_command(self, ctx, args[0])
        return super().resolve_command(ctx, args)


def need_command(context: click.Context) -> None:
    """Refuses a group that was called without a command."""
    if context.invoked_subcommand is None:
        raise usage(
            f"missing; see `{context.command_path} --help`", field="command", label="COMMAND"
        )


def _check_command(group: click.Group, context: click.Context, name: str) -> None:
    if group.get_command(context, name) is None:
        raise usage(
            f"unknown command; see `{context.command_path} --help`", field="command", value=name
        )


class Root(click.Group):
    """nvmecontrol itself."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".commands.{COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, does) for name, (_, does) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _check_command(self, ctx, args[0])
        return super().resolve_command(ctx, args)

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Runs a command and exits; this is the one place where errors end."""
        arguments = list(sys.argv[1:] if args is None else args)
        session: Session = extra.pop("obj")
        # What is wrong with the arguments is found before --json is parsed.
        session.json = "--json" in arguments
        sys.exit(_guard(session, lambda: self._run(arguments, session)))

    def _run(self, arguments: list[str], session: Session) -> int:
        code = super().main(arguments, PROGRAM, standalone_mode=False, obj=session)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
        return code if isinstance(code, int) else 0


def _guard(session: Session, run: Callable[[], int]) -> int:
    try:
        return run()
    except (KeyboardInterrupt, click.Abort):
        return EX_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough; python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("NVMF_TRACEBACK"):
            raise
        return _tell(session, failure_of(error))
    finally:
        session.close()


def _tell(session: Session, failure: Failure) -> int:
    if failure.field is None and session.subject is not None:
        failure.field, failure.value = session.subject
    if session.json:
        # Standard output may be what has failed.
        with suppress(OSError):
            session.show({"error": failure.to_json()})
    click.echo(failure.line(session.command, session.labels), err=True)
    return failure.exit_code


@click.group(
    cls=Root,
    invoke_without_command=True,
    context_settings={"help_option_names": _HELP_NAMES, "max_content_width": 100},
)
@click.version_option(package_name="nvmf-fuse", prog_name=PROGRAM)
@click.pass_context
def cli(context: click.Context) -> None:
    """Control the NVMe over Fabrics host that `fusedev` runs.

    A device is given by its name (nvme0, nvme0ns1) or by the path of its node; a path names the
    DIR that it lies in as well.  Numbers may be written in hex (0x) and octal (0).
    """
    need_command(context)


cli.params += _global_options()
