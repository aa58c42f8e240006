"""Reads a Linux kernel's messages for faults that our side of the wire may have caused."""

import re

#: Any kernel code that ends up here has found a bug, in itself or by something it was fed.
_KERNEL = re.compile(
    r"WARNING: |\bBUG\b|\bOops\b|Call Trace|general protection|[Kk]ernel panic|stack segment"
    r"|unable to handle|blocked for more than|soft lockup|rcu.*stall|refcount_t|use-after-free"
)
#: Block layer and file systems above the disk.
_DISK = re.compile(r"I/O error|lost (async )?page write|EXT4-fs.*(error|warning)|JBD2.*[Ee]rror")
#: What the drivers say of themselves (`nvme nvme0: ...`, `nvme0n1: ...`, `nvmet: ...`).
_NVME = re.compile(r"\bnvme", re.IGNORECASE)
_NVME_FAULT = re.compile(
    r"error|fail|timeout|timed out|abort|invalid|illegal|unsupported|unexpected|unrecogni[sz]ed"
    r"|mismatch|\bbad\b|incorrect|wrong|duplicate|missing|reconnect|recovery|stale|expired"
    r"|unable|cannot|couldn't|can't|queue_size .* > ctrl|too (large|small|many)|globally",
    re.IGNORECASE,
)


def faults(messages: str) -> list[str]:
    """Returns the lines of a kernel's log or console that tell of a fault, in their order."""
    return [
        line.strip()
        for line in messages.splitlines()
        if _KERNEL.search(line)
        or _DISK.search(line)
        or (_NVME.search(line) and _NVME_FAULT.search(line))
    ]
