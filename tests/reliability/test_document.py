"""docs/reliability.md names tests that exist."""

import ast
import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ROW = re.compile(
    r"^\| (?!fault )(?P<fault>[^|]+) \| (?P<seen>[^|]+) \| `(?P<test>[^`]+)` \|$", re.MULTILINE
)


def _functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_fault_has_a_test_that_exists():
    text = (_ROOT / "docs" / "reliability.md").read_text()
    rows = [match.groupdict() for match in _ROW.finditer(text)]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    # Four tables have a line of headings each.
    assert len(rows) == len(lines) - 4
    assert len({row["fault"] for row in rows}) == len(rows) >= 40
    missing = []
    for row in rows:
        path, _, name = row["test"].partition("::")
        if not (_ROOT / path).exists() or name not in _functions(_ROOT / path):
            missing.append(row["test"])
    assert missing == []
