"""How torch's threads wait for each other."""

from __future__ import annotations

import os

SPINS = "1000"  # enough for the model's short loops


def spin_briefly() -> None:
    """Let threads sleep soon when they wait; has no effect once torch is loaded.

    By default they spin for milliseconds, beside which no other thread or process gets anything done: two models on
    two cores took ten times as long as one after the other. What the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
