"""Situations of CONNECT and of the options of nvmecontrol."""

from typing import Final

from .situation import LIVE, Situation, bad_usage, rejected_connect

_CHECK_NQNS: Final = "check SUBNQN and the host NQN against the target's settings"
CONNECT: Final = (
    rejected_connect(
        "a SUBNQN that is not served",
        "live",
        "Connect Invalid Parameters (1/82h, DNR): it is not served there (IATTR 1, IPO 256); "
        f"{_CHECK_NQNS}",
        "1/82",
        field="subnqn",
        value="{nqn}",
    ),
    Situation(
        what="a discovery subsystem",
        command="nvmecontrol connect {live} nqn.2014-08.org.nvmexpress.discovery",
        code=69,
        says="SUBNQN nqn.2014-08.org.nvmexpress.discovery: a discovery subsystem, which has no "
        "namespaces; `nvmecontrol discover` lists the subsystems it knows",
        kind="unavailable",
        field="subnqn",
        value="nqn.2014-08.org.nvmexpress.discovery",
    ),
    rejected_connect(
        "authentication is demanded after CONNECT (AUTHREQ)",
        "authreq",
        "Authentication Required (1/91h): the controller demands authentication, which this host "
        "cannot do; let this host in without it there",
        "1/91",
    ),
    rejected_connect(
        "authentication is demanded by status",
        "auth_required",
        "Authentication Required (1/91h): the controller demands authentication, which this host "
        "cannot do; let this host in without it there",
        "1/91",
    ),
    rejected_connect(
        "a host that is not allowed",
        "invalid_host",
        "Connect Invalid Host (1/84h): the target does not allow this host; add its NQN there, or "
        "give another with -q",
        "1/84",
        field="hostnqn",
        value="{hostnqn}",
    ),
    rejected_connect(
        "a target that is full",
        "controller_busy",
        "Connect Controller Busy (1/81h): the target has no room; try again later",
        "1/81",
    ),
    rejected_connect(
        "an I/O queue is refused",
        "refuses_io",
        "Connect Controller Busy (1/81h): the target has no room; try again later",
        "1/81",
    ),
    bad_usage(
        "an empty SUBNQN",
        "{live} ''",
        "SUBNQN: the NQN is empty; give one of 1 to 223 bytes",
        "subnqn",
        "",
    ),
    bad_usage(
        "a SUBNQN of 224 bytes",
        "{live} {long_nqn}",
        "SUBNQN {long_nqn}: the NQN has 224 bytes, 223 are allowed; shorten it",
        "subnqn",
        "{long_nqn}",
    ),
    bad_usage(
        "a SUBNQN with control characters",
        "{live} 'a\tb'",
        r"SUBNQN 'a\tb': the NQN has control characters; remove them",
        "subnqn",
        r"'a\tb'",
    ),
    bad_usage(
        "a host NQN of 224 bytes",
        "-q {long_nqn} {live} {nqn}",
        "--hostnqn {long_nqn}: the NQN has 224 bytes, 223 are allowed; shorten it",
        "hostnqn",
        "{long_nqn}",
    ),
    bad_usage(
        "a Host ID that is no UUID",
        f"-I nonsense {LIVE}",
        "--hostid nonsense: not a Host ID; "
        "give a UUID such as 12345678-9abc-4def-8123-456789abcdef",
        "hostid",
        "nonsense",
    ),
    Situation(
        what="the same connection a second time",
        command="nvmecontrol connect {live} {live_nqn}",
        code=74,
        says="SUBNQN {live_nqn} at {live}: already connected as nvme0; "
        "use that, or -D for a second connection",
        kind="busy",
        field="subnqn",
        value="{live_nqn} at {live}",
    ),
)


def _digest(option: str, flag: str, kind: str) -> Situation:
    return Situation(
        what=f"a {kind} digest that is demanded and not granted",
        command=f"nvmecontrol connect {flag} {{no_{kind}_digest}} {{nqn}}",
        code=74,
        says=f"{option}: the controller does not grant the {kind} digest that was asked for; "
        "connect without, or enable it at the controller",
        kind="transport",
        field=f"{kind}_digests",
        value=None,
        step="ICReq/ICResp",
    )


OPTIONS: Final = (
    Situation(
        what="an unknown transport",
        command=f"nvmecontrol connect -t rdma {LIVE}",
        code=69,
        says="--transport rdma: unknown transport; available: tcp",
        kind="unavailable",
        field="transport",
        value="rdma",
    ),
    Situation(
        what="more I/O queues than are granted",
        command="nvmecontrol connect -i 4 {one_queue} {nqn}",
        code=76,
        says="--nr-io-queues 4: the controller grants 1 I/O queues; "
        "ask for no more, or leave it out",
        kind="too-few-queues",
        field="nr_io_queues",
        value="4",
    ),
    bad_usage(
        "a queue size beyond MQES",
        "-Q 128 {small_queues} {nqn}",
        "--queue-size 128: the controller allows 64 entries (CAP.MQES); give at most that",
        "queue_size",
        "128",
    ),
    bad_usage(
        "a queue size out of range",
        f"-Q 70000 {LIVE}",
        "--queue-size 70000: out of range; give 0 or 2 to 65536 entries",
        "queue_size",
        "70000",
    ),
    bad_usage(
        "a queue size of one entry",
        f"-Q 1 {LIVE}",
        "--queue-size 1: out of range; give 0 or 2 to 65536 entries",
        "queue_size",
        "1",
    ),
    bad_usage(
        "a negative number of queues",
        f"-i -1 {LIVE}",
        "--nr-io-queues -1: out of range; give 1 to 1024 queues",
        "nr_io_queues",
        "-1",
    ),
    bad_usage(
        "no queue at all",
        f"-i 0 {LIVE}",
        "--nr-io-queues 0: out of range; give 1 to 1024 queues",
        "nr_io_queues",
        "0",
    ),
    bad_usage(
        "a number in words",
        f"-i four {LIVE}",
        "--nr-io-queues four: not a number; give 1 to 1024 queues",
        "nr_io_queues",
        "four",
    ),
    bad_usage(
        "a keep-alive timeout out of range",
        f"-k 4000001 {LIVE}",
        "--keep-alive-tmo 4000001: out of range; give 0 or 1 to 4000000 seconds",
        "kato_s",
        "4000001",
    ),
    bad_usage(
        "a negative keep-alive timeout",
        f"-k -1 {LIVE}",
        "--keep-alive-tmo -1: out of range; give 0 or 1 to 4000000 seconds",
        "kato_s",
        "-1",
    ),
    bad_usage(
        "a negative reconnect delay",
        f"-r -1 {LIVE}",
        "--reconnect-delay -1: out of range; give 0 to 86400 seconds",
        "reconnect_delay_s",
        "-1",
    ),
    bad_usage(
        "a controller loss timeout out of range",
        f"-l -2 {LIVE}",
        "--ctrl-loss-tmo -2: out of range; give -1 or 0 to 4000000 seconds",
        "ctrl_loss_tmo_s",
        "-2",
    ),
    bad_usage(
        "a controller ID out of range",
        f"-c 65535 {LIVE}",
        "--cntlid 65535: not a controller ID; give dynamic, static or 0 to 0xffef",
        "cntlid",
        "65535",
    ),
    bad_usage(
        "options that contradict each other",
        f"-F -d {LIVE}",
        "--flow_control: given together with --disable-sqflow; give one of them",
        "flow_control",
        "",
    ),
    bad_usage("TLS", f"--tls {LIVE}", "--tls: TLS is not offered; connect without it", "tls", ""),
    bad_usage(
        "a secret for authentication",
        f"-S DHHC-1:secret {LIVE}",
        "--dhchap-secret: authentication is not offered; connect without it",
        "dhchap_secret",
        "",
    ),
    bad_usage(
        "a time that is no number",
        f"--fast-io-fail soon {LIVE}",
        "--fast-io-fail-tmo soon: not a number; give -1 or 0 to 4000000 seconds",
        "fast_io_fail_s",
        "soon",
    ),
    bad_usage(
        "an unknown option",
        f"--bogus {LIVE}",
        "--bogus: no such option; see `nvmecontrol connect --help`",
        "--bogus",
        None,
    ),
    bad_usage(
        "a missing argument",
        "{live}",
        "SUBNQN: missing; see `nvmecontrol connect --help`",
        "subnqn",
        None,
    ),
    Situation(
        what="an unknown command",
        command="nvmecontrol frobnicate",
        code=64,
        says="command frobnicate: unknown command; see `nvmecontrol --help`",
        kind="usage",
        field="command",
        value="frobnicate",
    ),
    _digest("--hdr_digests", "-g", "header"),
    _digest("--data_digests", "-G", "data"),
)
