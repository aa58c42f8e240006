"""paused, resume, fail and set: what waits, and what is decided by hand."""

import attrs
import pytest

from nvmf_host.messages import ErrorInfo, PausedResult, QuarantinedRange, WaitingRequest

from .fakes import FakeDaemon, controller, namespace, run

LOST = "connection lost: closed by the peer"
WRITE = WaitingRequest(
    node="nvme0ns1",
    operation="write",
    offset_bytes=8192,
    length_bytes=4096,
    pid=1234,
    uid=0,
    age_s=12.34,
    held_bytes=4096,
    reason=LOST,
    ambiguous=True,
    quarantined=False,
)
READ = attrs.evolve(
    WRITE,
    operation="read",
    offset_bytes=1 << 40,
    length_bytes=1 << 20,
    pid=98765,
    uid=1000,
    age_s=5.0,
    held_bytes=1 << 20,
    ambiguous=False,
)
FLUSH = attrs.evolve(
    WRITE,
    node="nvme10ns2",
    operation="flush",
    offset_bytes=0,
    length_bytes=0,
    held_bytes=0,
    age_s=0.04,
    ambiguous=False,
)
STUCK = attrs.evolve(
    WRITE,
    operation="deallocate",
    pid=None,
    uid=None,
    age_s=0.02,
    held_bytes=0,
    ambiguous=False,
    quarantined=True,
    reason="waits for LBAs that an old copy of a write may still land on",
)


def paused(result, *arguments):
    daemon = FakeDaemon({"paused": result})
    return run("paused", *arguments, daemon=daemon), daemon


def test_what_waits_is_a_table_with_its_reasons_and_totals():
    quarantine = (
        QuarantinedRange(node="nvme0ns1", slba=16, length_lbas=8, lifts_in_s=27.31),
        QuarantinedRange(node="nvme10ns2", slba=7, length_lbas=1, lifts_in_s=None),
    )
    result = PausedResult(
        requests=(WRITE, READ, FLUSH, STUCK), quarantine=quarantine, max_held_bytes=8 << 30
    )

    outcome, daemon = paused(result)

    assert (outcome.code, outcome.err) == (0, "")
    assert daemon.requests == [{"command": "paused"}]
    assert (
        outcome.out
        == """\
NODE       OPERATION          OFFSET   LENGTH    PID   UID    AGE  HELD  WHY
nvme0ns1   write                8192     4096   1234     0  12.3s   4KB  \
ambiguous: connection lost: closed by the peer
nvme0ns1   read        1099511627776  1048576  98765  1000   5.0s   1MB  \
connection lost: closed by the peer
nvme10ns2  flush                   -        -   1234     0   0.0s    0B  \
connection lost: closed by the peer
nvme0ns1   deallocate           8192     4096      -     -   0.0s    0B  \
quarantine: waits for LBAs that an old copy of a write may still land on
nvme0ns1: LBAs 16 to 23 in quarantine for 27.3 seconds at most, or by hand: \
nvmecontrol reconnect --fenced nvme0
nvme10ns2: LBA 7 in quarantine until the old controller is known to have stopped, or by hand: \
nvmecontrol reconnect --fenced nvme10
4 requests waiting, 1 ambiguous, 1 waiting for LBAs in quarantine, 1MB held (at most 8GB).
"""
    )


def test_one_request_is_one_request():
    outcome, _ = paused(PausedResult(requests=(READ,), quarantine=()))

    assert outcome.out.splitlines()[-1] == "1 request waiting, 1MB held."


def test_a_long_reason_is_said_once():
    first, second = "a" * 61 + "; do this", "b" * 61 + "; do that"
    requests = tuple(
        attrs.evolve(READ, reason=reason) for reason in (first, second, first, "short")
    )

    outcome, _ = paused(PausedResult(requests=requests, quarantine=()))

    lines = outcome.out.splitlines()
    assert [line.split()[-1] for line in lines[1:5]] == ["[1]", "[2]", "[1]", "short"]
    assert lines[5:7] == [f"[1] {first}", f"[2] {second}"]


def test_nothing_waits():
    outcome, _ = paused(PausedResult(requests=(), quarantine=()))

    assert (outcome.code, outcome.out, outcome.err) == (0, "Nothing waits.\n", "")


def test_quarantine_is_shown_also_where_nothing_waits_for_it():
    one = QuarantinedRange(node="nvme0ns1", slba=0, length_lbas=2, lifts_in_s=0.0)

    outcome, _ = paused(PausedResult(requests=(), quarantine=(one,)))

    assert outcome.out.splitlines() == [
        "nvme0ns1: LBAs 0 to 1 in quarantine for 0.0 seconds at most, or by hand: "
        "nvmecontrol reconnect --fenced nvme0",
        "Nothing waits.",
    ]


def test_one_device_may_be_asked_about():
    outcome, daemon = paused(PausedResult(requests=(), quarantine=()), "/mnt/x/nvme0ns1")

    assert outcome.code == 0
    assert daemon.requests == [{"command": "paused", "device": "nvme0ns1"}]
    assert daemon.directories == ["/mnt/x"]


def test_paused_as_json_is_the_whole_answer():
    result = PausedResult(requests=(WRITE,), quarantine=(), max_held_bytes=1)

    outcome, _ = paused(result, "--json")

    assert outcome.json == {
        "schema": 1,
        "requests": [attrs.asdict(WRITE)],
        "quarantine": [],
        "max_held_bytes": 1,
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [("", {}), ("--rewrite", {"rewrite": True}), ("--accept", {"accept": True})],
)
def test_resume(options, fields):
    daemon = FakeDaemon({"resume": namespace()})

    outcome = run("resume", *options.split(), "nvme0ns1", daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert [{"command": "resume", "device": "nvme0ns1"} | fields] == daemon.requests


def test_resume_says_what_does_not_go_on():
    answer = namespace(state="paused", reason="the medium does not have it; --rewrite")

    outcome = run("resume", "nvme0ns1", "--json", daemon=FakeDaemon({"resume": answer}))

    assert outcome.code == 0
    assert outcome.err == (
        "nvmecontrol resume: nvme0ns1: paused: the medium does not have it; --rewrite\n"
    )
    assert outcome.json["state"] == "paused"


def test_resume_is_quiet_where_interrupted_writes_are_sent_again():
    answer = namespace(state="replaying", reason="writes that were interrupted are sent again")

    outcome = run("resume", "--accept", "nvme0ns1", daemon=FakeDaemon({"resume": answer}))

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_fail():
    daemon = FakeDaemon({"fail": namespace(state="held", reason="connection lost")})

    outcome = run("fail", "nvme0ns1", daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert daemon.requests == [{"command": "fail", "device": "nvme0ns1"}]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("-r 0", {"reconnect_delay_s": 0.0}),
        ("-l 60 --replay-limit 30", {"ctrl_loss_tmo_s": 60.0, "replay_limit_s": 30.0}),
        ("-l 0 --fast-io-fail-tmo -1", {"ctrl_loss_tmo_s": -1.0, "fast_io_fail_s": -1.0}),
        ("--fast-io-fail-tmo 0", {"fast_io_fail_s": 0.0}),
        ("--command-age 0", {"command_age_s": 0.0}),
    ],
)
def test_set_sends_what_was_given(options, fields):
    daemon = FakeDaemon({"set": controller()})

    outcome = run("set", *options.split(), "nvme0", daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert [{"command": "set", "device": "nvme0"} | fields] == daemon.requests


def test_set_as_json_is_the_controller():
    outcome = run("set", "-r", "1", "nvme0", "--json", daemon=FakeDaemon({"set": controller()}))

    assert outcome.json["name"] == "nvme0"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("set nvme0",
         "set: OPTIONS: none; give -r, -l, --fast-io-fail-tmo, --replay-limit or --command-age"),
        ("set -r 1", "set: nvmeX: missing; see `nvmecontrol set --help`"),
        ("resume nvme0", "resume: DEVICE nvme0: a controller; give a namespace, as nvmeXnsY"),
        ("fail nvme0", "fail: DEVICE nvme0: a controller; give a namespace, as nvmeXnsY"),
        ("resume --accept --rewrite nvme0ns1",
         "resume: --rewrite: given together with --accept; give one of them"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments, line):
    daemon = FakeDaemon()

    outcome = run(*arguments.split(), daemon=daemon)

    assert (64, "", f"nvmecontrol {line}\n") == (outcome.code, outcome.out, outcome.err)
    assert daemon.requests == []


def test_an_option_that_is_needed_is_named():
    error = ErrorInfo(kind="usage", message="it is paused because X; --accept takes it",
                      field="device", value="nvme0ns1")  # fmt: skip

    outcome = run("resume", "nvme0ns1", daemon=FakeDaemon({"resume": error}))

    assert outcome.code == 64
    assert outcome.err == (
        "nvmecontrol resume: DEVICE nvme0ns1: it is paused because X; --accept takes it\n"
    )
