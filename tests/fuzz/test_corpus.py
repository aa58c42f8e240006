"""Every input that a fuzzer once found worth keeping, and the tools that keep them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .source import Source
from .targets import CORPUS, TARGETS, corpus, harness, no_fault_logged


@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_is_survived(target):
    check = harness(target)
    inputs = corpus(target)
    assert inputs
    for path in inputs:
        try:
            with no_fault_logged():
                check(path.read_bytes())
        except Exception as error:
            error.add_note(f"input: {path}")
            raise


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(sizes) < 500_000
    assert max(sizes) <= max(TARGETS.values())


@pytest.mark.parametrize("target", TARGETS)
def test_an_input_without_a_byte_is_survived(target):
    with no_fault_logged():
        harness(target)(b"")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("target", TARGETS)
@settings(max_examples=30)
@given(data=st.binary(max_size=250))
def test_any_input_is_survived(target, data):
    with no_fault_logged():
        harness(target)(data)


def test_a_source_that_is_used_up_says_no():
    source = Source(b"\x05")
    assert source.below(10) == 5
    assert not source
    assert source.below(10) == 0
    assert source.integer(8) == 0
    assert not source.flag()
    assert not source.one_in(2)
    assert source.pick(("first", "second")) == "first"
    assert source.take(10) == b""
    assert source.mutated(b"unchanged") == b"unchanged"


def test_a_number_is_never_too_large():
    for seed in range(256):
        for bits in (8, 16, 32, 64):
            assert 0 <= Source(bytes([seed]) * 12).number(bits, 3, 1 << 63) < 1 << bits
