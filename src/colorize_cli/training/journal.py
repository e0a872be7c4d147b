"""What a run writes down beside its checkpoint: CSV files, TensorBoard's events and sample sheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from colorize_cli.atomic import replacing

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

LOG, VALIDATION = "log.csv", "validation.csv"


class Journal:
    """The written record of one run; opened again it goes on after the step that the run goes on from."""

    events: SummaryWriter | None

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        for name in (LOG, VALIDATION):
            rewind(folder / name, step)
        self.step, self.events = step, None

    def write(self, name: str, row: dict[str, float]) -> None:
        """Append a row to the CSV `name` and to TensorBoard's events."""
        append_row(self.folder / name, row)
        self.events = self.events or opened_events(self.folder, self.step)
        if self.events is not None:
            for key, value in row.items():
                if key != "step":
                    self.events.add_scalar(f"{name.partition('.')[0]}/{key}", value, int(row["step"]))
            self.events.flush()

    def has(self, name: str, step: int) -> bool:
        """Whether the CSV `name` has a row of `step`."""
        path = self.folder / name
        if not path.exists():
            return False
        with path.open(newline="") as file:
            return any(float(row["step"]) == step for row in csv.DictReader(file))

    def sheet(self, step: int, picture: np.ndarray) -> None:
        """Keep a sample sheet `(H, W, 3)` uint8 as `samples-STEP.png`."""
        Image.fromarray(picture).save(self.folder / f"samples-{step:06}.png")

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self.events is not None:
            self.events.close()


def opened_events(folder: Path, step: int) -> SummaryWriter | None:
    """TensorBoard's file of a run that goes on from `step`; None without its package, of the extra "train"."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:
        return None
    return SummaryWriter(str(folder / "events"), purge_step=step + 1)


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append to a CSV, whose header gets the columns that it lacks."""
    earlier: list[dict[str, str]] = []
    columns: list[str] = []
    if path.exists():
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            if not row.keys() <= set(columns):
                earlier = [{key: line[key] for key in columns} for line in reader]
    figures = {key: f"{value:.0f}" if key == "step" else f"{value:.6g}" for key, value in row.items()}
    if row.keys() <= set(columns):
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(figures)
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys([*columns, *row])))
    writer.writeheader()
    writer.writerows([*earlier, figures])
    with replacing(path) as whole:
        whole.write(text.getvalue().encode())


def rewind(path: Path, step: int) -> None:
    """Drop the rows of a CSV that a killed run wrote after the checkpoint of `step`, and a half-written last one."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if len(row) == len(rows[0]) and float(row[0]) <= step]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(kept)
    with replacing(path) as file:
        file.write(text.getvalue().encode())
