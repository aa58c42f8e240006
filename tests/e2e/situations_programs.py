"""Situations of nodes and namespaces, of fusedev and of nvmfd."""

from typing import Final

from .situation import Situation

DEVICES: Final = (
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
        what="resume of a namespace that is not paused",
        command="nvmecontrol resume nvme0ns1",
        code=74,
        says="DEVICE nvme0ns1: it is live, not paused; there is nothing to resume",
        kind="busy",
        field="device",
        value="nvme0ns1",
    ),
    Situation(
        what="fail where nothing waits",
        command="nvmecontrol fail nvme0ns1",
        code=74,
        says="DEVICE nvme0ns1: it is live; nothing waits",
        kind="busy",
        field="device",
        value="nvme0ns1",
    ),
    Situation(
        what="set without anything to set",
        command="nvmecontrol set nvme0",
        code=64,
        says="OPTIONS: none; give -r, -l, --fast-io-fail-tmo, --replay-limit or --command-age",
        kind="usage",
        field="parameter",
        value="",
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


NAMESPACES: Final = (
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


FUSEDEV: Final = (
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
    _fusedev(
        "--connect with an empty SUBNQN",
        "--connect {live}/ {here}/free",
        64,
        "subnqn: the NQN is empty; give one of 1 to 223 bytes",
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


NVMFD: Final = (
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
        "an empty subsystem NQN",
        "-n '' ramdisk:1M",
        64,
        "subsystem NQN: the NQN is empty; give one of 1 to 223 bytes",
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
