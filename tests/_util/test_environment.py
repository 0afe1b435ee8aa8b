"""What programs set before libraries are loaded, and what the user's own settings win over."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "ORT_DISABLE_TELEMETRY")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["PASSIVE", "100", "0", "1"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "", "", "1"]),
        ({"GOMP_SPINCOUNT": "7", "ORT_DISABLE_TELEMETRY": "0"}, ["", "7", "", "0"]),
    ],
)
def test_a_program_sets_what_the_user_has_not(settings: dict[str, str], expected: list[str]) -> None:
    code = (
        "import os, sys\nfrom speakerverif._util.environment import prepare\nprepare()\n"
        f"print(*(os.environ.get(name, '') for name in {NAMES!r}), sep=',')"
    )
    others = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=others | {"PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().split(",") == expected
