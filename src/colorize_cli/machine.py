"""What this machine can do at most: its matrix-product peak and memory bandwidth, and how much memory a run took."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

MATRIX_SIDES = (1024, 2048)  # of the products whose best rate is the peak
LARGE_SIDES = (4096, 8192)  # on a device to which those are nothing
COPY_BYTES = 2**28  # far more than any cache holds


@dataclass(frozen=True)
class Measurement:
    """Of several runs after one that does not count."""

    seconds: float  # median
    cpu_seconds: float  # of all threads and processes, median
    runs: int
    peak_memory: int  # bytes: of this process alone (CPU), or allocated on the device (CUDA); 0 where nothing tells


@dataclass(frozen=True)
class Limits:
    """The bounds that no program passes here."""

    flops: dict[str, float]  # matrix products by dtype, floating-point operations a second
    bandwidth: float  # of memory, bytes read and written a second

    def least_seconds(self, flops: dict[str, float], moved: float) -> float:
        """The least time of so many operations by dtype and so many bytes moved, done at once."""
        return max(sum(count / self.flops[dtype] for dtype, count in flops.items()), moved / self.bandwidth)


def measure(run: Callable[[], object], repeats: int, device: torch.device, most_seconds: float) -> Measurement:
    """Time `run` after a warm-up: `repeats` times, or fewer when they would take over `most_seconds` together."""
    run()
    synchronize(device)
    _forget_peak(device)
    walls: list[float] = []
    cpus: list[float] = []
    while len(walls) < repeats and (not walls or sum(walls) + walls[-1] <= most_seconds):
        wall, cpu = time.perf_counter(), _processor_seconds()
        run()
        synchronize(device)
        walls.append(time.perf_counter() - wall)
        cpus.append(_processor_seconds() - cpu)
    return Measurement(statistics.median(walls), statistics.median(cpus), len(walls), _peak_memory(device))


@torch.inference_mode()
def measure_limits(device: torch.device, dtypes: list[torch.dtype]) -> Limits:
    """The best of several products and copies; about a second on a CPU."""
    flops = {}
    for dtype in dtypes:
        rates = []
        for side in MATRIX_SIDES if device.type == "cpu" else LARGE_SIDES:
            left, right = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(2))
            out = torch.empty_like(left)
            best = _best(lambda a=left, b=right, c=out: torch.mm(a, b, out=c), device)  # type: ignore[misc]
            rates.append(2 * side**3 / best)
        flops[str(dtype).removeprefix("torch.")] = max(rates)
    source, target = (_much_memory(device) for _ in range(2))
    return Limits(flops, 2 * COPY_BYTES / _best(lambda: target.copy_(source), device))


def _much_memory(device: torch.device) -> torch.Tensor:
    """`COPY_BYTES` of it; on a CPU from the system itself, which has it back at once: no stage's peak is to hold it."""
    if device.type != "cpu":
        return torch.ones(COPY_BYTES // 4, device=device)
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    memory = mmap.mmap(-1, COPY_BYTES, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).fill_(1)


def _best(run: Callable[[], object], device: torch.device, tries: int = 6) -> float:
    run()
    seconds = []
    for _ in range(tries):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _processor_seconds() -> float:
    """Used up by this process and by those of its own that have ended."""
    ended = os.times()
    return time.process_time() + ended.children_user + ended.children_system


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak becomes what is used now
        except OSError:
            return  # then the peak is that of the whole run


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "linux":
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor(device: torch.device) -> str:
    """Its name, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
