"""Training of the judge on small colour photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_cli.errors import PhotoError
from colorize_cli.judge import Judge, as_input, class_of
from colorize_cli.models.packed import multiplies_bfloat16
from colorize_cli.training.data import PhotoCache

HELD_BACK = 50  # every 50th photo is not learnt from
BATCH = 64
WARMUP = 0.03  # of all steps
WEIGHT_DECAY = 0.05
SHIFT = 6  # pixels that a picture is moved by at most


class Example(NamedTuple):
    """Where a photo is, and its class."""

    cache: PhotoCache
    number: int
    label: int


def train_judge(
    caches: Sequence[PhotoCache],
    *,
    epochs: int,
    learning_rate: float = 2e-3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[Judge, float]:
    """A judge, and its accuracy on photos that it did not learn from.

    `progress` is called with the number of photos seen, `epochs` times those that are learnt from.
    Raises `PhotoError` where the photos' names give no classes.
    """
    names = [class_of(name) for cache in caches for name in cache.names]
    classes = sorted(set(names))
    if len(classes) < 2 or not all(classes):
        raise PhotoError("the photos' names give no classes; a name is its class, an underscore and a number")
    examples = [
        Example(cache, number, classes.index(class_of(cache.names[number])))
        for cache in caches
        for number in range(len(cache))
    ]
    rng = np.random.default_rng(seed)
    rng.shuffle(examples)
    held_back, learnt = examples[::HELD_BACK], [e for i, e in enumerate(examples) if i % HELD_BACK]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(classes)
    fit(judge, learnt, epochs, learning_rate, rng, progress)
    judge.eval()
    with torch.no_grad():
        right = sum(int(judge(judge.look(e.cache[e.number])).argmax()) == e.label for e in held_back)
    return judge, right / len(held_back)


def fit(
    judge: Judge,
    examples: list[Example],
    epochs: int,
    learning_rate: float,
    rng: np.random.Generator,
    progress: Callable[[int], None] | None,
) -> None:
    """AdamW with a rate that rises and falls, mirrored and moved pictures, smoothed labels."""
    groups: tuple[list[Tensor], list[Tensor]] = ([], [])
    for parameter in judge.parameters():
        groups[parameter.ndim > 1].append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": 0.0}, {"params": groups[1], "weight_decay": WEIGHT_DECAY}]
    )
    batch = min(BATCH, len(examples))
    steps = epochs * (len(examples) // batch)
    judge.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for step in range(steps):
        place = step % (len(examples) // batch) * batch
        if place == 0:
            order = rng.permutation(len(examples))
        rate = learning_rate * min(1.0, (step + 1) / (WARMUP * steps)) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = [examples[i] for i in order[place : place + batch]]
        pictures = moved(as_input([e.cache[e.number] for e in chosen]), rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
            logits = judge(judge.features(pictures))
        labels = torch.tensor([e.label for e in chosen])
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress((step + 1) * batch)


def moved(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """A batch, mirrored or not and moved by some pixels: what comes in at an edge is mirrored there."""
    if rng.random() < 0.5:
        pictures = pictures.flip(3)
    size, (top, left) = pictures.shape[2], rng.integers(0, 2 * SHIFT + 1, 2)
    return F.pad(pictures, (SHIFT,) * 4, mode="reflect")[:, :, top : top + size, left : left + size]
