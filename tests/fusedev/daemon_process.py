"""A real mount of a fake host, in a process of its own: `python -m` this, with a directory.

nvme0 has two namespaces and nvme1 one.
"""

import logging
import os
import sys

import trio

from fusedev import mount
from fusedev.daemon import Daemon
from nvmf_tcp import poll_short_waits
from tests.fusedev.fakes import FakeControl, FakeHost


async def _run(directory: str) -> int:
    host = FakeHost()
    host.add("nvme0ns1", 1 << 20)
    host.add("nvme0ns2", 1 << 20, lba_bytes=4096)
    host.add("nvme1ns1", 8 << 20)
    point = mount.choose(directory, {}, 0)
    mount.prepare(point)
    close_s = float(os.environ.get("CLOSE_S", "9"))
    loop = poll_short_waits()
    ending = await Daemon(host, FakeControl(host), point, close_s=close_s, loop=loop).run()
    return ending.exit_code


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    try:
        return trio.run(_run, sys.argv[1])
    except mount.StartError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
