"""Work spread over threads is the work itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from colorize_cli.models.layers import AxialLayer, AxialStack, LineBlock
from colorize_cli.models.packed import PackedLinear
from colorize_cli.models.threads import spread
from colorize_cli.openmp import SPINS
from tests.thread_limit import allow_threads

CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_each_piece_has_one_torch_thread_and_the_results_keep_their_order(two_threads: None) -> None:
    meeting = threading.Barrier(2)

    def work(item: int) -> tuple[int, int, bool]:
        meeting.wait(timeout=30)  # two at once, or this breaks
        return item, torch.get_num_threads(), torch.is_inference_mode_enabled()

    with torch.inference_mode():
        assert spread(work, range(6), CPU) == [(item, 1, True) for item in range(6)]
    assert torch.get_num_threads() == 2
    new_thread: list[int] = []
    thread = threading.Thread(target=lambda: new_thread.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert new_thread == [2]


def test_too_few_threads_are_an_error_and_may_be_enough_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(9)  # more than any other test
    try:
        with monkeypatch.context() as patch:
            allow_threads(patch, 3)
            with pytest.raises(RuntimeError, match="start new thread"):
                spread(abs, range(6), CPU)
        assert spread(abs, range(6), CPU) == list(range(6))
        assert torch.get_num_threads() == 9
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_piece_comes_out_and_leaves_the_rest_undone(two_threads: None) -> None:
    done: list[int] = []

    def work(item: int) -> None:
        if item == 0:
            raise ValueError("this one")
        threading.Event().wait(0.05)
        done.append(item)

    with pytest.raises(ValueError, match="this one"):
        spread(work, range(100), CPU)
    assert len(done) < 99


@pytest.mark.parametrize("user", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_torchs_threads_spin_briefly_unless_the_user_says_how(user: dict[str, str]) -> None:
    code = "import os, colorize_cli.colorizer; print(os.environ.get('GOMP_SPINCOUNT'))"
    rest = {k: v for k, v in os.environ.items() if k not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    run = subprocess.run([sys.executable, "-c", code], env=rest | user, capture_output=True, text=True, check=True)
    expected = SPINS if not user else user.get("GOMP_SPINCOUNT", "None")
    assert run.stdout.strip() == expected


def test_a_stack_gives_in_inference_what_it_gives_in_training(two_threads: None) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stack = AxialStack(16, 16, 2, 64, 2)
        x = torch.randn(3, 64, 64, 16)
    expected = stack(x)
    with torch.inference_mode():
        assert torch.allclose(stack(x), expected, atol=1e-5)
        assert torch.allclose(stack.bfloat16()(x.bfloat16()).float(), expected, atol=0.15)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_block_of_lines_is_the_layers_own_attention_and_mlp(heads: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = AxialLayer(16, 24, heads, 20, 20)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        x = torch.randn(1, 3, 20, 16)
    attention, mlp, norms = layer.row_attention, layer.row_mlp, (layer.norms[0], layer.norms[1])
    middle = norms[0](x + attention.lines(x))
    expected = norms[1](middle + mlp(middle))
    with torch.inference_mode():
        bias = attention.bias().repeat(3, 1, 1)
        found = LineBlock(attention, mlp, norms, bias)(x[0], torch.empty_like(bias))
    assert torch.allclose(found, expected[0], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("rows", [1, 64, 100])
def test_a_packed_linear_layer_is_the_layer(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, packed: bool, rows: int
) -> None:
    if not packed:
        monkeypatch.setattr("colorize_cli.models.packed.can_pack", lambda weight: False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = torch.nn.Linear(24, 40).to(dtype)
        x, other = torch.randn(rows, 24).to(dtype), torch.randn(rows, 40).to(dtype)
    layer, kept = PackedLinear.of(linear), other.clone()
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    with torch.inference_mode():
        assert torch.allclose(layer(x), linear(x), atol=tolerance)
        assert torch.allclose(layer.relu(x), linear(x).relu(), atol=tolerance)
        assert torch.allclose(layer.add(x, other), linear(x) + other, atol=tolerance)
    assert torch.equal(other, kept)
