"""Whether a namespace is the same one: the same subsystem, identifiers, format; not smaller."""

from typing import Any

import attrs
import pytest

from nvmf_host.scan import NamespaceDescription
from nvmf_host.verdict import Sameness, SubsystemIdentity, judge

from .medium import describe

HERE = SubsystemIdentity("nqn.2020-01.com.example:a", "SER1", "Model")
IDS = {"uuid": b"u" * 16, "nguid": b"n" * 16, "eui64": b"e" * 8}
WAS = describe(1, 100, **IDS)
ANONYMOUS = describe(1, 100, uuid=None)


def evolved(was: NamespaceDescription, changes: Any) -> NamespaceDescription:
    return attrs.evolve(was, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Not what makes it the same one.
        {"write_protected": True},
        {"shared": True},
        {"noiob_lbas": 8},
        {"anagrpid": 3},
        # Its identifiers go before its number.
        {"nsid": 2},
    ],
)
def test_the_same(changes):
    verdict = judge(WAS, attrs.evolve(WAS, **changes), HERE, HERE)
    assert verdict.sameness is Sameness.SAME
    assert not verdict.reason


def test_growing_is_no_difference():
    verdict = judge(WAS, attrs.evolve(WAS, size_lbas=101), HERE, HERE)
    assert verdict.sameness is Sameness.GREW
    assert not verdict.reason


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size_lbas": 99}, ["size was 100 LBAs, is 99"]),
        ({"lba_bytes": 4096}, ["LBA size was 512, is 4096"]),
        ({"lba_bytes": 4096, "size_lbas": 800}, ["LBA size was 512, is 4096"]),
        ({"uuid": b"x" * 16}, ["UUID was 75757575-", "is 78787878-", "random UUIDs"]),
        ({"uuid": None}, ["UUID was 75757575-", "is absent"]),
        ({"nguid": b"x" * 16}, ["NGUID was 6e6e", "is 7878"]),
        ({"nguid": None}, ["NGUID", "is absent"]),
        ({"eui64": b"x" * 8}, ["EUI64"]),
        ({"eui64": None}, ["EUI64", "is absent"]),
        ({"uuid": None, "nguid": None, "eui64": None}, ["UUID", "NGUID", "EUI64"]),
        ({"uuid": b"x" * 16, "size_lbas": 200}, ["UUID"]),
    ],
)
def test_differences_are_said_with_old_and_new_value_and_a_cure(changes, said):
    verdict = judge(WAS, attrs.evolve(WAS, **changes), HERE, HERE)
    assert verdict.sameness is Sameness.DIFFERENT
    for text in [*said, "nothing was sent to it", "disconnect"]:
        assert text in verdict.reason


@pytest.mark.parametrize("name", ["uuid", "nguid", "eui64"])
def test_an_identifier_more_is_a_difference(name):
    verdict = judge(evolved(WAS, {name: None}), WAS, HERE, HERE)
    assert verdict.sameness is Sameness.DIFFERENT
    assert "was absent" in verdict.reason


@pytest.mark.parametrize(
    ("change", "said"),
    [({"subnqn": "b"}, "SUBNQN"), ({"serial": "SER2"}, "SER2"), ({"model": "M2"}, "M2")],
)
def test_another_subsystem_is_a_difference(change, said):
    verdict = judge(WAS, WAS, HERE, attrs.evolve(HERE, **change))
    assert verdict.sameness is Sameness.DIFFERENT
    assert said in verdict.reason


def test_without_identifiers_all_must_be_equal_and_is_warned_about():
    verdict = judge(ANONYMOUS, ANONYMOUS, HERE, HERE)
    assert verdict.sameness is Sameness.SAME
    assert "no identifier" in verdict.reason
    for changes in ({"size_lbas": 101}, {"size_lbas": 99}, {"nsid": 2}, {"lba_bytes": 4096}):
        changed = evolved(ANONYMOUS, changes)
        assert judge(ANONYMOUS, changed, HERE, HERE).sameness is Sameness.DIFFERENT
