"""Training of the judge's two layers on what its frozen network says of colour photographs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from colorize_cli.errors import PhotoError
from colorize_cli.judge import Judge, class_of, published_network
from colorize_cli.training.data import PhotoCache

HELD_BACK = 20  # every 20th photo is not learnt from
BATCH = 128


class Looks(NamedTuple):
    """What the network says of some photos, and their classes."""

    looks: Tensor  # (N, 1280)
    labels: Tensor  # (N,) int64


def train_judge(
    photos: PhotoCache,
    *,
    count: int,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[Judge, float]:
    """A judge of `count` photos drawn from `photos`, half of them mirrored, and its accuracy on those held back."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(len(photos))[:count]
    classes = sorted({class_of(photos.names[i]) for i in numbers})
    if len(classes) < 2 or not all(classes):
        raise PhotoError("the photos' names give no classes; a name is its class, an underscore and a number")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        judge = Judge(published_network(), classes)
    learnt: list[tuple[Tensor, int]] = []
    held_back: list[tuple[Tensor, int]] = []
    for place, number in enumerate(numbers):
        photo = photos[number]
        look = judge.look(photo[:, ::-1] if rng.random() < 0.5 else photo)
        row = (look, classes.index(class_of(photos.names[number])))
        (held_back if place % HELD_BACK == 0 else learnt).append(row)
        if progress is not None:
            progress(place + 1)
    train, validation = (
        Looks(torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))
        for rows in (learnt, held_back)
    )
    fit(judge, train, epochs, learning_rate, rng)
    with torch.no_grad():
        accuracy = (judge(validation.looks).argmax(-1) == validation.labels).float().mean().item()
    return judge.eval(), accuracy


def fit(judge: Judge, train: Looks, epochs: int, learning_rate: float, rng: np.random.Generator) -> None:
    """AdamW with a falling rate, dropout on the looks and smoothed labels."""
    layers = [*judge.hidden.parameters(), *judge.output.parameters()]
    optimizer = torch.optim.AdamW(layers, lr=learning_rate, weight_decay=0.05)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - epoch / epochs)
        order = torch.from_numpy(rng.permutation(len(train.labels)))
        for part in torch.split(order, BATCH):
            looks = train.looks[part]
            kept = torch.from_numpy(rng.random(looks.shape) < 0.8)
            logits = judge(looks * kept / 0.8)
            loss = F.cross_entropy(logits, train.labels[part], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
