"""The processor or GPU that a command works on."""

import argparse

from speakerverif.errors import InputError


def prepare_compute(arguments: argparse.Namespace) -> None:
    """Set the number of threads, and check that the device is there.

    Raises:
        InputError: a CUDA device was asked for and there is none.
    """
    import torch

    from speakerverif._util import resources

    resources.use(arguments.threads)
    device = getattr(arguments, "device", "cpu")
    if device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"--device {device}: no CUDA device is there; leave it out to use the CPU")
