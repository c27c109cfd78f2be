"""How long a random test goes on: briefly in ``make test``, at length in ``make test-all``, for hours by its own name.

``make chaos`` and ``make model`` set the names. Every case of a number is played in the brief form too.
"""

import os

ALL = os.environ.get("TEST_ALL") == "1"


def rounds(brief: int, whole: int, name: str = "") -> int:
    """So many rounds, examples or histories."""
    return int(os.environ.get(name, whole if ALL else brief))
