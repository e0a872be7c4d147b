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


SHORTAGES = ("out of memory", "allocate memory", "not enough memory", "start new thread")  # torch's words and Python's


def is_shortage(error: BaseException) -> bool:
    """Whether the system, or a GPU, had no more to give."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGES)
    )


def shortage(error: BaseException) -> str:
    """What is said of it."""
    said = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"too little memory, or too few threads allowed ({said}); end other programs, raise the limit or ask for fewer"
        " --threads"
    )


def no_such_file(name: str) -> str:
    """What is said of a photo that is not there."""
    return f"{name}: no such file; check the name"
