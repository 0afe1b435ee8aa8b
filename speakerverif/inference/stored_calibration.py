"""The places of calibrations: a model's folder, a store, and the user's folder for models that can't hold one.

The built-in model lies in the installed package, and an ONNX file is one file. The user's own calibrations of them are
kept in the user's configuration folder, as `speakerverif/calibrations/FINGERPRINT.toml`.
"""

import os
from pathlib import Path

from speakerverif._util import environment
from speakerverif.errors import InputError
from speakerverif.models.folder import CALIBRATION, CONFIG, DEFAULT, ModelFolder
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import Scoring


def user_file(fingerprint: str) -> Path | None:
    """Return the file of the user's own calibration of a model; None for a user without a home folder."""
    home = environment.config_home()
    return None if home is None else home / "speakerverif" / "calibrations" / f"{fingerprint}.toml"


def is_kept_by_user(model: Path) -> bool:
    """Return whether a model's calibration is kept in the user's folder: it is the built-in one, or an ONNX file."""
    return model.suffix == ".onnx" or model.resolve() == DEFAULT.resolve()


def place_of(model: Path, fingerprint: str) -> Path:
    """Return the file in which the calibration of a model is kept.

    Args:
        model: its folder or its ONNX file.
        fingerprint: of the model.

    Raises:
        InputError: it belongs in the user's folder, and there is no home folder.
    """
    if not is_kept_by_user(model):
        return model / CALIBRATION
    path = user_file(fingerprint)
    if path is None:
        raise InputError(
            "no home folder to keep the calibration in: set XDG_CONFIG_HOME, or write it with --out"
        )
    return path


def find(
    folder: ModelFolder, calibration: str | Path | None, store: str | Path | None
) -> tuple[Calibration | None, Path]:
    """Return the calibration to use and where it comes from; the model's path where there is none.

    Args:
        folder: the loaded model.
        calibration: a file; None: the store's, else the user's own of this model, else the model's.
        store: folder of a store; None: none.

    Raises:
        InputError: the file is damaged, or not a calibration.
    """
    path = None if calibration is None else Path(calibration)
    if path is None and store is not None and (Path(store) / CALIBRATION).is_file():
        path = Path(store) / CALIBRATION
    if path is None and is_kept_by_user(folder.path):
        of_user = user_file(folder.fingerprint)
        # Not Path.is_file, which fails in a folder that can't be entered.
        path = of_user if of_user is not None and os.path.isfile(of_user) else None  # noqa: PTH113
    return (folder.calibration, folder.path) if path is None else (Calibration.load(path), path)


def refuse_unfit(calibration: Calibration, where: Path, scoring: Scoring) -> None:
    """Raise `InputError` for a calibration of another model, or of scores that the model doesn't make.

    Args:
        calibration: to be used, or to be kept.
        where: its file, for the message.
        scoring: of the model.
    """
    fingerprint = scoring.plan.fingerprint
    if calibration.fingerprint not in ("", fingerprint):
        raise InputError(f"{where}: was fitted on model {calibration.fingerprint}, this is {fingerprint}")
    if calibration.scoring not in ("", scoring.name):
        raise InputError(
            f"{where}: calibrated on scores of {calibration.scoring}, but the model now scores by "
            f"{scoring.name}; calibrate it again"
        )
    if calibration.kinds != (scoring.kind,):
        raise InputError(
            f"{where}: calibrated on scores of kind {', '.join(calibration.kinds)}, but the model's scores are of "
            f"kind {scoring.kind}"
        )


def keep(calibration: Calibration, path: Path, scoring: Scoring) -> None:
    """Write a calibration where the next command looks for it; outside a model's folder this user alone can read it.

    Raises:
        InputError: the next command would refuse it; the file can't be written.
    """
    refuse_unfit(calibration, path, scoring)
    calibration.save(path, private=not (path.parent / CONFIG).is_file())


def remove(path: Path) -> None:
    """Delete a kept calibration.

    Raises:
        InputError: there is none; it can't be deleted.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        raise InputError(f"{path}: no calibration is kept there") from None
    except OSError as error:
        raise InputError(f"{path}: can't delete it: {error.strerror}") from error
