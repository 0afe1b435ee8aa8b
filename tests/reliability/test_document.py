"""docs/reliability.md: each promise names tests, and they exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> list[str]:
    lines = (ROOT / "docs" / "reliability.md").read_text("utf-8").splitlines()
    return [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| promise"))]


def test_every_promise_names_a_test_that_exists() -> None:
    assert len(rows()) >= 20
    for row in rows():
        named = TEST.findall(row)
        assert named, f"no test holds this: {row}"
        for path, function in named:
            assert (ROOT / path).is_file(), path
            if function:
                tree = ast.parse((ROOT / path).read_text("utf-8"))
                names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
                assert function in names, f"{path}::{function}"


def test_the_threat_model_names_what_is_not_defended() -> None:
    text = (ROOT / "docs" / "threat_model.md").read_text("utf-8").lower()
    for threat in ("replay", "synthe", "enrolment poisoning", "threshold mining", "model theft"):
        assert threat in text
