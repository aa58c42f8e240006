"""What a fault plan does to a subsystem: caches that are lost, data and identities that change."""

import logging
import random
from uuid import UUID

from nvmf_transport.errors import ConfigError, NoSuchDeviceError

from .backing import RamDisk
from .fault_actions import (
    LoseCache,
    NewIdentity,
    OtherData,
    Remap,
    Resize,
    SubsystemAction,
)
from .subsystem import NvmSubsystem, Subsystem
from .volatile_cache import VolatileCache

_log = logging.getLogger(__name__)


def change_subsystem(subsystem: Subsystem, action: SubsystemAction, chance: random.Random) -> None:
    """Carries an action out; one that is about a namespace that is not there does nothing."""
    if not isinstance(subsystem, NvmSubsystem):
        return
    try:
        _change(subsystem, action, chance)
    except (ConfigError, NoSuchDeviceError) as error:
        _log.warning("fault plan: %s: %s %s: %s", action.do, error.field, error.value, error)


def _change(subsystem: NvmSubsystem, action: SubsystemAction, chance: random.Random) -> None:
    match action:
        case LoseCache(nsid=nsid):
            lose_caches(subsystem, nsid)
        case OtherData(nsid=nsid):
            namespace = subsystem.namespace(nsid)
            other = RamDisk(namespace.store.size_bytes)
            cached = isinstance(namespace.store, VolatileCache)
            subsystem.replace_store(nsid, VolatileCache(other) if cached else other)
        case NewIdentity(nsid=nsid):
            subsystem.set_uuid(nsid, UUID(int=chance.getrandbits(128), version=4))
        case Remap(nsid=nsid, to=to):
            subsystem.remap_namespace(nsid, to)
        case Resize(nsid=nsid, blocks=blocks):
            subsystem.resize_namespace(nsid, blocks)


def lose_caches(subsystem: NvmSubsystem, nsid: int | None = None) -> None:
    """The volatile caches lose what they hold: of one namespace, or of all."""
    for namespace in subsystem:
        if nsid in {None, namespace.nsid} and isinstance(namespace.store, VolatileCache):
            lost = namespace.store.lose()
            _log.warning("namespace %d has lost %d bytes", namespace.nsid, lost)
