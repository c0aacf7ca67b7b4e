"""Print the list of libraries of docs/compatibility.md, from the tests in tests/compatibility.

Run ``python tests/compatibility_page.py``. ``test_docs.py`` fails if the page and the tests differ.
"""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent / "compatibility"


def libraries() -> str:
    """Return a section for each library: the docstring of its module, and those of its tests as a list."""
    return "\n\n".join(_section(ast.parse(path.read_text())) for path in sorted(TESTS.glob("test_*.py")))


def _section(module: ast.Module) -> str:
    name, _, subject = (ast.get_docstring(module) or "").partition(": ")
    tests = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    facts = [f"- {' '.join((ast.get_docstring(test) or '').split())}" for test in tests]
    return "\n".join([f"### {name}", "", subject[0].upper() + subject[1:], "", *facts]).replace("``", "`")


if __name__ == "__main__":
    print(libraries())  # noqa: T201 - the result
