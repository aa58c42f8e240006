"""The examples of docs/faults.md, by name."""

import re
from pathlib import Path

from nvmf_controller import FaultPlan, parse_fault_plan

_DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
_EXAMPLE = re.compile(r"```toml\n# example: ([^\n]+)\n(.*?)```", re.DOTALL)


def examples() -> dict[str, str]:
    """The TOML of each example."""
    text = _DOCUMENT.read_text("utf-8")
    found = dict(_EXAMPLE.findall(text))
    assert len(found) == text.count("```toml")
    return found


def example(name: str) -> FaultPlan:
    """The plan of an example."""
    return parse_fault_plan(examples()[name])
