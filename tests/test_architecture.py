"""Packages import only from lines below their own, and what only scores never imports torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speakerverif"
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = """
__main__
cli
demos api
training
inference testing
exchange report
models corpora evaluation
audio scoring
heads data config
_util
errors
"""
LINE_OF = {package: -i for i, line in enumerate(LINES.split("\n")) for package in line.split()}
WITHOUT_TORCH = ["_util", "audio", "data", "corpora", "scoring", "evaluation", "report", "config", "errors"]


def module(path: Path) -> str:
    """Return a file's dotted name within the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports anywhere, as dotted names within it."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.ImportFrom)]
    names = {f"{n.module}.{alias.name}" for n in nodes for alias in n.names if n.module}
    known = set(map(module, FILES))
    inner = {name.removeprefix("speakerverif.") for name in names if name.startswith("speakerverif.")}
    return {name if name in known else name.rpartition(".")[0] for name in inner} - {""}


def test_imports_go_down_and_never_in_a_circle() -> None:
    graph = {module(path): imports(path) for path in FILES if path.parent != PACKAGE or path.stem in LINE_OF}
    for importer, imported in graph.items():
        for name in imported:
            here, there = importer.split(".")[0], name.split(".")[0]
            assert here == there or LINE_OF[there] < LINE_OF[here], f"{importer} imports {name}"
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_file_holds_two_ideas() -> None:
    assert not [module(path) for path in FILES if len(path.read_text("utf-8").splitlines()) > 400]


@pytest.mark.parametrize("package", WITHOUT_TORCH)
def test_what_only_scores_imports_no_torch(package: str) -> None:
    modules = [name for name in map(module, FILES) if name.split(".")[0] == package]
    code = f"import sys, {', '.join(f'speakerverif.{name}' for name in modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_the_command_line_starts_without_numpy() -> None:
    code = "import sys, speakerverif.cli.entry; speakerverif.cli.entry.parser(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
