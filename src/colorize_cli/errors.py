"""The errors that colorize raises on purpose: every message says what, where and what to do next."""


class ColorizeError(Exception):
    """Base of every error that is the user's to mend."""

    passing = False  # whether the trouble is not the photo's own, so that the next run tries again


class OptionError(ColorizeError):
    """An option has a value it cannot have, or the machine cannot meet it."""


class PhotoError(ColorizeError):
    """A photo cannot be read, or its result cannot be written."""


class PassingError(PhotoError):
    """A photo failed for a reason that is not its own, and may not fail the next time."""

    passing = True


class LimitError(PhotoError):
    """A photo has more pixels or bytes than are allowed: with another limit it may be read."""


class ModelError(ColorizeError):
    """A model folder, checkpoint or tensor is missing, left over, mis-shaped or altered."""


class OutputError(ColorizeError):
    """Nothing can be written any more: the disk is full, or the output folder is gone or may not be written to."""


def no_such_file(name: str) -> str:
    """What is said of a photo that is not there."""
    return f"{name}: no such file; check the name"
