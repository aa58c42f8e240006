"""Addresses as people type them, and NQNs."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvmf_transport.address import Address
from nvmf_transport.errors import ConfigError
from nvmf_transport.nqn import check_nqn, is_strict, uuid_nqn, uuid_of_nqn

ID = uuid.UUID("12345678-9abc-4def-8123-456789abcdef")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host:4420", "host", 4420),
        ("host", "host", 1),
        ("host.example.:4420", "host.example.", 4420),
        ("a_b-c.example", "a_b-c.example", 1),
        ("1.2.3.4:65535", "1.2.3.4", 65535),
        ("1.2.3.4", "1.2.3.4", 1),
        ("::1", "::1", 1),
        ("fe80::1%eth0", "fe80::1%eth0", 1),
        ("[::1]", "::1", 1),
        ("[::1]:4420", "::1", 4420),
        ("[fe80::1%eth0.5]:4420", "fe80::1%eth0.5", 4420),
        (" host:4420 ", "host", 4420),
        # Two or more bare colons: never a port.
        ("::1:4420", "::1:4420", 1),
    ],
)
def test_addresses(text, host, port):
    address = Address.parse(text, default_port=1)

    assert address == Address(host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":4420",
        "host:",
        "host:x",
        "host:0",
        "host:65536",
        "host:-1",
        "host:+1",
        "host:4_4",
        "host:\N{ARABIC-INDIC DIGIT THREE}",
        "host: 4420",
        "ho st:4420",
        "host/x:4420",
        "-host",
        "host-",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "12345",
        "a:b:c",
        "1:2:3",
        "::g",
        "[::1",
        "[::1]4420",
        "[::1]:",
        "[::1]:0",
        "[host]:4420",
        "[1.2.3.4]:4420",
        "[]:4420",
        "fe80::1%",
        "fe80::1%a b",
        "fe80::1%a/b",
        "h" * 254,
        "host\0:4420",
        "tcp://host:4420",
    ],
)
def test_not_addresses(text):
    with pytest.raises(ConfigError) as caught:
        Address.parse(text, default_port=1, field="where")

    assert caught.value.field == "where"
    assert caught.value.value == text.strip()


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("host", "ADDRESS:PORT"),
        ("1.2.3.4", "ADDRESS:PORT"),
        ("::1", "[ADDRESS]:PORT"),
        ("[::1]", "[ADDRESS]:PORT"),
        # It is taken for an address without a port.
        ("::1:4420", "[ADDRESS]:PORT"),
    ],
)
def test_a_port_is_required_without_a_default(text, shape):
    with pytest.raises(ConfigError, match=re.escape(f"explicit port required; write {shape}")):
        Address.parse(text)


def test_port_0_is_for_those_who_listen():
    assert Address.parse("host:0", allow_port_0=True) == Address("host", 0)


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_config_error(text):
    try:
        address = Address.parse(text, default_port=4420)
    except ConfigError:
        return

    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("nqn", ["nqn.2014-08.org.nvmexpress:x", "x", "n" * 223, "ü" * 111, "a b"])
def test_nqns_that_can_be_sent(nqn):
    assert check_nqn(nqn, "subnqn") == nqn


@pytest.mark.parametrize(
    ("nqn", "why"),
    [
        ("", "empty"),
        ("n" * 224, "224 bytes, 223 are allowed"),
        ("ü" * 112, "224 bytes"),
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\x7fb", "control characters"),
        ("\udcff", "UTF-8"),
    ],
)
def test_nqns_that_cannot_be_sent(nqn, why):
    with pytest.raises(ConfigError, match=why) as caught:
        check_nqn(nqn, "hostnqn")

    assert caught.value.field == "hostnqn"


@pytest.mark.parametrize(
    ("nqn", "strict"),
    [
        ("nqn.2014-08.org.nvmexpress.discovery", True),
        (uuid_nqn(ID), True),
        ("nqn.2001-12.com.example:a:b c", True),
        ("nqn.2014-13.org.example:x", False),
        ("nqn.14-08.org.example:x", False),
        ("nqn.2014-08.", False),
        ("nqn.2014-08.org.example:", False),
        ("NQN.2014-08.org.example:x", False),
        ("x", False),
        ("nqn.2014-08.org.example:" + "x" * 200, False),
    ],
)
def test_the_form_of_an_nqn(nqn, strict):
    assert is_strict(nqn) is strict


def test_an_nqn_made_of_a_uuid():
    nqn = "nqn.2014-08.org.nvmexpress:uuid:12345678-9abc-4def-8123-456789abcdef"

    assert uuid_nqn(ID) == nqn
    assert uuid_of_nqn(nqn) == ID
    assert uuid_of_nqn(nqn.replace("abc", "ABC")) == ID


@pytest.mark.parametrize(
    "tail", ["", "x", "{12345678-9abc-4def-8123-456789abcdef}", ID.hex, f"urn:uuid:{ID}", f"{ID}:1"]
)
def test_an_nqn_that_is_not_made_of_a_uuid(tail):
    assert uuid_of_nqn("nqn.2014-08.org.nvmexpress:uuid:" + tail) is None
    assert uuid_of_nqn(f"nqn.2014-08.org.example:uuid:{ID}") is None
