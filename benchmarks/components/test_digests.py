"""CRC32C alone, and as it stands on the wire."""

import pytest

from nvmf_tcp.digest import crc32c, digest_bytes

from .conftest import Measure


@pytest.mark.parametrize(
    ("data_bytes", "count"),
    [(24, 10_000), (4096, 10_000), (1 << 20, 50)],
    ids=["24B", "4KiB", "1MiB"],
)
@pytest.mark.benchmark(group="digest")
def test_crc32c(measure: Measure, data_bytes: int, count: int) -> None:
    data = bytes(data_bytes)

    def work() -> None:
        for _ in range(count):
            crc32c(data)

    measure(work, operations=count)


@pytest.mark.benchmark(group="digest")
def test_digest_of_a_header(measure: Measure) -> None:
    header, count = bytes(72), 10_000

    def work() -> None:
        for _ in range(count):
            digest_bytes(header)

    measure(work, operations=count)
