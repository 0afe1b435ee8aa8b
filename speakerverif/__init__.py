"""Speaker verification: is this the same person speaking?"""

__version__ = "0.1.0"
