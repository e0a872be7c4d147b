"""Linear layers whose weights lie as the processor's matrix kernels read them.

Plain `F.linear` on a CPU rearranges its weights at every call (bfloat16), or takes kernels that are slow for a few
dozen rows (float32). oneDNN, which comes with torch, can arrange them once, as `torch.compile` lets it.
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def multiplies_bfloat16() -> bool:
    """Whether this processor has bfloat16 products of its own (AMX or AVX512-BF16); torch before 2.9 cannot tell."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN is there and has fast kernels for this weight's device and dtype."""
    if weight.device.type != "cpu" or platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    if not torch.backends.mkldnn.enabled or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and multiplies_bfloat16())


class PackedLinear(nn.Module):
    """`nn.Linear` for inference: the same numbers up to rounding, and no gradient. Its weight can no longer be read.

    Args:
        weight: `(out, in)`.
        bias: `(out,)`, or none.
        rows: how many rows it is mostly given; any other number works.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, rows: int = 64) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.packed = can_pack(weight)
        weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows) if self.packed else weight

    @classmethod
    def of(cls, linear: nn.Linear, rows: int = 64) -> PackedLinear:
        """A packed copy."""
        return cls(linear.weight, linear.bias, rows)

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in)` to `(..., out)`."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def relu(self, x: Tensor) -> Tensor:
        """What is below nought is nought."""
        if not self.packed:
            return F.relu_(F.linear(x, self.weight, self.bias))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "relu", [], "")
        return out

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """With `other` `(..., out)` added; it stays as it is."""
        if not self.packed:
            return F.linear(x, self.weight, self.bias).add_(other)
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
        return out
