"""The one error that every codec raises."""

from standpipe.platform.errors import StandpipeError


class ParsingError(StandpipeError):
    """These bytes are not what they should be. Nothing of them was used."""
