"""What holds for every command: errors, --json, --dev, help, and how fast it starts."""

import errno
import io
import json
import os
import re
import subprocess
import sys

import click
import pytest

from nvmecontrol import options
from nvmecontrol.cli import COMMANDS, Session, cli
from nvmecontrol.commands.connect import CNTLID_MAX
from nvmecontrol.commands.io import MAX_RANGES
from nvmf_host import config, discovery
from nvmf_host.messages import DevlistResult, ErrorInfo, connect_default
from nvmf_transport import fabrics
from nvmf_transport.nvme import DsmRange

from .fakes import FakeDaemon, FakeDiscovery, controller, run


class FullOutput(io.StringIO):
    """A file on a full disk."""

    def write(self, text, /):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _all_commands():
    root = click.Context(cli, info_name="nvmecontrol")
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", command.commands[each]) for each in command.commands)


ALL_COMMANDS = dict(_all_commands())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("", "nvmecontrol: COMMAND: missing; see `nvmecontrol --help`"),
        ("nonsense", "nvmecontrol: command nonsense: unknown command; see `nvmecontrol --help`"),
        ("--nonsense", "nvmecontrol: --nonsense: no such option; see `nvmecontrol --help`"),
        ("ns", "nvmecontrol ns: COMMAND: missing; see `nvmecontrol ns --help`"),
        ("ns x", "nvmecontrol ns: command x: unknown command; see `nvmecontrol ns --help`"),
        ("ns identify nvme0",
         "nvmecontrol ns identify: --nsid: missing; see `nvmecontrol ns identify --help`"),
        ("identify", "nvmecontrol identify: nvmeX|nvmeXnsY: missing; "
                     "see `nvmecontrol identify --help`"),
        ("devlist more", "nvmecontrol devlist: Got unexpected extra argument (more); "
                         "see `nvmecontrol devlist --help`"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_line_and_64(arguments, line):
    outcome = run(*arguments.split())

    assert (64, "", f"{line}\n") == (outcome.code, outcome.out, outcome.err)


@pytest.mark.parametrize("arguments", ["--json nsid x", "nsid --json x", "nsid x --json"])
def test_json_of_an_error_stands_before_or_after_the_command(arguments):
    outcome = run(*arguments.split())

    assert outcome.code == 72
    assert outcome.json == {
        "schema": 1,
        "error": {
            "kind": "no-such-device",
            "message": "not the name of a controller or namespace; "
            "write nvmeX, nvmeXnsY or the node's path",
            "field": "device",
            "value": "x",
            "status": None,
            "step": None,
            "exit_code": 72,
        },
    }
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--json", "connect --json", "--json nonsense", "ns --json"])
def test_json_of_wrong_usage(arguments):
    outcome = run(*arguments.split())

    assert (outcome.code, outcome.json["error"]["kind"]) == (64, "usage")


def test_an_error_without_a_field_is_about_the_device_or_the_address():
    daemon = FakeDaemon({"flush": ErrorInfo(kind="gone", message="removed; list them")})

    outcome = run("flush", "/mnt/nvme0ns1", "--json", daemon=daemon)

    assert outcome.code == 74
    shown = outcome.json["error"]
    assert (shown["field"], shown["value"]) == ("device", "nvme0ns1")
    assert outcome.err == "nvmecontrol flush: DEVICE nvme0ns1: removed; list them\n"


def test_a_fault_of_this_program_is_one_line_without_a_traceback():
    daemon = FakeDaemon({"devlist": ZeroDivisionError("oops")})

    outcome = run("devlist", daemon=daemon)

    assert (outcome.code, outcome.out) == (70, "")
    assert outcome.err == (
        "nvmecontrol devlist: ZeroDivisionError: oops; "
        "this is a fault of this program, please report it\n"
    )
    assert daemon.closed == 1


def test_an_answer_of_another_version_is_said():
    daemon = FakeDaemon({"nsid": {}})

    outcome = run("nsid", "nvme0", daemon=daemon)

    assert outcome.code == 70
    assert "use a fusedev and nvmecontrol of the same version\n" in outcome.err


def test_control_c_ends_quietly():
    daemon = FakeDaemon({"flush": KeyboardInterrupt()})

    outcome = run("flush", "nvme0ns1", daemon=daemon)

    assert (outcome.code, outcome.out) == (130, "")
    assert daemon.closed == 1


DEVLIST = {"devlist": DevlistResult(controllers=(controller(),))}


@pytest.mark.parametrize(
    "arguments", ["--dev /mnt/d devlist", "devlist --dev /mnt/d", "--dev /x devlist --dev /mnt/d"]
)
def test_dev_stands_before_or_after_the_command(arguments, monkeypatch):
    monkeypatch.setenv("NVMF_DEV", "/elsewhere")
    daemon = FakeDaemon(dict(DEVLIST))

    assert run(*arguments.split(), daemon=daemon).code == 0
    assert daemon.directories == ["/mnt/d"]


def test_nvmf_dev_is_used_where_dev_is_not_given(monkeypatch):
    monkeypatch.setenv("NVMF_DEV", "/elsewhere")
    daemon = FakeDaemon(dict(DEVLIST))

    run("devlist", daemon=daemon)

    assert daemon.directories == ["/elsewhere"]


@pytest.mark.parametrize(
    ("uid", "runtime", "expected"),
    [(0, "/run/user/0", "/run/nvmf"), (7, "/run/user/7", "/run/user/7/nvmf")],
)
def test_default_directory(uid, runtime, expected, monkeypatch):
    monkeypatch.delenv("NVMF_DEV", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr("os.geteuid", lambda: uid)
    daemon = FakeDaemon(dict(DEVLIST))

    run("devlist", daemon=daemon)

    assert [expected] == daemon.directories


def test_no_default_directory(monkeypatch):
    monkeypatch.delenv("NVMF_DEV", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 7)

    outcome = run("devlist")

    assert outcome.code == 72
    assert outcome.err == (
        "nvmecontrol devlist: DIR: not named, and XDG_RUNTIME_DIR is not set; "
        "give --dev DIR or set NVMF_DEV\n"
    )


@pytest.mark.parametrize("name", ["", *ALL_COMMANDS])
@pytest.mark.parametrize("flag", ["--help", "-?"])
def test_help_fits_the_screen(name, flag):
    outcome = run(*name.split(), flag)

    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert "{" not in outcome.out


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_every_option_says_its_default(name):
    for option in ALL_COMMANDS[name].params:
        if not isinstance(option, click.Option) or option.hidden or option.is_flag:
            continue
        known = "[default:" in (option.help or "") or option.required or option.show_default
        assert known or option.name in {"blocks", "block_count", "vendor"}, option.opts


def test_defaults_and_ranges_in_help_texts_are_those_of_the_host():
    text = run("connect", "--help").out

    assert f"[default: {connect_default('kato_s'):g}]" in " ".join(text.split())
    assert f"[default: {connect_default('reconnect_delay_s'):g}]" in " ".join(text.split())
    assert config.default_io_queues() <= 4
    assert options.MAX_IO_QUEUES == config.MAX_IO_QUEUES
    assert options.MAX_QUEUE_ENTRIES == fabrics.MAX_QUEUE_ENTRIES
    assert options.MAX_KATO_S == config.MAX_KATO_S
    assert f"[default: {connect_default('command_age_s'):g}]" in " ".join(text.split())
    assert f"[default: {connect_default('replay_limit_s'):g}]" in " ".join(text.split())
    assert options.MAX_DELAY_S == config.MAX_DELAY_S
    assert options.MAX_LIMIT_S == config.MAX_LIMIT_S
    assert fabrics.CNTLID_MAX == CNTLID_MAX
    assert DsmRange.MAX_RANGES == MAX_RANGES
    assert "(port 8009" in run("discover", "--help").out
    assert discovery.DISCOVERY_PORT == 8009


def _imported_by(*arguments):
    """Names of the modules that are loaded once these arguments were handled."""
    program = (
        "import json, sys\n"
        "from nvmecontrol.main import main\n"
        f"sys.argv = ['nvmecontrol', *{list(arguments)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(ended.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    "arguments",
    [
        ("devlist", "--help"),
        ("--dev", "/nonexistent", "devlist"),
        ("--dev", "/nonexistent", "connect", "a:1", "n"),
        ("--dev", "/nonexistent", "identify", "nvme0"),
        ("--dev", "/nonexistent", "logpage", "-p", "2", "nvme0"),
    ],
)
def test_nothing_slow_is_imported(arguments):
    slow = {"trio", "rich", "cattrs", "nvmf_tcp", "asyncio", "ssl", "pyfuse3"}

    assert set() == slow & _imported_by(*arguments)


def test_the_session_is_closed_after_each_command():
    daemon = FakeDaemon(dict(DEVLIST))
    session = Session(open_node=daemon.open, discover=FakeDiscovery())

    with pytest.raises(SystemExit):
        cli.main(["devlist"], obj=session)

    assert daemon.closed == 1


@pytest.mark.parametrize("arguments", [["devlist"], ["--json", "devlist"]])
def test_output_that_cannot_be_written_is_said(arguments, monkeypatch, capsys):
    daemon = FakeDaemon({"devlist": DevlistResult(controllers=(controller(),))})
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", FullOutput())
        with pytest.raises(SystemExit) as end:
            cli.main(arguments, obj=Session(open_node=daemon.open, discover=FakeDiscovery()))

    assert end.value.code == 74
    assert capsys.readouterr().err == (
        "nvmecontrol devlist: No space left on device; the output cannot be written; "
        "make room for it\n"
    )


def test_version():
    assert re.fullmatch(r"nvmecontrol, version \S+\n", run("--version").out)
