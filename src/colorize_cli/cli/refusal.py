"""How a request that cannot be met ends: one line, exit code 2."""

from __future__ import annotations

import click


class Refusal(click.ClickException):
    """A bad option, model or device. The line says it all, so usage is not printed with it."""

    exit_code = 2
