"""connect and reconnect: what is sent to the daemon, and what is said."""

import pytest

from nvmf_host.messages import ErrorInfo, RefusedNamespace

from .fakes import FakeDaemon, connected, namespace, run

NQN = "nqn.2014-08.org.example:disk"


def test_connect_prints_the_name_of_the_device_alone():
    daemon = FakeDaemon({"connect": connected(device="nvme3")})

    outcome = run("connect", "192.0.2.1:4420", NQN, daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "nvme3\n", "")
    assert daemon.requests == [{"command": "connect", "address": "192.0.2.1:4420", "subnqn": NQN}]
    assert daemon.closed == 1


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("-i 2", {"nr_io_queues": 2}),
        ("--nr-io-queues 0x10", {"nr_io_queues": 16}),
        ("-Q 010", {"queue_size": 8}),
        ("--queue-size 0", {}),
        ("-k 5", {"kato_s": 5.0}),
        ("--keep-alive-tmo 2.5", {"kato_s": 2.5}),
        ("-k 0", {"kato_s": 0.0}),
        ("-r 0", {"reconnect_delay_s": 0.0}),
        ("--reconnect-delay 1", {"reconnect_delay_s": 1.0}),
        ("-l 0", {}),
        ("-l -1", {}),
        ("--ctrl-loss-tmo=-1", {}),
        ("-l 600", {"ctrl_loss_tmo_s": 600.0}),
        ("--ctrl-loss-tmo 0.5", {"ctrl_loss_tmo_s": 0.5}),
        ("--fast-io-fail-tmo 0", {"fast_io_fail_s": 0.0}),
        ("--fast_io_fail_tmo 5", {"fast_io_fail_s": 5.0}),
        ("--fast-io-fail -1", {}),
        ("--replay-limit 0", {"replay_limit_s": 0.0}),
        ("--replay-limit 600", {}),
        ("--command-age 0", {"command_age_s": 0.0}),
        ("--command-age 60", {}),
        ("-c static", {"cntlid": "static"}),
        ("--cntlid 0x10", {"cntlid": "16"}),
        ("-c dynamic", {}),
        ("-q nqn.2014-08.org.example:me", {"hostnqn": "nqn.2014-08.org.example:me"}),
        ("-I 0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f",
         {"hostid": "0f4e8a3c-7c0a-4f4e-9f0e-3a7b1c2d4e5f"}),
        ("-F", {"flow_control": True}),
        ("--flow_control", {"flow_control": True}),
        ("--disable-sqflow", {}),
        ("-g -G", {"header_digests": True, "data_digests": True}),
        ("--hdr_digests --data_digests", {"header_digests": True, "data_digests": True}),
        ("--hdr-digest --data-digest", {"header_digests": True, "data_digests": True}),
        ("-w 192.0.2.9 -f eth1", {"host_traddr": "192.0.2.9", "host_iface": "eth1"}),
        ("--host-traddr 192.0.2.9 --host-iface eth1",
         {"host_traddr": "192.0.2.9", "host_iface": "eth1"}),
        ("-D --read-only", {"duplicate": True, "read_only": True}),
        ("-t TCP", {}),
    ],
)  # fmt: skip
def test_options_become_fields_of_the_request_where_they_are_no_defaults(options, fields):
    daemon = FakeDaemon({"connect": connected()})

    outcome = run("connect", *options.split(), "[2001:db8::1]:4420", NQN, daemon=daemon)

    assert (outcome.code, outcome.err) == (0, "")
    base = {"command": "connect", "address": "[2001:db8::1]:4420", "subnqn": NQN}
    assert [base | fields] == daemon.requests


def test_refused_and_paused_namespaces_are_named_on_standard_error():
    result = connected(
        namespaces=(namespace(), namespace(name="nvme0ns2", state="paused", reason="other UUID")),
        refused=(RefusedNamespace(nsid=3, reason="8 bytes of metadata"),),
    )

    outcome = run("connect", "a:1", NQN, daemon=FakeDaemon({"connect": result}))

    assert (outcome.code, outcome.out) == (0, "nvme0\n")
    assert outcome.err.splitlines() == [
        "nvmecontrol connect: nvme0 NSID 3: not served: 8 bytes of metadata",
        "nvmecontrol connect: nvme0ns2: paused: other UUID",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (f"192.0.2.1 {NQN}", 64,
         "ADDRESS 192.0.2.1: explicit port required; write ADDRESS:PORT"),
        (f"192.0.2.1:0 {NQN}", 64,
         "ADDRESS 192.0.2.1:0: '0' is not a port; give a number from 1 to 65535"),
        ("a:1", 64, "SUBNQN: missing; see `nvmecontrol connect --help`"),
        ("", 64, "ADDRESS:PORT: missing; see `nvmecontrol connect --help`"),
        ("a:1 n more", 64,
         "Got unexpected extra argument (more); see `nvmecontrol connect --help`"),
        ("a:1 " + "n" * 224, 64,
         f"SUBNQN {'n' * 224}: the NQN has 224 bytes, 223 are allowed; shorten it"),
        ("-t rdma a:1 n", 69, "--transport rdma: unknown transport; available: tcp"),
        ("-i 0 a:1 n", 64, "--nr-io-queues 0: out of range; give 1 to 1024 queues"),
        ("-i 0x401 a:1 n", 64, "--nr-io-queues 0x401: out of range; give 1 to 1024 queues"),
        ("-i many a:1 n", 64, "--nr-io-queues many: not a number; give 1 to 1024 queues"),
        ("-i 08 a:1 n", 64, "--nr-io-queues 08: not a number; give 1 to 1024 queues"),
        ("-Q 1 a:1 n", 64, "--queue-size 1: out of range; give 0 or 2 to 65536 entries"),
        ("-Q 65537 a:1 n", 64, "--queue-size 65537: out of range; give 0 or 2 to 65536 entries"),
        ("-k 0.5 a:1 n", 64,
         "--keep-alive-tmo 0.5: out of range; give 0 or 1 to 4000000 seconds"),
        ("-r -1 a:1 n", 64, "--reconnect-delay -1: out of range; give 0 to 86400 seconds"),
        ("-c 0xfff0 a:1 n", 64,
         "--cntlid 0xfff0: not a controller ID; give dynamic, static or 0 to 0xffef"),
        ("-F -d a:1 n", 64,
         "--flow_control: given together with --disable-sqflow; give one of them"),
        ("-l -2 a:1 n", 64, "--ctrl-loss-tmo -2: out of range; give -1 or 0 to 4000000 seconds"),
        ("-l soon a:1 n", 64,
         "--ctrl-loss-tmo soon: not a number; give -1 or 0 to 4000000 seconds"),
        ("--fast-io-fail-tmo 4000001 a:1 n", 64,
         "--fast-io-fail-tmo 4000001: out of range; give -1 or 0 to 4000000 seconds"),
        ("--replay-limit -1 a:1 n", 64,
         "--replay-limit -1: out of range; give 0 to 4000000 seconds"),
        ("--fenced a:1 n", 64,
         "--fenced: no such option; see `nvmecontrol connect --help`"),
        ("-W 1 a:1 n", 64,
         "--nr-write-queues 1: there are no queues for writes alone; use -i"),
        ("-P 1 a:1 n", 64, "--nr-poll-queues 1: there are no polled queues; use -i"),
        ("--tls a:1 n", 64, "--tls: TLS is not offered; connect without it"),
        ("--dhchap-secret DHHC-1:00:x: a:1 n", 64,
         "--dhchap-secret: authentication is not offered; connect without it"),
        ("--hdr-digests a:1 n", 64,
         "--hdr-digests: no such option, perhaps --hdr-digest or --hdr_digests or --data-digest; "
         "see `nvmecontrol connect --help`"),
        ("-k", 64, "-k: needs a value; see `nvmecontrol connect --help`"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_before_the_daemon_is_asked(arguments, code, message):
    daemon = FakeDaemon()

    outcome = run("connect", *arguments.split(), daemon=daemon)

    assert (code, "") == (outcome.code, outcome.out)
    assert f"nvmecontrol connect: {message}\n" == outcome.err
    assert daemon.requests == []
    assert daemon.directories == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ErrorInfo(kind="unreachable", message="a:1: refused; nothing listens", step="connect"),
         68, "ADDRESS a:1: refused; nothing listens"),
        (ErrorInfo(kind="unreachable", message="no answer in 10 s"),
         68, "ADDRESS a:1: no answer in 10 s; "
             "check the address, and that a controller listens there"),
        (ErrorInfo(kind="busy", message="already connected as nvme1; use that, or -D",
                   field="subnqn", value="n at a:1"),
         74, "SUBNQN n at a:1: already connected as nvme1; use that, or -D"),
        (ErrorInfo(kind="too-few-queues", message="1 granted", field="nr_io_queues", value="4"),
         76, "nr_io_queues 4: 1 granted; ask for fewer with -i, or leave -i out"),
        (ErrorInfo(kind="connect-rejected", message="CONNECT: Connect Invalid Host (1/84h, DNR)",
                   status="1/84"),
         74, "ADDRESS a:1: CONNECT: Connect Invalid Host (1/84h, DNR); "
             "check SUBNQN and the host NQN against the target's settings"),
    ],
)  # fmt: skip
def test_errors_of_the_daemon_have_the_exit_code_of_their_kind(error, code, line):
    outcome = run("connect", "a:1", "n", daemon=FakeDaemon({"connect": error}))

    assert (code, "") == (outcome.code, outcome.out)
    assert f"nvmecontrol connect: {line}\n" == outcome.err


@pytest.mark.parametrize(
    ("options", "label"), [(["-i", "4"], "--nr-io-queues"), ([], "nr_io_queues")]
)
def test_a_field_is_called_by_its_option_where_that_was_given(options, label):
    error = ErrorInfo(kind="usage", message="no; yes", field="nr_io_queues", value="4")

    outcome = run("connect", *options, "a:1", "n", daemon=FakeDaemon({"connect": error}))

    assert outcome.err == f"nvmecontrol connect: {label} 4: no; yes\n"


def test_reconnect_sends_only_what_was_given():
    daemon = FakeDaemon({"reconnect": connected()})

    outcome = run("reconnect", "nvme0", daemon=daemon)

    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert daemon.requests == [{"command": "reconnect", "device": "nvme0"}]


def test_reconnect_takes_an_address_and_options():
    daemon = FakeDaemon({"reconnect": connected()})

    options = ["-i", "2", "-r", "0", "-Q", "0", "-d", "-g"]
    outcome = run("reconnect", *options, "/mnt/x/nvme0", "b:2", daemon=daemon)

    assert outcome.code == 0, outcome.err
    assert daemon.requests == [
        {
            "command": "reconnect",
            "device": "nvme0",
            "address": "b:2",
            "nr_io_queues": 2,
            "queue_size": 0,
            "reconnect_delay_s": 0.0,
            "flow_control": False,
            "header_digests": True,
        }
    ]
    assert daemon.directories == ["/mnt/x"]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ("--fenced", {"fenced": True}),
        # What was set stays, unless "never" is said.
        ("-l 0", {"ctrl_loss_tmo_s": -1.0}),
        ("-l -1", {"ctrl_loss_tmo_s": -1.0}),
        ("-l 60", {"ctrl_loss_tmo_s": 60.0}),
        ("--fast-io-fail-tmo -1", {"fast_io_fail_s": -1.0}),
        ("--fast-io-fail-tmo 0", {"fast_io_fail_s": 0.0}),
        ("--replay-limit 60", {"replay_limit_s": 60.0}),
    ],
)
def test_reconnect_takes_limits_and_the_word_of_whoever_fenced(options, fields):
    daemon = FakeDaemon({"reconnect": connected()})

    outcome = run("reconnect", *options.split(), "nvme0", daemon=daemon)

    assert (outcome.code, outcome.err) == (0, "")
    assert [{"command": "reconnect", "device": "nvme0"} | fields] == daemon.requests


def test_reconnect_says_what_does_not_go_on():
    paused = namespace(state="paused", reason="UUID was 1, is 2; give it its old UUID")
    daemon = FakeDaemon({"reconnect": connected(namespaces=(paused,))})

    outcome = run("reconnect", "nvme0", daemon=daemon)

    assert outcome.code == 0
    assert outcome.err == (
        "nvmecontrol reconnect: nvme0ns1: paused: UUID was 1, is 2; give it its old UUID\n"
    )
