"""How figures become tables: medians, bounds, and ratios within rounds."""

import os

import attrs
import pytest

from benchmarks.bounds import bound_index, ratio, spread
from benchmarks.contenders import DIGESTS, NBDFUSE, OURS, QEMU
from benchmarks.processors import round_trip_ns
from benchmarks.report import markdown
from benchmarks.results import Conditions, Failure, Latency, Machine, Results, Sample, load
from benchmarks.rows import ROWS, choose


def sample(contender, number, per_s, **fields):
    made = Sample(
        row="4k-read-qd1",
        contender=contender,
        round=number,
        operations_per_s=per_s,
        bytes_per_s=per_s * 4096,
        latency=Latency(10, 20, 30),
        host_cpu_us=50.0,
        target_cpu_us=None,
        host_peak_bytes=40 << 20,
        target_peak_bytes=80 << 20,
    )
    return attrs.evolve(made, **fields)


@pytest.fixture
def results():
    return Results(
        Machine(
            cpu="a CPU", cpus=2, memory_bytes=1 << 30, kernel="Linux", load_before=0.0, versions={}
        ),
        Conditions(
            kind="a run",
            begun="2026-01-01",
            rounds=2,
            seconds=1.0,
            size_bytes=1 << 30,
            max_background=4096,
            congestion_threshold=4096,
            read_ahead_kib=1024,
            rows={row.name: row.label for row in ROWS},
            in_operations=["4k-read-qd1"],
            contenders={name: f"the {name}" for name in (OURS, DIGESTS, NBDFUSE, QEMU)},
        ),
    )


@pytest.mark.parametrize(("count", "index"), [(3, None), (4, 0), (6, 0), (7, 1), (9, 2), (15, 4)])
def test_bound_is_the_last_value_that_holds_with_ninety_percent(count, index):
    assert bound_index(count) == index


def test_spread_of_nine_rounds():
    found = spread([9, 1, 8, 2, 7, 3, 6, 4, 5])

    assert (found.median, found.lower, found.upper) == (5, 3, 7)


def test_ratio_takes_the_better_peer_of_each_round(results):
    results.samples += [sample(OURS, 1, 100), sample(NBDFUSE, 1, 50), sample(QEMU, 1, 40)]
    results.samples += [sample(OURS, 2, 100), sample(NBDFUSE, 2, 20), sample(QEMU, 2, 200)]

    found = ratio(results, "4k-read-qd1", OURS, (NBDFUSE, QEMU))

    assert found is not None
    assert (found.median, found.count) == (1.25, 2)


def test_round_that_a_peer_has_no_figure_for_does_not_count(results):
    results.samples += [sample(OURS, 1, 100), sample(NBDFUSE, 1, 50), sample(QEMU, 1, 40)]
    results.samples += [sample(OURS, 2, 100), sample(NBDFUSE, 2, 1)]

    found = ratio(results, "4k-read-qd1", OURS, (NBDFUSE, QEMU))

    assert found is not None
    assert found.median == 2


def test_peer_that_never_bore_the_load_is_left_out(results):
    results.samples += [sample(OURS, 1, 100), sample(NBDFUSE, 1, 50)]

    found = ratio(results, "4k-read-qd1", OURS, (NBDFUSE, QEMU))

    assert found is not None
    assert found.median == 2
    assert ratio(results, "4k-read-qd1", OURS, (QEMU,)) is None


def test_results_come_back_from_their_file(results, tmp_path):
    results.samples.append(sample(OURS, 1, 100, latency=None))
    results.save(tmp_path / "results.json")

    assert load(tmp_path / "results.json") == results


def test_page_has_figures_and_what_was_not_measured(results):
    results.samples += [sample(OURS, 1, 12_345), sample(NBDFUSE, 1, 10_000)]
    results.failures.append(
        Failure(row="cp-to", contender=NBDFUSE, round=1, text="cp: cannot create")
    )

    page = markdown(results, None)

    assert "| 4 KiB random read, QD1 | 12.3 k/s | 10.0 k/s |" in page
    assert "| 4 KiB random read, QD1 | 1.23 (-) |" in page
    assert "| 50.0 + - |" in page
    assert "- cp to it, the nbdfuse, round 1: cp: cannot create" in page


def test_page_tells_how_far_the_processors_were_from_each_other(results):
    results.samples += [
        sample(OURS, number, 100, processors_apart_ns=float(ns))
        for number, ns in enumerate([190, 190, 310, 310, *[200] * 16])
    ]

    assert "190 ns (5 % of them), 200 (half) or 310 (95 %)" in markdown(results, None)


def test_distance_of_processors_is_measured_on_two_of_them():
    before = os.sched_getaffinity(0)

    apart_ns = round_trip_ns()

    assert os.sched_getaffinity(0) == before
    if len(before) > 1:
        assert apart_ns is not None
        assert 20 < apart_ns < 1e6


def test_rows_are_chosen_by_patterns_in_their_own_order():
    assert [row.name for row in choose("cp-*,4k-read-qd1", ROWS)] == [
        "4k-read-qd1",
        "cp-from",
        "cp-to",
    ]
    with pytest.raises(ValueError, match=r"4k-reed: no such row"):
        choose("4k-reed", ROWS)
