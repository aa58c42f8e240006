"""What a completion's status means for I/O of a namespace: one table.

An I/O request is done again at once, again later, waits until the namespace is fit for I/O again,
or fails.  Nothing but `Namespace` retries.
"""

import enum
from typing import Final

from nvmf_transport import status as st
from nvmf_transport.status import Status

#: Statuses that call for another try at once, and our own data digest errors: so many times.
MAX_IMMEDIATE_RETRIES: Final = 3
FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
#: Retries of one request end after this long.
RETRY_LIMIT_S: Final = 30.0


class Action(enum.Enum):
    """What to do about a status."""

    RETRY_NOW = enum.auto()
    RETRY_LATER = enum.auto()
    #: Wait until the namespace is identified, or its ANA state changes.
    WAIT = enum.auto()
    FAIL = enum.auto()


_ACTIONS: Final[dict[tuple[int, int], Action]] = {
    st.TRANSIENT_TRANSPORT_ERROR.code: Action.RETRY_NOW,
    st.ANA_PERSISTENT_LOSS.code: Action.WAIT,
    st.ANA_INACCESSIBLE.code: Action.WAIT,
    st.ANA_TRANSITION.code: Action.WAIT,
    st.INVALID_NAMESPACE.code: Action.WAIT,
    # These have an error of their own: the same command would only meet it again.
    st.INVALID_OPCODE.code: Action.FAIL,
    st.INVALID_FIELD.code: Action.FAIL,
    st.RESERVATION_CONFLICT.code: Action.FAIL,
    st.LBA_OUT_OF_RANGE.code: Action.FAIL,
    st.CAPACITY_EXCEEDED.code: Action.FAIL,
    st.WRITE_PROTECTED.code: Action.FAIL,
    st.CONFLICTING_ATTRIBUTES.code: Action.FAIL,
    st.INVALID_PROTECTION_INFORMATION.code: Action.FAIL,
    st.WRITE_TO_READ_ONLY_RANGE.code: Action.FAIL,
    st.COMPARE_FAILURE.code: Action.FAIL,
    st.ACCESS_DENIED.code: Action.FAIL,
    (st.SCT_MEDIA, 0x82): Action.FAIL,
    (st.SCT_MEDIA, 0x83): Action.FAIL,
    (st.SCT_MEDIA, 0x84): Action.FAIL,
}


def action_for(status: Status) -> Action:
    """The table above; a status that is not in it is retried unless it says Do Not Retry."""
    action = _ACTIONS.get(status.code)
    if action is not None:
        return action
    return Action.FAIL if status.dnr else Action.RETRY_LATER


def retry_delay_s(status: Status, retries: int, crdt_s: tuple[float, float, float]) -> float:
    """How long to wait before retry number `retries` (from 0).

    `crdt_s` are the controller's Command Retry Delay Times in seconds, chosen by the status's CRD
    (Base 2.1, section 4.2.3); without one 100 ms, doubling to 5 s.
    """
    if status.crd and crdt_s[status.crd - 1]:
        return crdt_s[status.crd - 1]
    return min(FIRST_DELAY_S * float(1 << min(retries, 16)), LONGEST_DELAY_S)
