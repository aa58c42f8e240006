"""What can be wrong, and what is said then: the one table that tests and documentation come from.

`scripts/errors-doc` makes docs/errors.md of it; `test_situations.py` plays every row with the real
programs.
"""

from typing import Final

from .situation import Situation
from .situations_connect import CONNECT, OPTIONS
from .situations_peers import ADDRESSES, HANDSHAKE, STRANGERS
from .situations_programs import DEVICES, FUSEDEV, NAMESPACES, NVMFD

GROUPS: Final[dict[str, tuple[Situation, ...]]] = {
    "Addresses": ADDRESSES,
    "Peers that are no controllers": STRANGERS,
    "Targets that fail on the way": HANDSHAKE,
    "CONNECT": CONNECT,
    "Options of nvmecontrol": OPTIONS,
    "Directories and devices": DEVICES,
    "Namespaces": NAMESPACES,
    "fusedev": FUSEDEV,
    "nvmfd": NVMFD,
}
ALL: Final = tuple(situation for group in GROUPS.values() for situation in group)
