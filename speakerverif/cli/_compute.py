"""The processor or GPU that a command works on."""

import argparse


def prepare_compute(arguments: argparse.Namespace) -> None:
    """Set the number of threads, and check that the device is there.

    Raises:
        InputError: a CUDA device was asked for and there is none.
    """
    from speakerverif._util import resources

    resources.check_device(getattr(arguments, "device", "cpu"))
    resources.use(arguments.threads)
