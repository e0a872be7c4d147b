"""The authors' TensorFlow checkpoints to our stages: one table of foreign names, with shape and count checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from colorize_cli.checkpoints import build_stage
from colorize_cli.config import LEVELS, NUM_COLORS, NUM_LEVELS, ColorUpsamplerConfig, CoreConfig, StageConfig
from colorize_cli.errors import ModelError
from colorize_cli.tf_checkpoint import Checkpoint

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
AVERAGE = "/ExponentialMovingAverage"
# Keys that hold no weights of the model.
PASSED_OVER = ("optimizer/", "save_counter/", "_CHECKPOINTABLE_OBJECT_GRAPH")
SLOT = "/.OPTIMIZER_SLOT/"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Variable:
    """A TensorFlow variable: its name as the authors' code has it, and its shape."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Source:
    """What one of our parameters is made from."""

    parameter: str
    variables: tuple[Variable, ...]
    convert: Callable[..., np.ndarray]


class KerasNumbers:
    """Keras' names of unnamed layers: `dense`, `dense_1`, ..., in the order in which they were built."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def next(self, kind: str) -> str:
        """The next layer's name."""
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        return f"{kind}_{number}" if number else kind


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _transpose(kernel: np.ndarray) -> np.ndarray:
    """A Dense kernel `(in, out)` to `(out, in)`."""
    return kernel.T


def _heads_out(*kernels: np.ndarray) -> np.ndarray:
    """Kernels `(in, heads, size)`, one or several, to one `(outputs, in)`."""
    return np.concatenate([kernel.reshape(kernel.shape[0], -1).T for kernel in kernels])


def _heads_in(kernel: np.ndarray) -> np.ndarray:
    """A kernel `(heads, size, out)` to `(out, in)`."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def table(config: StageConfig) -> list[Source]:
    """Every parameter of a stage and the variables that it is made from.

    Raises `ModelError` for a config with parts that the published model does not have.
    """
    if isinstance(config, CoreConfig):
        if config.backbone is not None or config.gray_bias:
            raise ModelError("the published core has no backbone and no gray bias: leave them out of the config")
        return list(_core(config))
    return list(_upsampler(config))


def _dense(ours: str, theirs: str, inputs: int, outputs: int, *, bias: bool = True) -> Iterator[Source]:
    yield Source(f"{ours}.weight", (Variable(f"{theirs}/kernel", (inputs, outputs)),), _transpose)
    if bias:
        yield Source(f"{ours}.bias", (Variable(f"{theirs}/bias", (outputs,)),), _same)


def _norm(ours: str, theirs: str, hidden: int) -> Iterator[Source]:
    yield Source(f"{ours}.weight", (Variable(f"{theirs}/gamma", (hidden,)),), _same)
    yield Source(f"{ours}.bias", (Variable(f"{theirs}/beta", (hidden,)),), _same)


def _positions(ours: str, theirs: str, config: StageConfig) -> Iterator[Source]:
    size, hidden = config.resolution, config.hidden
    yield Source(f"{ours}.rows", (Variable(f"{theirs}/position_embedding_0", (size, 1, hidden)),), _same)
    yield Source(f"{ours}.columns", (Variable(f"{theirs}/position_embedding_1", (size, hidden)),), _same)


def _attention(ours: str, theirs: str, config: StageConfig, axis: int, context: int = 0) -> Iterator[Source]:
    """`axis` 0 attends down a column, 1 along a row, as in the name of the relative bias."""
    hidden, heads = config.hidden, config.heads
    size = hidden // heads
    qkv = tuple(Variable(f"{theirs}/{part}/kernel", (hidden, heads, size)) for part in "qkv")
    yield Source(f"{ours}.qkv.weight", qkv, _heads_out)
    yield Source(f"{ours}.output.weight", (Variable(f"{theirs}/output/kernel", (heads, size, hidden)),), _heads_in)
    bias = Variable(f"{theirs}/relative_attention_bias_{axis}", (heads, 2 * config.resolution))
    yield Source(f"{ours}.relative_bias", (bias,), _same)
    if context:
        conditions = tuple(Variable(f"{theirs}/cond_{part}/kernel", (context, heads, 2 * size)) for part in "qkv")
        yield Source(f"{ours}.condition.weight", conditions, _heads_out)


def _mlp(ours: str, numbers: KerasNumbers, config: StageConfig) -> Iterator[Source]:
    yield from _dense(f"{ours}.expand", numbers.next("dense"), config.hidden, config.feed_forward)
    yield from _dense(f"{ours}.contract", numbers.next("dense"), config.feed_forward, config.hidden)


def _stack(ours: str, theirs: str, numbers: KerasNumbers, config: StageConfig, layers: int) -> Iterator[Source]:
    yield from _positions(f"{ours}.positions", f"{theirs}/{numbers.next('position_embed')}", config)
    for index in range(layers):
        layer = f"{ours}.layers.{index}"
        for axis, part in ((1, "row"), (0, "column")):
            attention = f"{theirs}/{numbers.next('self_attention_nd')}"
            yield from _attention(f"{layer}.{part}_attention", attention, config, axis)
            yield from _mlp(f"{layer}.{part}_mlp", numbers, config)
        for norm in range(4):
            name = f"{theirs}/{numbers.next('layer_normalization')}"
            yield from _norm(f"{layer}.norms.{norm}", name, config.hidden)


def _upsampler(config: StageConfig) -> Iterator[Source]:
    color = isinstance(config, ColorUpsamplerConfig)
    scope, levels = ("color_upsampler", LEVELS) if color else ("spatial_upsampler", NUM_LEVELS)
    hidden, numbers = config.hidden, KerasNumbers()
    for ours, rows in (("channel_embedding", 3 * levels), ("gray_embedding", NUM_LEVELS)):
        kernel = Variable(f"{scope}/{numbers.next('dense')}/kernel", (rows, hidden))
        yield Source(f"{ours}.weight", (kernel,), _same)
    yield from _dense("merge", f"{scope}/{numbers.next('dense')}", 2 * hidden, hidden)
    yield from _dense("head", f"{scope}/{numbers.next('dense')}", hidden, NUM_LEVELS)
    assert not isinstance(config, CoreConfig)
    yield from _stack("stack", f"{scope}/factorized_attention", numbers, config, config.layers)


def _core(config: CoreConfig) -> Iterator[Source]:
    scope, hidden, numbers = "col_tran_core", config.hidden, KerasNumbers()
    kernel = Variable(f"{scope}/{numbers.next('dense')}/kernel", (NUM_COLORS, hidden))
    yield Source("pixel_embedding.weight", (kernel,), _same)
    yield from _norm("norm", f"{scope}/{numbers.next('layer_normalization')}", hidden)
    yield from _dense("head", f"{scope}/auto_logits", hidden, NUM_COLORS)
    yield from _dense("parallel_head", f"{scope}/parallel_logits", hidden, NUM_COLORS, bias=False)

    encoder = f"{scope}/gray_scale_encoder"
    gray = f"{encoder}/{numbers.next('dense')}"
    yield Source("encoder.embedding.weight", (Variable(f"{gray}/kernel", (NUM_LEVELS, hidden)),), _same)
    yield Source("encoder.embedding_bias", (Variable(f"{gray}/bias", (hidden,)),), _same)
    yield from _stack("encoder.stack", f"{encoder}/factorized_attention", numbers, config, config.encoder_layers)

    outer = f"{scope}/outer_decoder"
    yield from _positions("outer.positions", f"{outer}/{numbers.next('position_embed')}", config)
    norms = []
    for index in range(config.outer_layers):
        for axis, part, attention, short in ((1, "row", "unmask_row", "r"), (0, "column", "mask_col", "c")):
            layer = f"outer.{part}_layers.{index}"
            yield from _attention(f"{layer}.attention", f"{outer}/{attention}_att_{index}", config, axis, hidden)
            yield from _mlp(f"{layer}.mlp", numbers, config)
            yield from _dense(f"{layer}.mlp.condition", f"{outer}/affine_{short}_{index}", hidden, 2 * hidden)
            norms += [f"{layer}.attention_norm", f"{layer}.mlp_norm"]
    for ours in norms:  # built after all attention and MLPs of their decoder
        yield from _conditional_norm(ours, outer, numbers, config)

    inner = f"{scope}/inner_decoder"
    yield from _positions("inner.positions", f"{inner}/{numbers.next('position_embed')}", config)
    norms = []
    for index in range(config.inner_layers):
        layer = f"inner.layers.{index}"
        yield from _attention(f"{layer}.attention", f"{inner}/mask_row_att_{index}", config, 1, 2 * hidden)
        yield from _mlp(f"{layer}.mlp", numbers, config)
        yield from _dense(f"{layer}.mlp.condition", f"{inner}/affine_c_{index}", 2 * hidden, 2 * hidden)
        norms += [f"{layer}.attention_norm", f"{layer}.mlp_norm"]
    for ours in norms:
        yield from _conditional_norm(ours, inner, numbers, config)


def _conditional_norm(ours: str, scope: str, numbers: KerasNumbers, config: CoreConfig) -> Iterator[Source]:
    theirs = f"{scope}/{numbers.next('conditional_layer_norm')}"
    size = config.resolution
    yield from _dense(f"{ours}.condition", f"{theirs}/{numbers.next('dense')}", config.hidden, 2 * config.hidden)
    yield from _norm(f"{ours}.normalize", f"{theirs}/normalize", config.hidden)
    yield Source(f"{ours}.spatial_average", (Variable(f"{theirs}/spatial_average", (1, size, size, 1)),), _same)


def _escape(name: str) -> str:
    """A variable's name as a checkpoint's key."""
    return f"{name.replace('/', '.S')}:0{VALUE}"


def choose_keys(checkpoint_keys: dict[str, Shape], config: StageConfig, where: str) -> dict[str, str]:
    """The key to read for each variable of the table: its moving average, or itself where it has none.

    Args:
        checkpoint_keys: every key of the checkpoint and its shape.
        config: the stage's architecture.
        where: what an error names.

    Raises `ModelError` that lists every missing, left-over and mis-shaped variable.
    """
    chosen: dict[str, str] = {}
    missing, shapes = [], []
    left = {key for key in checkpoint_keys if SLOT not in key and not key.startswith(PASSED_OVER)}
    for source in table(config):
        for variable in source.variables:
            average, raw = _escape(variable.name + AVERAGE), _escape(variable.name)
            key = average if average in checkpoint_keys else raw
            left -= {average, raw}
            if key not in checkpoint_keys:
                missing.append(variable.name)
            elif checkpoint_keys[key] != variable.shape:
                shapes.append(f"{variable.name} {checkpoint_keys[key]} instead of {variable.shape}")
            else:
                chosen[variable.name] = key
    names = sorted({key.removesuffix(VALUE).replace(".S", "/").removesuffix(":0") for key in left})
    wrong = [
        f"{label} ({len(items)}): {', '.join(items)}"
        for label, items in (("missing", missing), ("not expected", names), ("wrong shape", shapes))
        if items
    ]
    if wrong:
        raise ModelError(f"{where} does not fit the architecture; {'; '.join(wrong)}")
    return chosen


def import_checkpoint(folder: Path, config: StageConfig) -> dict[str, Tensor]:
    """A stage's state dict, float32, from a TensorFlow checkpoint folder.

    Raises `ModelError` where the checkpoint is damaged or does not fit `config` to the last variable.
    """
    checkpoint = Checkpoint(folder)
    shapes = {key: entry.shape for key, entry in checkpoint.entries.items()}
    chosen = choose_keys(shapes, config, str(checkpoint.prefix))
    state = {}
    for source in table(config):
        arrays = [checkpoint.read(chosen[variable.name]).astype(np.float32) for variable in source.variables]
        state[source.parameter] = torch.from_numpy(np.ascontiguousarray(source.convert(*arrays)))
    with torch.device("meta"):
        expected = build_stage(config).state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in expected.items()}
    return state
