"""Bad input gets a clear error and loses nothing: every row of the table, for real."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.programs import running

from .errors_doc import DOCUMENT, document
from .situation import Situation
from .situations import ALL
from .stage import PREFIXES, Outcome, Stage, mounts_below, open_stage, pattern_of

# Where silence is met, somebody's ten seconds pass; the machine may be loaded besides.
pytestmark = [pytest.mark.fuse, pytest.mark.timeout(90)]


_NODES = {"nvmf", "nvme0", "nvme0ns1", "nvme1", "nvme1ns1"}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with open_stage(tmp_path_factory.mktemp("stage")) as stage:
        beside = [situation for situation in ALL if situation.runs_beside]
        for situation in beside:
            stage.run_early(situation)
        yield stage
        for situation in beside:
            stage.outcome_of(situation)
        assert [(c["name"], c["state"]) for c in stage.controllers()] == [
            ("nvme0", "live"),
            ("nvme1", "lost"),
        ]


def _check(situation: Situation, outcome: Outcome, stage: Stage) -> None:
    said = outcome.stderr.removesuffix("\n")
    assert outcome.code == situation.code, said
    assert "Traceback" not in said
    assert "\n" not in said
    pattern = pattern_of(situation.line, stage.names)
    assert pattern.fullmatch(said), f"{said!r} is not {situation.line!r}"


def _check_json(situation: Situation, outcome: Outcome, stage: Stage) -> None:
    error = outcome.answer["error"]
    value = None if situation.value is None else stage.fill_in(situation.value)
    expected = (situation.kind, situation.field, value or None, situation.code)
    found = (error["kind"], error["field"], error["value"] or None, error["exit_code"])
    assert found == expected
    assert error["status"] == situation.status
    if situation.step is not None:
        assert error["step"] == situation.step


def _disconnect(stage: Stage, outcome: Outcome) -> None:
    device = outcome.answer["device"]
    assert any(each["name"] == device for each in stage.controllers())
    stage.mount.nvmecontrol("disconnect", device)


def _serve(situation: Situation, stage: Stage) -> Outcome:
    """A program that goes on after it has said something."""
    log = stage.folder / f"{situation.name}.log"
    with running(stage.arguments(situation.command), log) as program:
        code = 0
        program.process.terminate()
        code = program.process.wait(20)
    lines = log.read_text().splitlines()
    line = next((line for line in lines if "WARNING" not in line), "")
    return Outcome(code, program.ready, line)


@pytest.mark.parametrize("situation", ALL, ids=lambda situation: situation.name)
def test_situation(situation: Situation, stage: Stage):
    mounts = mounts_below(stage.folder)
    is_control = situation.program == "nvmecontrol"
    if situation.serves:
        outcome = _serve(situation, stage)
        mounts = [path for path in mounts if not situation.command.endswith(path.rsplit("/")[-1])]
    elif situation.runs_beside:
        outcome = stage.outcome_of(situation)
    else:
        outcome = stage.run(situation.command, prefix=situation.prefix, json_too=is_control)

    _check(situation, outcome, stage)
    if is_control and situation.code:
        _check_json(situation, outcome, stage)
    elif is_control:
        _disconnect(stage, outcome)

    # Nothing is left, and nothing is lost.
    assert mounts_below(stage.folder) == mounts
    assert {path.name for path in stage.mount.path.iterdir()} == _NODES
    stage.check_whole()


@pytest.mark.parametrize(
    "situation",
    [each for each in ALL if each.kind == "usage" and "{one_queue}" not in each.command][::4],
    ids=lambda situation: situation.name,
)
def test_without_json_standard_output_is_empty(situation: Situation, stage: Stage):
    outcome = stage.run(situation.command)

    assert outcome.stdout == ""
    _check(situation, outcome, stage)


def test_prefixes_are_what_they_say(stage: Stage):
    def succeeds(prefix: str, *command: str) -> bool:
        return subprocess.run([*PREFIXES[prefix], *command], check=False).returncode == 0

    assert succeeds("", "test", "-e", "/dev/fuse")
    assert not succeeds("without devices", "test", "-e", "/dev/fuse")
    assert succeeds("another user", "sh", "-c", "test $(id -u) = 65534")
    assert not succeeds("without rights", "ls", str(stage.folder / "secret"))


def test_names_are_unique():
    assert len({situation.name for situation in ALL}) == len(ALL)


def test_documentation_is_up_to_date():
    assert DOCUMENT.read_text() == document(), "run `scripts/errors-doc`"
