"""`python -m speakerverif`, for torchrun and for machines without the script on the path."""

import sys

from speakerverif.cli.entry import main

sys.exit(main())
