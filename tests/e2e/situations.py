"""What can be wrong, and what is said then: the one table that tests and documentation come from.

`scripts/errors-doc` makes docs/errors.md of it; `test_situations.py` plays every row with
the real programs.  In texts, {name} is a peer, an address or a folder of the stage (`stage.py`),
{seconds} a number and {any} anything.
"""

import re
from typing import Final

import attrs

from .faulty import Step


@attrs.frozen(kw_only=True)
class Situation:
    """One thing that is wrong, the command that meets it, and how that ends."""

    what: str
    command: str
    code: int
    #: All of standard error.  nvmecontrol's begins after "nvmecontrol COMMAND: ".
    says: str
    #: Of the JSON error: nvmecontrol only.
    kind: str | None = None
    field: str | None = None
    value: str | None = None
    status: str | None = None
    step: str | None = None
    #: How the command is started, a key of `stage.PREFIXES`.
    prefix: str = ""
    #: Waits for the end of a time limit.
    slow: bool = False
    #: The program says so, and serves; this is its exit code after SIGTERM.
    serves: bool = False

    @property
    def name(self) -> str:
        """A name for the test."""
        return re.sub(r"[^a-z0-9]+", "-", self.what.lower()).strip("-")

    @property
    def program(self) -> str:
        return self.command.split()[0]

    @property
    def line(self) -> str:
        """The whole line, with the command's name."""
        words = self.command.split()
        if words[0] != "nvmecontrol" or not self.says:
            return self.says
        verbs = [word for word in words[1:] if not word.startswith(("-", "{"))]
        named = verbs[:1] if verbs and verbs[0] in _VERBS else []
        if named == ["ns"]:
            named = verbs[:2]
        return f"{' '.join(['nvmecontrol', *named])}: {self.says}"


_VERBS: Final = frozenset(
    {"connect", "connect-all", "reconnect", "disconnect", "devlist", "discover", "identify"}
    | {"logpage", "flush", "dsm", "write-zeroes", "ns", "nsid", "hostnqn"}
)
_CHECK: Final = "check that an NVMe/TCP controller listens there"
_LIVE: Final = "{live} {nqn}"


def _usage(what: str, arguments: str, says: str, field: str, value: str | None) -> Situation:
    """A `connect` that is refused before anything is sent."""
    return Situation(
        what=what,
        command=f"nvmecontrol connect {arguments}",
        code=64,
        says=says,
        kind="usage",
        field=field,
        value=value,
    )


def _address(what: str, address: str, why: str) -> Situation:
    return _usage(
        what, f"'{address}' {{nqn}}", f"ADDRESS {address}: {why}".replace(" :", ":", 1),
        "address", address,
    )  # fmt: skip


def _peer(
    what: str, peer: str, why: str, *, step: str | None = "ICReq/ICResp", slow: bool = False
) -> Situation:
    """A `connect` that fails at a peer which is not, or not quite, a controller."""
    return Situation(
        what=what,
        command=f"nvmecontrol connect {{{peer}}} {{nqn}}",
        code=74,
        says=f"ADDRESS {{{peer}}}: {why}",
        kind="transport",
        field="address",
        value=f"{{{peer}}}",
        step=step,
        slow=slow,
    )


def _rejected(
    what: str, peer: str, why: str, status: str, *, field: str | None = None, value: str = ""
) -> Situation:
    # A value that nobody typed is not called by its option.
    labels = {
        None: f"ADDRESS {{{peer}}}",
        "subnqn": "SUBNQN {nqn}",
        "hostnqn": f"hostnqn {value}",
    }
    return Situation(
        what=what,
        command=f"nvmecontrol connect {{{peer}}} {{nqn}}",
        code=74,
        says=f"{labels[field]}: CONNECT: {why}",
        kind="connect-rejected",
        field=field or "address",
        value=value or f"{{{peer}}}",
        status=status,
    )


_ADDRESSES: Final = (
    _address("no port", "localhost", "explicit port required; write ADDRESS:PORT"),
    _address("port 0", "localhost:0", "'0' is not a port; give a number from 1 to 65535"),
    _address(
        "port out of range",
        "localhost:70000",
        "'70000' is not a port; give a number from 1 to 65535",
    ),
    _address(
        "a port by name", "localhost:http", "'http' is not a port; give a number from 1 to 65535"
    ),
    _address("half an IPv4 address", "1.2.3:4420", "not an address; not a valid IPv4 address"),
    _address(
        "an open bracket",
        "[::1:4420",
        "not an address; a bracketed IPv6 address is written [v6] or [v6]:port",
    ),
    _address("a name with a space", "no host:4420", "not an address; not a valid host name"),
    _address(
        "a name with a part of 64 characters",
        f"{'a' * 64}:4420",
        "not an address; not a valid host name",
    ),
    _usage(
        "an empty address",
        "'' {nqn}",
        "ADDRESS: not an address; write ADDRESS:PORT",
        "address",
        "",
    ),
    Situation(
        what="no such name",
        command="nvmecontrol connect no-such-host.invalid:4420 {nqn}",
        code=68,
        says="ADDRESS no-such-host.invalid:4420: {any}",
        kind="unreachable",
        field="address",
        value="no-such-host.invalid:4420",
        slow=True,
    ),
    Situation(
        what="nobody listens",
        command="nvmecontrol connect {refused} {nqn}",
        code=68,
        says="ADDRESS {refused}: connection refused; nothing listens on this port",
        kind="unreachable",
        field="address",
        value="{refused}",
    ),
    Situation(
        what="no answer to the connection",
        command="nvmecontrol connect {unanswered} {nqn}",
        code=68,
        says="ADDRESS {unanswered}: no TCP connection within {seconds} s; "
        "check the address, the port and any firewall",
        kind="unreachable",
        field="address",
        value="{unanswered}",
        slow=True,
    ),
    Situation(
        what="nobody listens where discovery is asked for",
        command="nvmecontrol discover {refused}",
        code=68,
        says="ADDRESS {refused}: connection refused; nothing listens on this port",
        kind="unreachable",
        field="address",
        value="{refused}",
    ),
    Situation(
        what="a local address of another machine",
        command="nvmecontrol connect -w 192.0.2.1 {live} {nqn}",
        code=64,
        says="--host-traddr 192.0.2.1: cannot use this local address: "
        "Cannot assign requested address; give one of this machine's",
        kind="usage",
        field="host_traddr",
        value="192.0.2.1",
    ),
    Situation(
        what="no such interface",
        command="nvmecontrol connect -f no-such0 {live} {nqn}",
        code=64,
        says="--host-iface no-such0: cannot use this interface: No such device; "
        "`ip link` lists what there is",
        kind="usage",
        field="host_iface",
        value="no-such0",
    ),
)

_STRANGERS: Final = (
    _peer(
        "an HTTP server",
        "http",
        "the peer does not speak NVMe/TCP: it sent b'HTTP/1.1 400 Bad'; check address and port",
    ),
    _peer(
        "an SSH server",
        "ssh",
        "the peer does not speak NVMe/TCP: it sent b'SSH-2.0-OpenSSH_'; check address and port",
    ),
    _peer(
        "TLS is demanded, with an alert",
        "tls_alert",
        "the peer does not speak NVMe/TCP: it speaks TLS, which is not supported here; "
        "check address and port",
    ),
    _peer("TLS is demanded, by closing", "tls_closes", "the peer {any}"),
    _peer("a peer that closes at once", "closes", "the peer {any}"),
    _peer(
        "a peer that says nothing",
        "silent",
        "no ICResp within {seconds} s; is that an NVMe/TCP port?",
        slow=True,
    ),
    Situation(
        what="an HTTP server asked for discovery",
        command="nvmecontrol discover {http}",
        code=74,
        says="ADDRESS {http}: the peer does not speak NVMe/TCP: it sent b'HTTP/1.1 400 Bad'; "
        "check address and port",
        kind="transport",
        field="address",
        value="{http}",
        step="ICReq/ICResp",
    ),
    Situation(
        what="a silent peer asked for discovery",
        command="nvmecontrol discover {silent}",
        code=74,
        says="ADDRESS {silent}: no ICResp within {seconds} s; is that an NVMe/TCP port?",
        kind="transport",
        field="address",
        value="{silent}",
        step="ICReq/ICResp",
        slow=True,
    ),
)

#: The step where the target fails -> the step that the host names.
_STEPS: Final = {
    Step.CONNECT: "CONNECT of the admin queue",
    Step.CAP: "enabling the controller",
    Step.CC: "enabling the controller",
    Step.CSTS: "enabling the controller",
    Step.VS: "Property Get VS",
    Step.IDENTIFY: "Identify Controller",
    Step.KATO: "Keep Alive Timer",
    Step.QUEUES: "Number of Queues",
    Step.IO_CONNECT: "connecting the I/O queues",
    Step.SCAN: "identifying the namespaces",
    Step.NAMESPACE: "identifying the namespaces",
}
_IO: Final = "connecting the I/O queues"

_HANDSHAKE: Final = (
    _peer("the target closes at ICReq", "closes_icreq", "the peer {any}"),
    *(
        _peer(
            f"the target closes at {at.value}",
            f"closes_{at.name.lower()}",
            f"{named}: the peer {{any}}; {_CHECK}",
            step=named,
        )
        for at, named in _STEPS.items()
    ),
    _peer(
        "the target closes at ICReq of an I/O queue",
        "closes_io_icreq",
        f"{_IO}: the peer {{any}}",
        step="ICReq/ICResp",
    ),
    _peer(
        "the target is silent at ICReq",
        "silent_icreq",
        "no ICResp within {seconds} s; is that an NVMe/TCP port?",
        slow=True,
    ),
    *(
        _peer(
            f"the target is silent at {at.value}",
            f"silent_{at.name.lower()}",
            f"{named}: no answer within {{seconds}} s; {_CHECK}",
            step=named,
            slow=True,
        )
        for at, named in _STEPS.items()
    ),
    _peer(
        "the target is silent at ICReq of an I/O queue",
        "silent_io_icreq",
        f"{_IO}: no {{any}} within {{seconds}} s; {{any}}",
        step=None,
        slow=True,
    ),
    _peer(
        "the controller does not become ready",
        "never_ready",
        "enabling the controller: waiting for CSTS.RDY=1: not within {seconds} s (CSTS 0x0); "
        f"{_CHECK}",
        step="enabling the controller",
        slow=True,
    ),
    _peer(
        "the controller reports a fatal status",
        "fatal",
        "enabling the controller: waiting for CSTS.RDY=1: the controller reports a fatal status "
        f"(CFS); {_CHECK}",
        step="enabling the controller",
    ),
    _peer(
        "an I/O queue of another controller",
        "wrong_cntlid",
        f"{_IO}: CONNECT of queue {{seconds}}: answered by CNTLID 4660, not {{seconds}}; {_CHECK}",
        step=_IO,
    ),
    _peer(
        "a list of namespaces that does not ascend",
        "bad_list",
        "identifying the namespaces: active namespace list: NSID 0x3 after 0x5 (NN 0x400); "
        f"{_CHECK}",
        step="identifying the namespaces",
    ),
    Situation(
        what="Identify Controller fails",
        command="nvmecontrol connect {bad_identify} {nqn}",
        code=74,
        says="ADDRESS {bad_identify}: IDENTIFY CNS 01h: Internal Error (0/06h); "
        "the status is the controller's; see `devlist` for its state",
        kind="command",
        field="address",
        value="{bad_identify}",
        status="0/06",
    ),
    Situation(
        what="no NVM command set",
        command="nvmecontrol connect {no_nvm} {nqn}",
        code=69,
        says="SUBNQN {nqn}: the controller has no NVM command set (CAP.CSS 0x80); "
        "connect to a subsystem with one",
        kind="unavailable",
        field="subnqn",
        value="{nqn}",
    ),
)

_CHECK_NQNS: Final = "check SUBNQN and the host NQN against the target's settings"
_CONNECT: Final = (
    _rejected(
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
    _rejected(
        "authentication is demanded after CONNECT (AUTHREQ)",
        "authreq",
        "Authentication Required (1/91h): the controller demands authentication, which this host "
        "cannot do; let this host in without it there",
        "1/91",
    ),
    _rejected(
        "authentication is demanded by status",
        "auth_required",
        "Authentication Required (1/91h): the controller demands authentication, which this host "
        "cannot do; let this host in without it there",
        "1/91",
    ),
    _rejected(
        "a host that is not allowed",
        "invalid_host",
        "Connect Invalid Host (1/84h): the target does not allow this host; add its NQN there, or "
        "give another with -q",
        "1/84",
        field="hostnqn",
        value="{hostnqn}",
    ),
    _rejected(
        "a target that is full",
        "controller_busy",
        "Connect Controller Busy (1/81h): the target has no room; try again later",
        "1/81",
    ),
    _rejected(
        "an I/O queue is refused",
        "refuses_io",
        "Connect Controller Busy (1/81h): the target has no room; try again later",
        "1/81",
    ),
    _usage(
        "an empty SUBNQN",
        "{live} ''",
        "SUBNQN: the NQN is empty; give one of 1 to 223 bytes",
        "subnqn",
        "",
    ),
    _usage(
        "a SUBNQN of 224 bytes",
        "{live} {long_nqn}",
        "SUBNQN {long_nqn}: the NQN has 224 bytes, 223 are allowed; shorten it",
        "subnqn",
        "{long_nqn}",
    ),
    _usage(
        "a SUBNQN with control characters",
        "{live} 'a\tb'",
        r"SUBNQN 'a\tb': the NQN has control characters; remove them",
        "subnqn",
        r"'a\tb'",
    ),
    _usage(
        "a host NQN of 224 bytes",
        "-q {long_nqn} {live} {nqn}",
        "--hostnqn {long_nqn}: the NQN has 224 bytes, 223 are allowed; shorten it",
        "hostnqn",
        "{long_nqn}",
    ),
    _usage(
        "a Host ID that is no UUID",
        f"-I nonsense {_LIVE}",
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

_OPTIONS: Final = (
    Situation(
        what="an unknown transport",
        command=f"nvmecontrol connect -t rdma {_LIVE}",
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
    _usage(
        "a queue size beyond MQES",
        "-Q 128 {small_queues} {nqn}",
        "--queue-size 128: the controller allows 64 entries (CAP.MQES); give at most that",
        "queue_size",
        "128",
    ),
    _usage(
        "a queue size out of range",
        f"-Q 70000 {_LIVE}",
        "--queue-size 70000: out of range; give 0 or 2 to 65536 entries",
        "queue_size",
        "70000",
    ),
    _usage(
        "a queue size of one entry",
        f"-Q 1 {_LIVE}",
        "--queue-size 1: out of range; give 0 or 2 to 65536 entries",
        "queue_size",
        "1",
    ),
    _usage(
        "a negative number of queues",
        f"-i -1 {_LIVE}",
        "--nr-io-queues -1: out of range; give 1 to 1024 queues",
        "nr_io_queues",
        "-1",
    ),
    _usage(
        "no queue at all",
        f"-i 0 {_LIVE}",
        "--nr-io-queues 0: out of range; give 1 to 1024 queues",
        "nr_io_queues",
        "0",
    ),
    _usage(
        "a number in words",
        f"-i four {_LIVE}",
        "--nr-io-queues four: not a number; give 1 to 1024 queues",
        "nr_io_queues",
        "four",
    ),
    _usage(
        "a keep-alive timeout out of range",
        f"-k 4000001 {_LIVE}",
        "--keep-alive-tmo 4000001: out of range; give 0 or 1 to 4000000 seconds",
        "kato_s",
        "4000001",
    ),
    _usage(
        "a negative keep-alive timeout",
        f"-k -1 {_LIVE}",
        "--keep-alive-tmo -1: out of range; give 0 or 1 to 4000000 seconds",
        "kato_s",
        "-1",
    ),
    _usage(
        "a negative reconnect delay",
        f"-r -1 {_LIVE}",
        "--reconnect-delay -1: out of range; give 0 to 86400 seconds",
        "reconnect_delay_s",
        "-1",
    ),
    _usage(
        "a finite controller loss timeout",
        f"-l 600 {_LIVE}",
        "--ctrl-loss-tmo 600: a finite limit is not available yet: a lost controller is never "
        "given up; give 0 or -1, or leave it out",
        "ctrl_loss_tmo",
        "600",
    ),
    _usage(
        "a controller ID out of range",
        f"-c 65535 {_LIVE}",
        "--cntlid 65535: not a controller ID; give dynamic, static or 0 to 0xffef",
        "cntlid",
        "65535",
    ),
    _usage(
        "options that contradict each other",
        f"-F -d {_LIVE}",
        "--flow_control: given together with --disable-sqflow; give one of them",
        "flow_control",
        "",
    ),
    _usage("TLS", f"--tls {_LIVE}", "--tls: TLS is not offered; connect without it", "tls", ""),
    _usage(
        "a secret for authentication",
        f"-S DHHC-1:secret {_LIVE}",
        "--dhchap-secret: authentication is not offered; connect without it",
        "dhchap_secret",
        "",
    ),
    _usage(
        "an option of a later version",
        f"--fast-io-fail 5 {_LIVE}",
        "--fast-io-fail-tmo 5: not available yet: waiting I/O waits until the controller is back; "
        "leave it out",
        "fast_io_fail",
        "5",
    ),
    _usage(
        "an unknown option",
        f"--bogus {_LIVE}",
        "--bogus: no such option; see `nvmecontrol connect --help`",
        "--bogus",
        None,
    ),
    _usage(
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
    Situation(
        what="a command of a later version",
        command="nvmecontrol paused",
        code=64,
        says="command paused: not available yet: lists what waits, and why; use a later version",
        kind="usage",
        field="command",
        value="paused",
    ),
)


def _digest(option: str, flag: str, kind: str) -> Situation:
    return Situation(
        what=f"a {kind} digest that is demanded and not granted",
        command=f"nvmecontrol connect {flag} {{no_digests}} {{nqn}}",
        code=74,
        says=f"{option}: the controller does not grant the {kind} digest that was asked for; "
        "connect without, or enable it at the controller",
        kind="transport",
        field=f"{kind}_digests",
        value=None,
        step="ICReq/ICResp",
    )


_DEVICES: Final = (
    Situation(
        what="no daemon: no such directory",
        command="nvmecontrol --dev {here}/nobody devlist",
        code=72,
        says="DIR {here}/nobody: no such directory; start `fusedev` there, "
        "or name its DIR with --dev",
        kind="no-daemon",
        field="dev",
        value="{here}/nobody",
    ),
    Situation(
        what="no daemon at this directory",
        command="nvmecontrol --dev {here}/folder devlist",
        code=72,
        says="DIR {here}/folder: no fusedev serves it; start `fusedev {here}/folder`, "
        "or name its DIR with --dev",
        kind="no-daemon",
        field="dev",
        value="{here}/folder",
    ),
    Situation(
        what="the daemon was killed",
        command="nvmecontrol --dev {here}/dead devlist",
        code=72,
        says="DIR {here}/dead: the daemon that served it is gone (dead mount); "
        "start `fusedev {here}/dead` again, or `fusermount3 -u {here}/dead`",
        kind="no-daemon",
        field="dev",
        value="{here}/dead",
    ),
    Situation(
        what="the daemon of another user",
        command="nvmecontrol --dev {dev} devlist",
        prefix="another user",
        code=72,
        says="DIR {dev}: permission denied; act as the user who started fusedev",
        kind="no-daemon",
        field="dev",
        value="{dev}",
    ),
    Situation(
        what="no such namespace",
        command="nvmecontrol flush nvme99ns1",
        code=72,
        says="DEVICE nvme99ns1: no such namespace; `devlist` shows what is there",
        kind="no-such-device",
        field="device",
        value="nvme99ns1",
    ),
    Situation(
        what="no such controller to reconnect",
        command="nvmecontrol reconnect nvme99",
        code=72,
        says="DEVICE nvme99: no such controller; there are: nvme0, nvme1{any}",
        kind="no-such-device",
        field="device",
        value="nvme99",
    ),
    Situation(
        what="no such controller to disconnect",
        command="nvmecontrol disconnect nqn.2024-01.org.example:other",
        code=72,
        says="DEVICE nqn.2024-01.org.example:other: no controller, namespace or SUBNQN of this "
        "name; controllers: nvme0, nvme1{any}",
        kind="no-such-device",
        field="device",
        value="nqn.2024-01.org.example:other",
    ),
    Situation(
        what="not the name of a node",
        command="nvmecontrol identify {dev}/nothing",
        code=72,
        says="DEVICE {dev}/nothing: not the name of a controller or namespace; "
        "write nvmeX, nvmeXnsY or the node's path",
        kind="no-such-device",
        field="device",
        value="{dev}/nothing",
    ),
    Situation(
        what="a controller where a namespace is meant",
        command="nvmecontrol flush nvme0",
        code=64,
        says="DEVICE nvme0: a controller; give a namespace, as nvmeXnsY",
        kind="usage",
        field="device",
        value="nvme0",
    ),
    Situation(
        what="reconnect while connected",
        command="nvmecontrol reconnect nvme0",
        code=74,
        says="DEVICE nvme0: nvme0 is connected; disconnect it, or wait for it to be lost",
        kind="busy",
        field="device",
        value="nvme0",
    ),
    Situation(
        what="reconnect where nobody listens",
        command="nvmecontrol reconnect nvme1",
        code=68,
        says="address {lost}: connection refused; nothing listens on this port",
        kind="unreachable",
        field="address",
        value="{lost}",
    ),
    Situation(
        what="an admin command to a lost controller",
        command="nvmecontrol identify nvme1",
        code=74,
        says="DEVICE nvme1: nvme1 is not connected ({any}); reconnect it first",
        kind="not-connected",
        field="device",
        value="nvme1",
    ),
    Situation(
        what="an inactive namespace",
        command="nvmecontrol ns identify -n 5 nvme0",
        code=74,
        says="NSID 5: an inactive namespace; `nvmecontrol ns active` lists the active ones",
        kind="command",
        field="nsid",
        value="5",
    ),
    Situation(
        what="a log page that the controller does not have",
        command="nvmecontrol logpage -p 0xc0 nvme0",
        code=69,
        says="--page c0h: the controller has no such log page "
        "(Get Log Page C0h: Invalid Log Page (1/09h, DNR)); ask for another",
        kind="unavailable",
        field="page",
        value="c0h",
        status="1/09",
    ),
)


def _refused_namespace(what: str, peer: str, why: str) -> Situation:
    return Situation(
        what=what,
        command=f"nvmecontrol connect {{{peer}}} {{nqn}}",
        code=0,
        says=f"nvme{{seconds}} NSID 1: not served: {why}",
    )


_NAMESPACES: Final = (
    _refused_namespace(
        "a namespace with metadata",
        "metadata",
        "it has 8 bytes of metadata an LBA; format it without",
    ),
    _refused_namespace(
        "a namespace with protection information",
        "protection",
        "it has end-to-end protection (DPS 0x1), which this host does not do; format it without",
    ),
    _refused_namespace(
        "a namespace with huge LBAs",
        "odd_format",
        "its LBA size is 2^20 bytes (LBADS); format it with 512 to 65536",
    ),
    Situation(
        what="a controller with a single I/O queue",
        command="nvmecontrol connect {one_queue} {nqn}",
        code=0,
        says="",
    ),
)


def _fusedev(what: str, arguments: str, code: int, says: str, prefix: str = "") -> Situation:
    return Situation(
        what=what,
        command=f"fusedev {arguments}",
        code=code,
        says=f"fusedev: {says}",
        prefix=prefix,
    )


_FUSEDEV: Final = (
    _fusedev(
        "DIR is missing",
        "{here}/nowhere",
        72,
        "{here}/nowhere: no such directory; make it, or name another DIR",
    ),
    _fusedev(
        "DIR is a file",
        "{here}/file",
        72,
        "{here}/file: not a directory; make it, or name another DIR",
    ),
    _fusedev(
        "DIR is served already",
        "{dev}",
        73,
        "{dev}: busy: another fusedev is mounted there; unmount it, or name another DIR",
    ),
    _fusedev(
        "DIR has another file system",
        "{here}/busy",
        73,
        "{here}/busy: busy: a file system of type tmpfs is mounted there; "
        "unmount it, or name another DIR",
    ),
    _fusedev(
        "there is no FUSE",
        "{here}/free",
        72,
        "/dev/fuse: No such file or directory; load the kernel's module fuse, "
        "or give the container this device",
        prefix="without devices",
    ),
    _fusedev(
        "--connect without a SUBNQN",
        "--connect 127.0.0.1:4420 {here}/free",
        64,
        "--connect: 127.0.0.1:4420: no SUBNQN; write ADDRESS:PORT/SUBNQN",
    ),
    _fusedev(
        "--connect without a port",
        "--connect 127.0.0.1/{nqn} {here}/free",
        64,
        "address: 127.0.0.1: explicit port required; write ADDRESS:PORT",
    ),
    _fusedev(
        "an option that fusedev does not have",
        "--bogus",
        64,
        "{any}--bogus{any}; see fusedev --help",
    ),
    Situation(
        what="a dead mount at DIR",
        command="fusedev {here}/dead2",
        code=0,
        says="fusedev: INFO: {here}/dead2: detaching the mount of a daemon that is gone",
        serves=True,
    ),
    Situation(
        what="--connect where nobody listens",
        command="fusedev --connect {refused}/{nqn} {here}/free2",
        code=0,
        says="fusedev: --connect {refused}/{nqn}: {refused}: connection refused; "
        "nothing listens on this port; nvme0 goes on trying",
        serves=True,
    ),
)


def _nvmfd(what: str, arguments: str, code: int, says: str) -> Situation:
    return Situation(what=what, command=f"nvmfd {arguments}", code=code, says=f"nvmfd: {says}")


_NVMFD: Final = (
    _nvmfd(
        "a file of 1000 bytes",
        "-p 0 -P 0 {here}/odd",
        1,
        "device {here}/odd: its size of 1000 bytes is no multiple of the LBA size of 512 bytes; "
        "make it 1024 bytes or choose another LBA size",
    ),
    _nvmfd(
        "a file that is missing",
        "-p 0 -P 0 {here}/nothing",
        1,
        "device {here}/nothing: No such file or directory; "
        "give an existing file, a block device or ramdisk:SIZE",
    ),
    _nvmfd(
        "a directory",
        "-p 0 -P 0 {here}/folder",
        1,
        "device {here}/folder: Is a directory; give a file or block device that can be opened",
    ),
    Situation(
        what="a file that cannot be read",
        command="nvmfd -p 0 -P 0 {here}/secret/file",
        prefix="without rights",
        code=1,
        says="nvmfd: device {here}/secret/file: Permission denied; "
        "give a file or block device that can be opened",
    ),
    _nvmfd(
        "a character device",
        "-p 0 -P 0 /dev/null",
        1,
        "device /dev/null: neither a file nor a block device; give one of these, or ramdisk:SIZE",
    ),
    _nvmfd(
        "an empty file",
        "-p 0 -P 0 {here}/empty",
        1,
        "device {here}/empty: its size is 0; a namespace has at least one block",
    ),
    _nvmfd(
        "a file that another nvmfd serves",
        "-p 0 -P 0 {here}/disk",
        1,
        "device {here}/disk: another process serves this file; end it first",
    ),
    _nvmfd(
        "the same file twice",
        "-p 0 -P 0 {here}/spare {here}/spare",
        64,
        "device {here}/spare: given twice; give each file once",
    ),
    _nvmfd(
        "a port in use",
        "-p {live_port} -P 0 ramdisk:1M",
        1,
        "address {live}: cannot listen: Address already in use; choose another port",
    ),
    _nvmfd(
        "a listening address of another machine",
        "-l 192.0.2.1 -p 0 -P 0 ramdisk:1M",
        1,
        "address 192.0.2.1:0: cannot listen: Cannot assign requested address; "
        "give an address of this machine",
    ),
    _nvmfd(
        "a bad suffix of a size",
        "ramdisk:1X",
        64,
        "device ramdisk:1X: '1X' is not a size; "
        "write ramdisk:64M, with K, M, G or T for powers of 1024",
    ),
    _nvmfd(
        "a RAM disk of size 0",
        "ramdisk:0",
        64,
        "device ramdisk:0: its size is 0; a namespace has at least one block",
    ),
    _nvmfd(
        "a RAM disk of 1000 bytes",
        "ramdisk:1000",
        64,
        "device ramdisk:1000: its size of 1000 bytes is no multiple of the LBA size of 512 bytes; "
        "make it 1024 bytes or choose another LBA size",
    ),
    _nvmfd(
        "a bad LBA size",
        "ramdisk:1M:777",
        64,
        "device ramdisk:1M:777: '1M:777' is not a size; "
        "write ramdisk:64M, with K, M, G or T for powers of 1024",
    ),
    _nvmfd(
        "a RAM disk that is too large",
        "ramdisk:100T",
        64,
        "device ramdisk:100T: too large; give at most 64T",
    ),
    _nvmfd("no device at all", "-p 0", 64, "Missing argument 'DEVICE...'; see nvmfd --help"),
    _nvmfd(
        "a subsystem NQN of 224 bytes",
        "-n {long_nqn} ramdisk:1M",
        64,
        "subsystem NQN {long_nqn}: the NQN has 224 bytes, 223 are allowed; shorten it",
    ),
    _nvmfd(
        "the discovery NQN",
        "-n nqn.2014-08.org.nvmexpress.discovery ramdisk:1M",
        64,
        "subsystem NQN nqn.2014-08.org.nvmexpress.discovery: is the discovery subsystem's; "
        "give another",
    ),
    _nvmfd(
        "a transport that nvmfd does not have",
        "-t rdma ramdisk:1M",
        64,
        "transport rdma: unknown transport; available: tcp",
    ),
    _nvmfd(
        "an option that nvmfd does not have",
        "--bogus ramdisk:1M",
        64,
        "{any}--bogus{any}; see nvmfd --help",
    ),
)

GROUPS: Final[dict[str, tuple[Situation, ...]]] = {
    "Addresses": _ADDRESSES,
    "Peers that are no controllers": _STRANGERS,
    "Targets that fail on the way": _HANDSHAKE,
    "CONNECT": _CONNECT,
    "Options of nvmecontrol": (
        *_OPTIONS,
        _digest("--hdr_digests", "-g", "header"),
        _digest("--data_digests", "-G", "data"),
    ),
    "Directories and devices": _DEVICES,
    "Namespaces": _NAMESPACES,
    "fusedev": _FUSEDEV,
    "nvmfd": _NVMFD,
}
ALL: Final = tuple(situation for group in GROUPS.values() for situation in group)
