"""flush, dsm, write-zeroes and nsid."""

import pytest

from nvmf_host.messages import NsidResult

from .fakes import FakeDaemon, run

U64 = (1 << 64) - 1


@pytest.mark.parametrize(
    ("arguments", "request_fields"),
    [
        ("flush nvme0ns1", {"command": "flush", "device": "nvme0ns1"}),
        ("dsm -s 0 -b 8 nvme0ns1",
         {"command": "dsm", "device": "nvme0ns1", "ranges": [[0, 8]]}),
        ("dsm --ad --slbs 0x10,32 --blocks 1,010 nvme0ns1",
         {"command": "dsm", "device": "nvme0ns1", "ranges": [[16, 1], [32, 8]]}),
        ("write-zeroes -s 5 -b 7 nvme0ns1",
         {"command": "write-zeroes", "device": "nvme0ns1", "slba": 5, "length_lbas": 7}),
        ("write-zeroes --start-block 5 --block-count 7 nvme0ns1",
         {"command": "write-zeroes", "device": "nvme0ns1", "slba": 5, "length_lbas": 8}),
        ("write-zeroes -s 0 -b 1 -d -f nvme0ns1",
         {"command": "write-zeroes", "device": "nvme0ns1", "slba": 0, "length_lbas": 1,
          "fua": True, "deallocate": True}),
    ],
)  # fmt: skip
def test_requests(arguments, request_fields):
    daemon = FakeDaemon({request_fields["command"]: {}})

    outcome = run(*arguments.split(), daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert daemon.requests == [request_fields]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("flush nvme0", "flush: DEVICE nvme0: a controller; give a namespace, as nvmeXnsY"),
        ("dsm -s 0 nvme0ns1", "dsm: --blocks: missing; see `nvmecontrol dsm --help`"),
        ("dsm -s 0,1 -b 8 nvme0ns1",
         "dsm: --blocks: 1 lengths for 2 ranges; give as many as with --slbs"),
        ("dsm -s 0,1 -b 8,0 nvme0ns1", "dsm: --blocks 0: out of range; give at least 1 LBA"),
        ("dsm -s 0,x -b 8,8 nvme0ns1",
         f"dsm: --slbs x: not a number in range; give 0 to {U64}, between commas"),
        ("dsm -s 0 -b 0x100000000 nvme0ns1",
         "dsm: --blocks 0x100000000: not a number in range; give 0 to 4294967295, between commas"),
        ("dsm --idw -s 0 -b 1 nvme0ns1",
         "dsm: --idw: not offered: only deallocation is; leave it out"),
        ("write-zeroes -s 0 nvme0ns1",
         "write-zeroes: --blocks: one of --blocks and --block-count; give exactly one"),
        ("write-zeroes -s 0 -b 1 -c 1 nvme0ns1",
         "write-zeroes: --blocks: one of --blocks and --block-count; give exactly one"),
        ("write-zeroes -s 0 -b 0 nvme0ns1",
         f"write-zeroes: --blocks 0: out of range; give 1 to {U64} LBAs"),
        ("write-zeroes -b 1 nvme0ns1",
         "write-zeroes: --start-block: missing; see `nvmecontrol write-zeroes --help`"),
    ],
)  # fmt: skip
def test_wrong_usage(arguments, line):
    outcome = run(*arguments.split())

    assert (outcome.code, outcome.out, outcome.err) == (64, "", f"nvmecontrol {line}\n")


def test_too_many_ranges():
    many = ",".join(["1"] * 257)

    outcome = run("dsm", "-s", many, "-b", many, "nvme0ns1")

    assert outcome.code == 64
    assert outcome.err == "nvmecontrol dsm: --slbs: 257 ranges; give at most 256\n"


def test_json_of_a_command_without_a_result():
    assert run("--json", "flush", "nvme0ns1", daemon=FakeDaemon({"flush": {}})).json == {
        "schema": 1
    }


def test_nsid():
    daemon = FakeDaemon({"nsid": NsidResult(controller="nvme0", nsid=3)})

    assert run("nsid", "nvme0ns3", daemon=daemon).out == "nvme0\t3\n"
    assert run("nsid", "nvme0ns3", "--json", daemon=daemon).json == {
        "schema": 1, "controller": "nvme0", "nsid": 3,
    }  # fmt: skip


def test_hostnqn(monkeypatch, tmp_path):
    monkeypatch.setattr("nvmf_host.identity.ETC_DIR", tmp_path)
    options = ["-q", "nqn.2014-08.org.example:me", "-I", "0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f"]

    assert run("hostnqn", *options).out == (
        "Host NQN: nqn.2014-08.org.example:me (given)\n"
        "Host ID:  0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f (given)\n"
    )
    assert run("hostnqn", "--json", *options).json == {
        "schema": 1,
        "hostnqn": "nqn.2014-08.org.example:me",
        "hostid": "0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f",
        "hostnqn_origin": "given",
        "hostid_origin": "given",
    }


def test_hostnqn_refuses_what_is_no_host_id():
    outcome = run("hostnqn", "-I", "me")

    assert outcome.code == 64
    assert outcome.err == (
        "nvmecontrol hostnqn: --hostid me: not a Host ID; "
        "give a UUID such as 12345678-9abc-4def-8123-456789abcdef\n"
    )
