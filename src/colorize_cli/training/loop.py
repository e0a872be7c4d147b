"""One visible loop: bfloat16 model, float32 masters, AdamW, warm-up and cosine decay, Polyak averaging."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from colorize_cli.atomic import replacing
from colorize_cli.errors import ModelError, OptionError
from colorize_cli.training.batches import Task
from colorize_cli.training.journal import LOG, VALIDATION, Journal

CHECKPOINT = "checkpoint.pt"
LOG_STEPS = 20
UNREADABLE = (
    OSError,
    RuntimeError,
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    TypeError,
)


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast. The schedule ends with `minutes` or `steps`, whichever comes first."""

    minutes: float | None = None
    steps: int | None = None
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    final_fraction: float = 0.05  # of the learning rate, at the end
    weight_decay: float = 0.01
    clip: float = 1.0
    backbone_rate: float = 0.1  # of the learning rate, for what was pretrained
    ema: float = 0.999
    accumulate: int = 1
    validate_minutes: float = 4.0
    checkpoint_minutes: float = 2.0
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise OptionError("neither minutes nor steps are given; say how long to train")

    def done(self, step: int, seconds: float) -> float:
        """The share of the run that is over, 1 at its end."""
        shares = [seconds / 60 / self.minutes if self.minutes else float(self.minutes == 0)]
        if self.steps is not None:
            shares.append(step / self.steps if self.steps else 1.0)
        return max(shares)


def learning_rate(options: TrainingOptions, step: int, done: float) -> float:
    """Warm-up over steps, cosine decay over the share `done` of the run, 0..1."""
    warm = min(1.0, (step + 1) / options.warmup_steps)
    floor = options.final_fraction
    return options.learning_rate * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def run_training(
    model: nn.Module,
    task: Task,
    folder: Path,
    options: TrainingOptions,
    report: Callable[[dict[str, float]], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train the parameters of `model` that require a gradient; resume where `folder` holds a run.

    Writes `checkpoint.pt` (masters, EMA, optimiser, step, seconds), the journal's files and, at every validation,
    a sample sheet; `report` gets the figures. Batches are a function of the seed and the step, so a resumed run
    sees what it would have seen. Under `torch.distributed` every process learns from its part of each step's batch,
    gradients are averaged, and the first process writes. Returns the number of steps that it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processes, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    model.to(options.device)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    masters = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    model.to(options.dtype)
    parameters = dict(model.named_parameters())
    learned = [masters[name] for name in names]
    groups: dict[tuple[float, bool], list[Tensor]] = {}  # by share of the learning rate, and whether weights decay
    for name in names:
        share = options.backbone_rate if name.startswith("backbone.") else 1.0
        groups.setdefault((share, masters[name].ndim >= 2), []).append(masters[name])
    optimizer = torch.optim.AdamW(
        [{"params": group, "share": share} for (share, _), group in groups.items()],
        lr=0.0, betas=(0.9, 0.98), eps=1e-8,
    )  # fmt: skip
    average = {name: masters[name].clone() for name in names}
    step, seconds, averaged = 0, 0.0, 0
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        state = read_checkpoint(checkpoint)
        if state["average"].keys() != average.keys():
            raise OptionError(f"the run in {folder} learns other parts; resume it with the options of its start")
        for name, master in masters.items():
            master.copy_(state["masters"][name])
        for name in names:
            average[name].copy_(state["average"][name])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds, averaged = state["step"], state["seconds"], state["averaged"]
    for parameter_group, (_, decays) in zip(optimizer.param_groups, groups, strict=True):
        parameter_group["weight_decay"] = options.weight_decay if decays else 0.0  # a resumed run may have another
    load(parameters, masters, masters)
    journal = Journal(folder, step) if rank == 0 else None

    def save() -> None:
        if rank > 0:
            return
        state = {
            "masters": masters,
            "average": average,
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds,
            "averaged": averaged,
        }
        with replacing(checkpoint) as file:
            torch.save(state, file)

    def validate() -> None:
        if journal is None:
            return
        load(parameters, average, names)
        model.eval()
        row = {"step": float(step), "minutes": seconds / 60, **task.validate(model)}
        sheet = task.sheet(model)
        if sheet is not None:
            journal.sheet(step, sheet)
        model.train()
        load(parameters, masters, names)
        report(row)
        journal.write(VALIDATION, row)

    first = step

    def log() -> None:
        if journal is None:
            return
        row = {"step": float(step), "minutes": seconds / 60, "rate": rate, **running}
        journal.write(LOG, row)
        report({**row, "minutes_left": seconds / 60 * (1 / options.done(step, seconds) - 1)})

    last_validation = last_checkpoint = seconds
    running: dict[str, float] = {}
    parts = options.accumulate * processes  # of a step's batch
    while True:
        # All must leave at the same step, and learn at the same rate or drift apart: the first one's clock counts.
        done, stop = agreed(options.done(step, seconds), should_stop(), options.device, processes)
        if stop or done >= 1:
            break
        started = time.monotonic()
        rate = learning_rate(options, step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        for part in range(rank * options.accumulate, (rank + 1) * options.accumulate):
            loss, figures = task.loss(model, step, range(part * task.batch, (part + 1) * task.batch))
            (loss / options.accumulate).backward()  # type: ignore[no-untyped-call]
        gradients = []
        for name in names:
            gradient = parameters[name].grad
            masters[name].grad = None if gradient is None else gradient.float()
            parameters[name].grad = None
            if gradient is not None:
                gradients.append(masters[name])
        if processes > 1:
            average_gradients(gradients, processes)
        norm = torch.nn.utils.clip_grad_norm_(gradients, options.clip).item()
        if not math.isfinite(norm):
            raise ModelError(
                f"the gradient of step {step} is not finite; go on from the last checkpoint with a lower --lr"
            )
        optimizer.step()
        averaged += 1
        keep = min(options.ema, (1 + averaged) / (10 + averaged))
        torch._foreach_lerp_([average[n] for n in names], learned, 1 - keep)
        load(parameters, masters, names)
        step += 1
        took = time.monotonic() - started
        seconds += took
        figures = {**figures, "gradient": norm, "photos_per_second": parts * task.batch / took}
        for key, value in figures.items():
            running[key] = value if key not in running else 0.95 * running[key] + 0.05 * value
        if step % LOG_STEPS == 0:
            log()
        if seconds - last_checkpoint > options.checkpoint_minutes * 60:
            save()
            last_checkpoint = seconds
        if seconds - last_validation > options.validate_minutes * 60:
            validate()
            last_validation = seconds
    if step > first and step % LOG_STEPS:
        log()
    if step > first or not checkpoint.exists():
        save()
    if journal is not None:
        if not journal.has(VALIDATION, step):  # a run that was over already has been validated, if it was not killed
            validate()
        journal.close()
    return step - first


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a run saved, on the CPU; raises `ModelError` for any other file."""
    state = read_tensors(path)
    if not {"masters", "average", "optimizer", "step", "seconds", "averaged"} <= state.keys():
        raise ModelError(f"{path} is no checkpoint of a run")
    return state


def read_tensors(path: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote, on the CPU; raises `ModelError` for any other file."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is damaged, or none"
        raise ModelError(f"{path} cannot be read as weights of torch: {reason}; take another, or train anew") from error
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no weights by name")
    return state


def agreed(done: float, stop: bool, device: str, processes: int) -> tuple[float, bool]:
    """The first process's share of the run that is over, and whether any process wants to stop."""
    if processes == 1:
        return done, stop
    votes = torch.tensor([done if dist.get_rank() == 0 else 0.0, float(stop)], device=device)
    dist.all_reduce(votes)
    first, stops = votes.tolist()
    return first, stops > 0


def average_gradients(masters: list[Tensor], processes: int) -> None:
    """Average the gradients of all processes, as one message."""
    gradients = [m.grad for m in masters if m.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def load(parameters: dict[str, nn.Parameter], values: dict[str, Tensor], names: Iterable[str]) -> None:
    """Round `values` into the model's own parameters."""
    with torch.no_grad():
        for name in names:
            parameters[name].copy_(values[name])
