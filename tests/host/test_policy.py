"""The table of statuses, and the delays between retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmf_host.policy import Action, action_for, retry_delay_s
from nvmf_transport import status as s
from nvmf_transport.status import Status

NO_DELAYS = (0.0, 0.0, 0.0)

HAS_AN_ERROR_OF_ITS_OWN = [
    s.INVALID_OPCODE,
    s.INVALID_FIELD,
    s.RESERVATION_CONFLICT,
    s.LBA_OUT_OF_RANGE,
    s.CAPACITY_EXCEEDED,
    s.WRITE_PROTECTED,
    s.CONFLICTING_ATTRIBUTES,
    s.INVALID_PROTECTION_INFORMATION,
    s.WRITE_TO_READ_ONLY_RANGE,
    s.COMPARE_FAILURE,
    s.ACCESS_DENIED,
    Status(s.SCT_MEDIA, 0x82),
    Status(s.SCT_MEDIA, 0x83),
    Status(s.SCT_MEDIA, 0x84),
]
WAITS = [
    s.ANA_PERSISTENT_LOSS,
    s.ANA_INACCESSIBLE,
    s.ANA_TRANSITION,
    s.INVALID_NAMESPACE,
]
LATER = [
    s.INTERNAL_ERROR,
    s.ABORT_REQUESTED,
    s.ABORTED_SQ_DELETION,
    s.NAMESPACE_NOT_READY,
    s.FORMAT_IN_PROGRESS,
    s.WRITE_FAULT,
    s.UNRECOVERED_READ_ERROR,
    s.HOST_PATHING_ERROR,
    Status(0, 0x21),
    Status(7, 0x42),
]


@pytest.mark.parametrize("dnr", [False, True])
@pytest.mark.parametrize("status", HAS_AN_ERROR_OF_ITS_OWN, ids=str)
def test_a_status_with_an_error_of_its_own_is_never_retried(status, dnr):
    assert action_for(status.with_dnr() if dnr else status) is Action.FAIL


@pytest.mark.parametrize("status", LATER, ids=str)
def test_anything_else_is_retried_unless_it_says_otherwise(status):
    assert action_for(status) is Action.RETRY_LATER
    assert action_for(status.with_dnr()) is Action.FAIL


@pytest.mark.parametrize("dnr", [False, True])
@pytest.mark.parametrize("status", WAITS, ids=str)
def test_what_may_come_back_is_waited_for(status, dnr):
    assert action_for(status.with_dnr() if dnr else status) is Action.WAIT


def test_a_transport_hiccup_is_tried_again_at_once():
    assert action_for(s.TRANSIENT_TRANSPORT_ERROR) is Action.RETRY_NOW


def test_delays_double_from_100_ms_to_5_s():
    delays = [retry_delay_s(s.INTERNAL_ERROR, retry, NO_DELAYS) for retry in range(9)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(("crd", "expected"), [(0, 0.1), (1, 0.5), (2, 0.1), (3, 6553.5)])
def test_the_controllers_own_delay_comes_first(crd, expected):
    """CRD 2 names a delay that the controller does not give."""
    assert retry_delay_s(Status(0, 6, crd=crd), 0, (0.5, 0.0, 6553.5)) == expected


@given(st.integers(0, 0x7FFF), st.integers(0, 10**9))
def test_every_status_has_an_action_and_a_bounded_delay(field, retries):
    status = Status.from_field(field)
    assert action_for(status) in Action
    assert 0 < retry_delay_s(status, retries, NO_DELAYS) <= 5
