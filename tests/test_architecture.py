"""The rooms of the house: imports go down one list, and the light rooms never bring torch in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "speakerverif"

# From the top floor to the ground; the names on one line stand side by side and don't import each other,
# except files whose name begins with an underscore. docs/architecture.md shows the same picture.
FLOORS = [
    ["__main__", "__init__"],
    ["cli"],
    ["cli_decide", "cli_exchange", "cli_report", "cli_score"],
    ["cli_sources"],
    ["demo", "spheres", "transformer"],
    ["api"],
    ["_sphere_plots"],
    ["recipe"],
    ["plan"],
    ["prepare"],
    ["verify"],
    ["store"],
    ["report"],
    ["_report_html"],
    ["_report_figures"],
    ["_report_svg", "_report_result", "_report_audio", "_report_map"],
    ["train"],
    ["scoring", "streaming"],
    ["score"],
    ["breakdown", "crossfit"],
    ["columns", "curves"],
    ["embed"],
    ["engines"],
    ["export_torch"],
    ["export", "_onnx_precision", "importers", "push"],
    ["corpora"],
    ["data"],
    ["augment"],
    ["codec"],
    ["resample"],
    ["checkpoint"],
    ["model", "onnx_engine"],
    ["build"],
    ["encoders", "heads", "backends"],
    ["features", "pooling", "spec_augment"],
    ["packing"],
    ["norm", "calibrate", "measures"],
    ["pieces"],
    ["audio", "quality"],
    ["schedules", "log", "distributed"],
    ["audit"],
    ["metrics"],
    ["formats"],
    ["lists"],
    ["config"],
    ["machine"],
    ["_files", "_trialfiles", "_manifestfiles", "archives", "graphs", "progress", "allocator", "hub"],
    ["errors"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
WITHOUT_TORCH = [
    "__init__",
    "lists",
    "metrics",
    "norm",
    "calibrate",
    "config",
    "errors",
    "score",
    "scoring",
    "cli",
]


def room(path: Path) -> str:
    """Return the room that a file belongs to: its module, or its folder."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return the modules of this package that a file imports anywhere, as dotted names without the package's."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name.removeprefix("speakerverif.") for name in found if name.startswith("speakerverif.")]


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = room(path)
    assert here in FLOOR_OF, f"{here} has no floor: add it to FLOORS and to docs/architecture.md"
    for name in imports(path):
        there, *inner = name.split(".")
        if there not in FLOOR_OF:
            continue  # a name defined in speakerverif/__init__.py
        if there == here:
            shared = not inner or inner[0].startswith("_")  # the folder itself: to look up a file by its name
            assert shared or path.name == "__init__.py", f"{path.name} imports its sibling {name}"
        else:
            side_by_side = FLOOR_OF[there] == FLOOR_OF[here] and there.startswith("_")
            assert FLOOR_OF[there] > FLOOR_OF[here] or side_by_side, (
                f"{path} imports {there}, which is not below it"
            )


def test_no_file_holds_two_ideas() -> None:
    long = {
        str(p.relative_to(PACKAGE)): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400
    }
    assert not long


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_light_rooms_import_no_torch(module: str) -> None:
    code = f"import sys, speakerverif.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0


def test_the_command_line_starts_without_numpy() -> None:
    code = "import sys, speakerverif.cli; speakerverif.cli.parser(); sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
