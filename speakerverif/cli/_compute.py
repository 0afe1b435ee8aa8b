"""The CPU threads or GPU that a command uses."""

import argparse


def prepare_compute(arguments: argparse.Namespace) -> None:
    """Set the number of torch's threads, and check that the device is there.

    Raises:
        InputError: a CUDA device was requested and there is none.
    """
    from speakerverif._util import resources

    resources.check_device(getattr(arguments, "device", "cpu"))
    resources.use(arguments.threads)
    resources.share_cores()
