"""Situations on the way to a controller: addresses, strangers, steps that fail."""

from typing import Final

from .faulty import Step
from .situation import CHECK, Situation, bad_address, bad_peer, bad_usage

ADDRESSES: Final = (
    bad_address("no port", "localhost", "explicit port required; write ADDRESS:PORT"),
    bad_address("port 0", "localhost:0", "'0' is not a port; give a number from 1 to 65535"),
    bad_address(
        "port out of range",
        "localhost:70000",
        "'70000' is not a port; give a number from 1 to 65535",
    ),
    bad_address(
        "a port by name", "localhost:http", "'http' is not a port; give a number from 1 to 65535"
    ),
    bad_address("half an IPv4 address", "1.2.3:4420", "not an address; not a valid IPv4 address"),
    bad_address(
        "an open bracket",
        "[::1:4420",
        "not an address; a bracketed IPv6 address is written [v6] or [v6]:port",
    ),
    bad_address("a name with a space", "no host:4420", "not an address; not a valid host name"),
    bad_address(
        "a name with a part of 64 characters",
        f"{'a' * 64}:4420",
        "not an address; not a valid host name",
    ),
    bad_usage(
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
        command="nvmecontrol connect -w 192.0.2.1 127.0.0.1:1 {nqn}",
        code=64,
        says="--host-traddr 192.0.2.1: cannot use this local address: "
        "Cannot assign requested address; give one of this machine's",
        kind="usage",
        field="host_traddr",
        value="192.0.2.1",
    ),
    Situation(
        what="no such interface",
        command="nvmecontrol connect -f no-such0 127.0.0.1:2 {nqn}",
        code=64,
        says="--host-iface no-such0: cannot use this interface: No such device; "
        "`ip link` lists what there is",
        kind="usage",
        field="host_iface",
        value="no-such0",
    ),
)

STRANGERS: Final = (
    bad_peer(
        "an HTTP server",
        "http",
        "the peer does not speak NVMe/TCP: it sent b'HTTP/1.1 400 Bad'; check address and port",
    ),
    bad_peer(
        "an SSH server",
        "ssh",
        "the peer does not speak NVMe/TCP: it sent b'SSH-2.0-OpenSSH_'; check address and port",
    ),
    bad_peer(
        "TLS is demanded, with an alert",
        "tls_alert",
        "the peer does not speak NVMe/TCP: it speaks TLS, which is not supported here; "
        "check address and port",
    ),
    bad_peer("TLS is demanded, by closing", "tls_closes", "the peer {any}"),
    bad_peer("a peer that closes at once", "closes", "the peer {any}"),
    bad_peer(
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

HANDSHAKE: Final = (
    bad_peer("the target closes at ICReq", "closes_icreq", "the peer {any}"),
    *(
        bad_peer(
            f"the target closes at {at.value}",
            f"closes_{at.name.lower()}",
            f"{named}: the peer {{any}}; {CHECK}",
            step=named,
        )
        for at, named in _STEPS.items()
    ),
    bad_peer(
        "the target closes at ICReq of an I/O queue",
        "closes_io_icreq",
        f"{_IO}: the peer {{any}}",
        step="ICReq/ICResp",
    ),
    bad_peer(
        "the target is silent at ICReq",
        "silent_icreq",
        "no ICResp within {seconds} s; is that an NVMe/TCP port?",
        slow=True,
    ),
    *(
        bad_peer(
            f"the target is silent at {at.value}",
            f"silent_{at.name.lower()}",
            f"{named}: no answer within {{seconds}} s; {CHECK}",
            step=named,
            slow=True,
        )
        for at, named in _STEPS.items()
    ),
    bad_peer(
        "the target is silent at ICReq of an I/O queue",
        "silent_io_icreq",
        f"{_IO}: no {{any}} within {{seconds}} s; {{any}}",
        step=None,
        slow=True,
    ),
    bad_peer(
        "the controller does not become ready",
        "never_ready",
        "enabling the controller: waiting for CSTS.RDY=1: not within {seconds} s (CSTS 0x0); "
        f"{CHECK}",
        step="enabling the controller",
        slow=True,
    ),
    bad_peer(
        "the controller reports a fatal status",
        "fatal",
        "enabling the controller: waiting for CSTS.RDY=1: the controller reports a fatal status "
        f"(CFS); {CHECK}",
        step="enabling the controller",
    ),
    bad_peer(
        "an I/O queue of another controller",
        "wrong_cntlid",
        f"{_IO}: CONNECT of queue {{seconds}}: answered by CNTLID 4660, not {{seconds}}; {CHECK}",
        step=_IO,
    ),
    bad_peer(
        "a list of namespaces that does not ascend",
        "bad_list",
        "identifying the namespaces: active namespace list: NSID 0x3 after 0x5 (NN 0x400); "
        f"{CHECK}",
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
