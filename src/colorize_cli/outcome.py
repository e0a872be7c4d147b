"""What became of a photo, and the line that says so in manifests and on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from colorize_cli.locations import identity


@dataclass(frozen=True)
class Outcome:
    """What became of one photo."""

    source: str
    status: Literal["written", "skipped", "failed", "planned"]
    outputs: list[str] = field(default_factory=list)
    size: tuple[int, int] | None = None  # width, height of the pictures
    bits_per_pixel: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of work, beside and in the model
    sha256: str | None = None  # of the photo's file, as are the next two; none where it was not looked into
    input_bytes: int | None = None
    input_mtime_ns: int | None = None
    notes: list[str] = field(default_factory=list)  # what could not be kept, and what was passed over
    error: str = ""
    final: bool = True  # a failure that only a request tries again
    skipped: Literal["", "done", "exists"] = ""  # why it was


@dataclass(frozen=True)
class RunFacts:
    """What all photos of a run share: the request, the model and where it runs."""

    samples: int
    seed: int
    temperature: float
    options: Mapping[str, Any]  # all that shapes a picture, the above but the number of samples included
    model: str
    model_sha256: str
    device: str
    dtype: Mapping[str, str]  # by stage
    threads: int

    def line(self, outcome: Outcome) -> dict[str, Any]:
        """An outcome as one JSON object."""
        line: dict[str, Any] = {
            "input": outcome.source,
            "input_bytes": outcome.input_bytes,
            "input_mtime_ns": outcome.input_mtime_ns,
            "sha256": outcome.sha256,
            "status": outcome.status,
            "outputs": outcome.outputs,
            "size": list(outcome.size) if outcome.size else None,
            "seed": self.seed,
            "temperature": self.temperature,
            "options": dict(self.options),
            "bits_per_pixel": [round(bits, 6) for bits in outcome.bits_per_pixel],
            "model": self.model,
            "model_sha256": self.model_sha256,
            "device": self.device,
            "dtype": dict(self.dtype),
            "threads": self.threads,
            "seconds": round(outcome.seconds, 3),
        }
        if outcome.skipped:
            line["skipped"] = outcome.skipped
        if outcome.notes:
            line["notes"] = outcome.notes
        if outcome.error:
            line |= {"error": outcome.error, "final": outcome.final}
        return line

    def manifest_line(self, outcome: Outcome, name: str) -> dict[str, Any]:
        """The same for a manifest, under the name that the photo's pictures have there."""
        return {"name": name, **self.line(outcome), "input": identity(outcome.source)}
