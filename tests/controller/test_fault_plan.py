"""Fault plans as such: what they select, and what is refused."""

import re
from pathlib import Path

import pytest

from nvmf_controller import FaultPlan, Rule, parse_fault_plan, read_fault_plan
from nvmf_controller.fault_actions import ACTIONS, Drop, Reset
from nvmf_controller.faults import OPCODES, Faults, On
from nvmf_transport.errors import ConfigError
from nvmf_transport.fabrics import ConnectCommand
from nvmf_transport.nvme import AdminOpcode, NvmOpcode, SubmissionEntry
from tests.controller import test_faults
from tests.controller.fault_examples import examples
from tests.controller.raw_host import rw

IDENTIFY = SubmissionEntry(opc=AdminOpcode.IDENTIFY, nsid=1).pack()
WRITE = rw(NvmOpcode.WRITE, 100, 8)
READ = rw(NvmOpcode.READ, 100, 8)
DROP = '\naction = { do = "drop" }'


def strikes(rule: Rule, *commands, seed=0):
    """Which of these (QID, SQE, time) the rule strikes."""
    faults = Faults(FaultPlan(rule=(rule,), seed=seed), started_at=1000.0)
    return [bool(faults.of_command(qid, sqe, 1000.0 + at)) for qid, sqe, at in commands]


@pytest.mark.parametrize("name", examples())
def test_examples_are_plans(name):
    assert parse_fault_plan(examples()[name]).rule


def test_every_example_has_its_test_and_every_action_its_example():
    source = Path(test_faults.__file__).read_text("utf-8")
    assert [name for name in examples() if f'"{name}"' not in source] == []
    used = {rule.action.do for text in examples().values() for rule in parse_fault_plan(text).rule}
    assert used == set(ACTIONS)


@pytest.mark.parametrize(
    ("fields", "admin", "write", "read"),
    [
        ({}, True, True, True),
        ({"queue": "admin"}, True, False, False),
        ({"queue": "io"}, False, True, True),
        ({"queue": 1}, False, True, False),
        ({"queue": 0}, True, False, False),
        ({"opcode": ("write",)}, False, True, False),
        ({"opcode": (2, "identify")}, True, False, True),
        ({"nsid": 1}, True, True, True),
        ({"nsid": 2}, False, False, False),
        ({"lba": (107, 200)}, False, True, True),
        ({"lba": (108, 200)}, False, False, False),
        ({"lba": (0, 99)}, False, False, False),
        ({"after_s": 1.0}, False, True, True),
        ({"until_s": 1.0}, True, False, False),
        ({"count": 1}, True, False, False),
        ({"nth": 2}, False, True, False),
        ({"every": 2}, False, True, False),
        ({"nth": 1, "every": 2}, True, False, True),
        ({"probability": 0.0}, False, False, False),
    ],
)
def test_selectors(fields, admin, write, read):
    seen = strikes(Rule(action=Drop(), **fields), (0, IDENTIFY, 0), (1, WRITE, 1), (2, READ, 2))
    assert seen == [admin, write, read]


def test_connect_is_of_the_queue_that_it_asks_for():
    sqe = ConnectCommand(qid=3).pack()
    for queue, struck in (("io", True), (3, True), ("admin", False), (0, False)):
        assert strikes(Rule(action=Drop(), queue=queue, opcode=("connect",)), (3, sqe, 0)) == [
            struck
        ]


def test_names_of_opcodes_mean_one_command():
    assert "write" in OPCODES
    for name, (queue, number, fctype) in OPCODES.items():
        sqe = bytearray(64)
        sqe[0], sqe[4] = number, fctype or 0
        qid = 0 if queue == "admin" else 1
        assert strikes(Rule(action=Drop(), opcode=(name,)), (qid, bytes(sqe), 0)) == [True]


def test_chance_is_the_same_for_the_same_seed():
    rule = Rule(action=Drop(), probability=0.5)
    commands = [(1, READ, 0)] * 200
    first = strikes(rule, *commands, seed=1)
    assert first == strikes(rule, *commands, seed=1)
    assert first != strikes(rule, *commands, seed=2)
    assert 60 < first.count(True) < 140


def test_counts():
    faults = Faults(FaultPlan(rule=(Rule(action=Drop(), every=2),)), started_at=0)
    for _ in range(5):
        faults.of_command(1, READ, 0)
    assert faults.struck == [2]


def test_moments():
    rule = Rule(on=On.TIME, action=Reset(), after_s=2, every_s=3, until_s=9)
    (moment,) = Faults(FaultPlan(rule=(rule,)), started_at=100).moments()
    assert list(moment.times()) == [102, 105, 108]


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("x = 1", "x", "unknown; known are rule, seed"),
        ("rule = 3", "rule", r"write it as \[\[rule\]\]"),
        ("seed = 'x'", "seed", "whole number"),
        ("[[rule]]", "rule[1].action", "missing"),
        ("[[rule]]\naction = 3", "rule[1].action", "table"),
        ("[[rule]]\naction = {}", "rule[1].action.do", "delay, drop"),
        ("[[rule]]\naction = { do = 'fly' }", "rule[1].action.do", "delay, drop"),
        ("[[rule]]\naction = { do = 'delay' }", "rule[1].action.seconds", "missing"),
        (
            "[[rule]]\naction = { do = 'delay', seconds = -1 }",
            "rule[1].action.seconds",
            "give 0 or more",
        ),
        (
            "[[rule]]\naction = { do = 'delay', seconds = '1' }",
            "rule[1].action.seconds",
            "give a number",
        ),
        (
            "[[rule]]\naction = { do = 'drop', when = 'answered' }",
            "rule[1].action.when",
            "before or after",
        ),
        (
            "[[rule]]\naction = { do = 'drop', when = 'never' }",
            "rule[1].action.when",
            "before, after, answered",
        ),
        (
            "[[rule]]\naction = { do = 'truncate', pdu = 'ICResp' }",
            "rule[1].action.pdu",
            "CapsuleResp, C2HData, R2T",
        ),
        ("[[rule]]\naction = { do = 'drop', x = 1 }", "rule[1].action.x", "unknown"),
        (
            "[[rule]]\naction = { do = 'status', sct = 8, sc = 0 }",
            "rule[1].action.sct",
            "give 0 to 7",
        ),
        (f"[[rule]]{DROP}\n[[rule]]\nnth = 1.5{DROP}", "rule[2].nth", "whole number"),
        (f"[[rule]]\nqueue = 'x'{DROP}", "rule[1].queue", "admin, io, any"),
        (f"[[rule]]\nqueue = 70000{DROP}", "rule[1].queue", "65535"),
        (f"[[rule]]\nqueue = true{DROP}", "rule[1].queue", "name or a whole number"),
        (f"[[rule]]\nopcode = 'x'{DROP}", "rule[1].opcode", "write_zeroes"),
        (f"[[rule]]\nopcode = 256{DROP}", "rule[1].opcode", "255"),
        (f"[[rule]]\nlba = [1]{DROP}", "rule[1].lba", "FIRST, LAST"),
        (f"[[rule]]\nlba = [2, 1]{DROP}", "rule[1].lba", "first and the last"),
        (f"[[rule]]\ncount = 0{DROP}", "rule[1].count", "at least 1"),
        (f"[[rule]]\nprobability = 2{DROP}", "rule[1].probability", "0 to 1"),
        (f"[[rule]]\nafter_s = -1{DROP}", "rule[1].after_s", "0 or more"),
        (f"[[rule]]\nafter_s = 2\nuntil_s = 1{DROP}", "rule[1].until_s", "more than after_s"),
        (f"[[rule]]\nevery_s = 1{DROP}", "rule[1].every_s", "leave it out"),
        (f"[[rule]]\non = 'time'{DROP}", "rule[1].action.do", "close, reset"),
        (f"[[rule]]\non = 'accept'\nqueue = 'io'{DROP}", "rule[1].queue", "leave it out"),
        (f"[[rule]]\non = 'x'{DROP}", "rule[1].on", "command, accept, time"),
        (
            "[[rule]]\nqueue = 'admin'\naction = { do = 'ghost', seconds = 1 }",
            "rule[1].queue",
            "I/O commands",
        ),
    ],
)
def test_plans_that_are_refused(text, field, words):
    with pytest.raises(ConfigError, match=words) as info:
        parse_fault_plan(text)
    assert info.value.field == f"fault plan, {field}"


def test_files_that_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_fault_plan(str(tmp_path / "none"))
    bad = tmp_path / "bad"
    bad.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_fault_plan(str(bad))
    bad.write_text("[[rule")
    with pytest.raises(ConfigError, match=re.escape("not TOML")):
        read_fault_plan(str(bad))
