"""How much waiting writes may hold."""

import pytest

from fusedev import held
from nvmf_transport.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("24M", 24 << 20), ("1g", 1 << 30), ("2T", 2 << 40), ("25165824", 24 << 20)],
)
def test_sizes(text, size_bytes):
    assert held.parse(text) == size_bytes


@pytest.mark.parametrize("text", ["", "23M", "0", "-1G", "1.5G", "1GB", "much"])
def test_what_is_no_size_or_too_small_is_refused(text):
    with pytest.raises(ConfigError, match="from 24M on"):
        held.parse(text)


@pytest.mark.parametrize(
    ("limit", "size_bytes"),
    [("1073741824\n", 512 << 20), ("1000000", 24 << 20)],
)
def test_by_default_it_is_half_of_what_there_is(limit, size_bytes, tmp_path):
    (tmp_path / "memory.max").write_text(limit)
    assert held.default_bytes(tmp_path / "memory.max") == size_bytes


@pytest.mark.parametrize("limit", ["max\n", None])
def test_without_a_limit_it_is_within_what_is_of_use(limit, tmp_path):
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert 24 << 20 <= held.default_bytes(tmp_path / "memory.max") <= 8 << 30
