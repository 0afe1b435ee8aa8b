"""Environment variables that libraries read when they are loaded.

Threads sleep while they wait. By default OpenMP's threads spin between two pieces of work: on an idle machine that
saves microseconds, but when other programs run, each spinning thread takes a core from the thread that it waits for,
and work takes ten times as long. Variables that the user has set (`OMP_WAIT_POLICY=ACTIVE`) are left alone.

Telemetry is off: onnxruntime and the hub's client would report their use over the network.
"""

import os
import sys
from pathlib import Path

# GNU OpenMP (torch, scikit-learn) spins 100 times, some 0.1 us, before it sleeps; Intel's and LLVM's sleep at once.
SLEEPING_WAITS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "0"}
# Threads of OpenBLAS (NumPy, SciPy) wait for 2^16 clock cycles, some 20 us, in place of 2^26.
SLEEPING_BLAS = {"OPENBLAS_THREAD_TIMEOUT": "16"}
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def prepare() -> None:
    """Set the variables that the user has not set; programs call it before they import NumPy or torch."""
    disable_telemetry()
    if not waits_chosen() and "torch" not in sys.modules:
        os.environ.update(SLEEPING_WAITS)
        for name, value in SLEEPING_BLAS.items():
            os.environ.setdefault(name, value)


def disable_telemetry() -> None:
    """Turn off the telemetry of onnxruntime and the hub's client; call it before they are imported."""
    for name, value in NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def waits_chosen() -> bool:
    """Return whether the environment sets how threads wait."""
    return any(name in os.environ for name in SLEEPING_WAITS)


def cache_home() -> Path | None:
    """Return the user's cache folder: `$XDG_CACHE_HOME`, else `~/.cache`; None for a user without a home folder."""
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    home = _home()
    return None if home is None else home / ".cache"


def config_home() -> Path | None:
    """Return the user's configuration folder by the platform's convention; None for a user without a home folder.

    `$XDG_CONFIG_HOME` where it is set; else `%APPDATA%` on Windows, `~/Library/Application Support` on macOS, and
    `~/.config` elsewhere.
    """
    of_windows = os.environ.get("APPDATA") if sys.platform == "win32" else None
    if folder := os.environ.get("XDG_CONFIG_HOME") or of_windows:
        return Path(folder)
    home = _home()
    if home is None:
        return None
    return home / "Library" / "Application Support" if sys.platform == "darwin" else home / ".config"


def _home() -> Path | None:
    """Return the user's home folder; None where there is none, or another user's that can't be entered (`sudo -u`)."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if os.access(home, os.X_OK) else None


def threads_spin() -> bool:
    """Return whether the user asks for threads that spin while they wait (`OMP_WAIT_POLICY=ACTIVE`)."""
    return os.environ.get("OMP_WAIT_POLICY", "").strip().lower() == "active"
