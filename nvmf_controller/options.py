"""nvmfd's command line, checked: what is to be served, and where."""

import os
from collections.abc import Sequence
from typing import Final

import attrs

from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import DISCOVERY_NQN
from nvmf_transport.nqn import check_nqn

from .devices import Device
from .fault_file import read_fault_plan
from .faults import FaultPlan
from .subsystem import MAX_NAMESPACES, ControllerConfig

_MIN_H2CDATA_BYTES: Final = 4096
_MAX_H2CDATA_BYTES: Final = 1 << 20
_MAX_IN_CAPSULE_BYTES: Final = 1 << 20
DEFAULT_ADDRESS: Final = "127.0.0.1"


@attrs.frozen(kw_only=True)
class Options:
    """The command line, checked."""

    addresses: tuple[Address, ...]
    discovery_addresses: tuple[Address, ...]
    subnqn: str | None
    devices: tuple[Device, ...]
    read_only: bool
    volatile_cache: bool
    faults: FaultPlan | None
    maxh2cdata_bytes: int
    config: ControllerConfig


def check(
    listen: Sequence[str],
    port: int,
    discovery_port: int,
    subnqn: str | None,
    devices: Sequence[str],
    *,
    read_only: bool,
    volatile_cache: bool,
    faults: str | None,
    max_h2cdata: int,
    in_capsule: int,
) -> Options:
    """The command line's values; raises `ConfigError`."""
    addresses = [
        Address.parse(text, default_port=port, field="listen address", allow_port_0=True)
        for text in listen or (DEFAULT_ADDRESS,)
    ]
    # Discovery is answered on every port: one port for both needs one listener.
    for_discovery = {
        Address(address.host, discovery_port): None
        for address in addresses
        if discovery_port == 0 or address.port != discovery_port
    }
    if subnqn is not None:
        check_nqn(subnqn, "subsystem NQN")
        if subnqn == DISCOVERY_NQN:
            raise ConfigError(
                "is the discovery subsystem's; give another", field="subsystem NQN", value=subnqn
            )
    if not _MIN_H2CDATA_BYTES <= max_h2cdata <= _MAX_H2CDATA_BYTES or max_h2cdata % 4:
        raise ConfigError(
            f"not allowed; give a multiple of 4 from {_MIN_H2CDATA_BYTES} to {_MAX_H2CDATA_BYTES}",
            field="MAXH2CDATA",
            value=max_h2cdata,
        )
    if not 0 <= in_capsule <= _MAX_IN_CAPSULE_BYTES or in_capsule % 16:
        raise ConfigError(
            f"not allowed; give a multiple of 16 from 0 to {_MAX_IN_CAPSULE_BYTES}",
            field="in-capsule data",
            value=in_capsule,
        )
    if len(devices) > MAX_NAMESPACES:
        raise ConfigError(
            f"at most {MAX_NAMESPACES} can be served; give fewer",
            field="number of devices",
            value=len(devices),
        )
    return Options(
        addresses=tuple(addresses),
        discovery_addresses=tuple(for_discovery),
        subnqn=subnqn,
        devices=_distinct([Device.parse(text) for text in devices]),
        read_only=read_only,
        volatile_cache=volatile_cache,
        faults=None if faults is None else read_fault_plan(faults),
        maxh2cdata_bytes=max_h2cdata,
        config=ControllerConfig(in_capsule_bytes=in_capsule),
    )


def _distinct(devices: Sequence[Device]) -> tuple[Device, ...]:
    """The devices; one that is given twice would be locked by ourselves, and blamed on another."""
    seen: set[str] = set()
    for device in devices:
        if device.path is not None:
            path = os.path.realpath(device.path)
            if path in seen:
                raise ConfigError(
                    "given twice; give each file once", field="device", value=device.text
                )
            seen.add(path)
    return tuple(devices)
