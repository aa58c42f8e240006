"""What waits for one controller keeps nothing else waiting."""

import os
import statistics

import pytest

from .isolation import PROMPT_S, neighbours, one_round

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="the kernel's 12 background requests stand"),
    pytest.mark.timeout(90),
]


def test_a_thousand_waiting_requests_take_nothing_from_another_controller(tmp_path):
    with neighbours(tmp_path) as both:
        rounds = []
        for _ in range(7):
            rounds.append(one_round(both, 0.6))
            # Others use this machine too: the median of as many rounds as it takes.
            if statistics.median(each.ratio for each in rounds) >= 0.8:
                break
    assert statistics.median(each.ratio for each in rounds) >= 0.8, rounds
    for what, taken_s in rounds[-1].slowest_s.items():
        assert taken_s < PROMPT_S, what
