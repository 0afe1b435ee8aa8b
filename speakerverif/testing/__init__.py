"""Checks of encoders, heads, back ends and corpora: what each must do so that the rest of the package works with it.

Each function takes a module, this package's or your own, and raises `InputError` with the first promise that it breaks.
This package's modules are tested by the same functions.

    from speakerverif.testing import check_encoder
    check_encoder("my_package.my_encoder", {"channels": 64})
"""

from speakerverif.testing.backend import check_backend
from speakerverif.testing.corpus import check_corpus
from speakerverif.testing.encoder import check_encoder
from speakerverif.testing.head import check_head
from speakerverif.testing.recipe import check_outside_parts

__all__ = ["check_backend", "check_corpus", "check_encoder", "check_head", "check_outside_parts"]
