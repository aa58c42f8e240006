"""Get Features and Set Features (Base 2.1, sections 5.1.11 and 5.1.25)."""

from typing import Final

import attrs

from nvmf_transport.errors import CommandError
from nvmf_transport.nvme import AEC_SMART, FeatureId
from nvmf_transport.status import (
    COMMAND_SEQUENCE_ERROR,
    FEATURE_NOT_CHANGEABLE,
    FEATURE_NOT_SAVEABLE,
    INVALID_FIELD,
    Status,
)

from .association import Association

HOST_BEHAVIOR_BYTES: Final = 512
HOST_ID_BYTES: Final = 16
_DATA_BYTES: Final[dict[int, int]] = {
    FeatureId.HOST_BEHAVIOR_SUPPORT: HOST_BEHAVIOR_BYTES,
    FeatureId.HOST_IDENTIFIER: HOST_ID_BYTES,
}
_HOST_ID_FORMAT: Final = Status(0, 0x18)
_SEL_CURRENT, _SEL_DEFAULT, _SEL_SAVED, _SEL_SUPPORTED = range(4)
_SUPPORTED_CHANGEABLE: Final = 1 << 2
#: Over temperature threshold at the start: as high as it goes, because nothing is measured.
_DEFAULTS: Final = {
    FeatureId.ARBITRATION: 0,
    FeatureId.POWER_MANAGEMENT: 0,
    FeatureId.TEMPERATURE_THRESHOLD: 0xFFFF,
    FeatureId.ERROR_RECOVERY: 0,
    FeatureId.WRITE_ATOMICITY: 0,
}
_DISCOVERY: Final = frozenset(
    {FeatureId.ASYNC_EVENT_CONFIG, FeatureId.KEEP_ALIVE_TIMER, FeatureId.HOST_IDENTIFIER}
)


@attrs.define(eq=False)
class Features:
    """The features of one controller; a controller level reset makes new ones."""

    association: Association
    _values: dict[int, int] = attrs.field(init=False, factory=dict)
    _thresholds: dict[int, int] = attrs.field(init=False, factory=dict)
    _host_behavior: bytes = attrs.field(init=False, default=bytes(HOST_BEHAVIOR_BYTES))

    def data_bytes(self, fid: int) -> int:
        """Length of the data of this feature, 0 where it is in CDW11 alone."""
        return _DATA_BYTES.get(fid, 0)

    def get(self, cdw10: int, cdw11: int) -> tuple[int, bytes]:
        """Returns DW0 and the data; raises `CommandError`."""
        fid, select = cdw10 & 0xFF, cdw10 >> 8 & 7
        self._check_known(fid)
        if select > _SEL_SUPPORTED:
            raise CommandError(INVALID_FIELD.with_dnr())
        if select == _SEL_SUPPORTED:
            changeable = fid != FeatureId.HOST_IDENTIFIER
            return _SUPPORTED_CHANGEABLE if changeable else 0, bytes(self.data_bytes(fid))
        current = select == _SEL_CURRENT
        association = self.association
        match fid:
            case FeatureId.VOLATILE_WRITE_CACHE:
                return int(association.write_cache_enabled or not current), b""
            case FeatureId.NUMBER_OF_QUEUES:
                granted = association.granted_io_queues if current else 0
                count = (granted or association.max_io_queues) - 1
                return count | count << 16, b""
            case FeatureId.ASYNC_EVENT_CONFIG:
                return association.events.config if current else 0, b""
            case FeatureId.KEEP_ALIVE_TIMER:
                return association.kato_ms if current else 0, b""
            case FeatureId.HOST_BEHAVIOR_SUPPORT:
                return 0, self._host_behavior if current else bytes(HOST_BEHAVIOR_BYTES)
            case FeatureId.HOST_IDENTIFIER:
                if not cdw11 & 1:  # Over fabrics it has 128 bits (Base 2.1, 5.1.25.1.28).
                    raise CommandError(_HOST_ID_FORMAT.with_dnr())
                return 0, association.hostid
            case FeatureId.TEMPERATURE_THRESHOLD:
                sensor = cdw11 >> 16 & 0x3F
                default = 0 if sensor & 0x30 else 0xFFFF
                return (self._thresholds.get(sensor, default) if current else default), b""
            case _:
                default = _DEFAULTS[FeatureId(fid)]
                return (self._values.get(fid, default) if current else default), b""

    def set(self, cdw10: int, cdw11: int, data: bytes) -> int:
        """Returns DW0; raises `CommandError`."""
        fid = cdw10 & 0xFF
        self._check_known(fid)
        if cdw10 >> 31:
            raise CommandError(FEATURE_NOT_SAVEABLE.with_dnr())
        association = self.association
        match fid:
            case FeatureId.POWER_MANAGEMENT:
                if cdw11 & 0x1F:  # There is one power state.
                    raise CommandError(INVALID_FIELD.with_dnr())
                self._values[fid] = cdw11
            case FeatureId.VOLATILE_WRITE_CACHE:
                if not association.subsystem.volatile_cache:
                    raise CommandError(INVALID_FIELD.with_dnr())
                association.write_cache_enabled = bool(cdw11 & 1)
            case FeatureId.NUMBER_OF_QUEUES:
                return self._set_queues(cdw11)
            case FeatureId.ASYNC_EVENT_CONFIG:
                offered = association.subsystem.events_offered
                if cdw11 & ~(offered | AEC_SMART):
                    raise CommandError(INVALID_FIELD.with_dnr())
                association.events.config = cdw11
            case FeatureId.KEEP_ALIVE_TIMER:
                association.set_kato(cdw11)
                association.kato_changed()
            case FeatureId.HOST_BEHAVIOR_SUPPORT:
                self._host_behavior = data
            case FeatureId.HOST_IDENTIFIER:
                raise CommandError(COMMAND_SEQUENCE_ERROR.with_dnr())  # CONNECT gave it.
            case FeatureId.TEMPERATURE_THRESHOLD:
                self._thresholds[cdw11 >> 16 & 0x3F] = cdw11 & 0xFFFF
            case FeatureId.ARBITRATION | FeatureId.ERROR_RECOVERY | FeatureId.WRITE_ATOMICITY:
                self._values[fid] = cdw11
            case _:
                raise CommandError(FEATURE_NOT_CHANGEABLE.with_dnr())
        return 0

    def _check_known(self, fid: int) -> None:
        subsystem = self.association.subsystem
        known = fid in _DEFAULTS or fid in {
            FeatureId.NUMBER_OF_QUEUES,
            FeatureId.ASYNC_EVENT_CONFIG,
            FeatureId.KEEP_ALIVE_TIMER,
            FeatureId.HOST_BEHAVIOR_SUPPORT,
            FeatureId.HOST_IDENTIFIER,
        }
        if fid == FeatureId.VOLATILE_WRITE_CACHE:
            known = subsystem.volatile_cache
        if not known or (not subsystem.has_io_queues and fid not in _DISCOVERY):
            raise CommandError(INVALID_FIELD.with_dnr())

    def _set_queues(self, cdw11: int) -> int:
        association = self.association
        if association.io_queues:
            raise CommandError(COMMAND_SEQUENCE_ERROR.with_dnr())
        submission, completion = cdw11 & 0xFFFF, cdw11 >> 16
        if 0xFFFF in {submission, completion}:
            raise CommandError(INVALID_FIELD.with_dnr())
        # A queue over fabrics is a pair, so both numbers are the same.
        granted = min(submission, completion, association.max_io_queues - 1)
        association.granted_io_queues = granted + 1
        return granted | granted << 16
