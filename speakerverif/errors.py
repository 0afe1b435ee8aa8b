"""The one exception that user input raises."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a list, a recipe, an option.

    The message says where (`path:line`), what was found, what was expected and what to do.
    Only `cli.py` catches it, prints it as one line and exits with status 2.
    """
