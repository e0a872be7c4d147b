"""Model folders: find, verify, read, write. The only user of huggingface_hub.

A model folder holds `model.json` and one safetensors file for each stage; a core's backbone is a file of
its own. `model.json` gives each stage's architecture and the sha256 of each file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from colorize_cli.atomic import replacing
from colorize_cli.config import (
    DEFAULT_MODEL,
    MOST_GUIDANCE,
    STAGES,
    ColorUpsamplerConfig,
    CoreConfig,
    SpatialUpsamplerConfig,
    StageConfig,
)
from colorize_cli.digests import file_sha256
from colorize_cli.errors import ModelError
from colorize_cli.models.coarse import ColTranCore
from colorize_cli.models.upsamplers import ColorUpsampler, SpatialUpsampler

DESCRIPTION = "model.json"
FORMAT = 1
BACKBONE = "backbone"  # file and parameter prefix of the core's pretrained part
STORED = torch.bfloat16
STORED_BACKBONE = torch.float16  # as small, eight times as fine; its weights are well within the range


@dataclass(frozen=True, eq=False)
class Model:
    """The three stages, and what their folder says of them."""

    name: str
    sha256: str  # of model.json, which holds the sha256 of every file
    temperature: float  # recommended
    guidance: float  # recommended
    core: ColTranCore
    color_upsampler: ColorUpsampler
    spatial_upsampler: SpatialUpsampler


def build_stage(config: StageConfig) -> nn.Module:
    """A stage with random weights."""
    if isinstance(config, CoreConfig):
        return ColTranCore(config)
    if isinstance(config, ColorUpsamplerConfig):
        return ColorUpsampler(config)
    assert isinstance(config, SpatialUpsamplerConfig)
    return SpatialUpsampler(config)


def cast_stage(module: nn.Module, dtype: torch.dtype) -> None:
    """Have a stage work in `dtype`; a core's backbone stays as it is."""
    if isinstance(module, ColTranCore):
        module.cast(dtype)
    else:
        module.to(dtype)


def shipped_folders() -> list[Path]:
    """Where shipped models lie: inside the installed package, or beside a checkout's `src`."""
    package = Path(__file__).resolve().parent
    return [folder for folder in (package / "weights", package.parents[1] / "weights") if folder.is_dir()]


def shipped_models() -> dict[str, Path]:
    """Names and folders of the models that came with the program."""
    models: dict[str, Path] = {}
    for folder in shipped_folders():
        for path in sorted(folder.iterdir()):
            if (path / DESCRIPTION).is_file():
                models.setdefault(path.name, path)
    return models


def find_model(name: str) -> Path:
    """The folder of a shipped name, a local folder, or a Hugging Face hub id (`owner/name`, downloaded once).

    Raises `ModelError` where there is none, naming the models that exist.
    """
    shipped = shipped_models()
    if name in shipped:
        return shipped[name]
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / DESCRIPTION).is_file():
            raise ModelError(f"{path} holds no {DESCRIPTION}: it is no model folder")
        return path
    parts = name.split("/")
    if len(parts) == 2 and all(part and part[0].isalnum() for part in parts):
        folder = _download(name)
        if not (folder / DESCRIPTION).is_file():
            raise ModelError(f"{name} on the hub holds no {DESCRIPTION}: it is no model of this program")
        return folder
    known = ", ".join(shipped) or "none"
    raise ModelError(f"no model named {name!r} and no such folder; shipped models: {known}")


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except Exception as error:  # the hub's client raises many kinds, down to its transport's own
        known = ", ".join(shipped_models()) or "none"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        message = f"no folder {name!r}, and it cannot be had from the hub ({reason}); shipped models: {known}"
        raise ModelError(message) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelError(f"{path} is missing; the model folder is incomplete, fetch it again") from error
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); fetch it again") from error


def _check_tensors(expected: dict[str, Tensor], found: dict[str, Tensor], path: Path) -> None:
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    kinds = [
        f"{name} {str(found[name].dtype).removeprefix('torch.')}"
        for name in sorted(set(expected) & set(found))
        if not found[name].is_floating_point()
    ]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if found[name].shape != expected[name].shape
    ]
    wrong = [
        f"{label}: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}"
        for label, names in (
            ("missing", missing),
            ("not expected", extra),
            ("wrong shape", shapes),
            ("no real numbers", kinds),
        )
        if names
    ]
    if wrong:
        raise ModelError(f"{path} does not fit its architecture; {'; '.join(wrong)}")
    name = not_finite(found)
    if name is not None:
        raise ModelError(f"{path} holds numbers that are not finite in {name}; fetch it again, or export it anew")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity, if any."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def _files(stage: str, module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The stage's own tensors by file stem, the backbone's apart."""
    files: dict[str, dict[str, Tensor]] = {stage: {}}
    for name, tensor in module.state_dict().items():
        prefix, _, rest = name.partition(".")
        if prefix == BACKBONE:
            files.setdefault(BACKBONE, {})[rest] = tensor
        else:
            files[stage][name] = tensor
    return files


def _rounded(stage: str, module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """The stage's tensors by file stem, as they are stored; raises `ModelError` for numbers that are not finite so."""
    files = {
        stem: {
            name: tensor.detach().to(STORED_BACKBONE if stem == BACKBONE else STORED).contiguous()
            for name, tensor in tensors.items()
        }
        for stem, tensors in _files(stage, module).items()
    }
    for stem, tensors in files.items():
        name = not_finite(tensors)
        if name is not None:
            raise ModelError(f"{stem}: {name} holds numbers that are not finite, or too large to store")
    return files


def read_description(folder: Path) -> dict[str, Any]:
    """`model.json`, checked for the fields that loading needs; what it may leave out is filled in."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error})") from error
    if not isinstance(description, dict) or description.get("format") is True or description.get("format") != FORMAT:
        raise ModelError(f"{path} is not of format {FORMAT}; this program reads no other")
    stages = description.get("stages")
    if not isinstance(stages, dict) or set(stages) != set(STAGES):
        raise ModelError(f"{path} must describe the stages {', '.join(STAGES)}")
    temperature = description.get("temperature", 1.0)
    if not isinstance(temperature, int | float) or isinstance(temperature, bool) or not 0 <= temperature < 100:
        raise ModelError(f"{path}: temperature is {temperature!r}; it must be a number from 0 to below 100")
    guidance = description.get("guidance", 0.0)
    if not isinstance(guidance, int | float) or isinstance(guidance, bool) or not 0 <= guidance <= MOST_GUIDANCE:
        raise ModelError(f"{path}: guidance is {guidance!r}; it must be a number from 0 to {MOST_GUIDANCE}")
    name = description.get("name", "")
    if not isinstance(name, str) or not name.isprintable():
        raise ModelError(f"{path}: name is {name!r}; it must be a text of one line")
    return {
        **description,
        "name": description.get("name", folder.name),
        "temperature": temperature,
        "guidance": guidance,
    }


def load_model(name: str = DEFAULT_MODEL) -> Model:
    """Find, verify and build a model on the CPU in float32, in evaluation mode.

    Every file must have the sha256 that `model.json` gives, and exactly the tensors of the architecture.
    """
    folder = find_model(name)
    description = read_description(folder)
    modules: dict[str, Any] = {}
    for stage, config_class in STAGES.items():
        entry = description["stages"][stage]
        try:
            config, digests = config_class.from_dict(entry["config"]), dict(entry["sha256"])
        except ModelError as error:
            raise ModelError(f"{folder / DESCRIPTION}: stage {stage}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / DESCRIPTION}: stage {stage} is not described well ({error!r})") from error
        size = config_class().resolution
        if config.resolution != size:
            raise ModelError(f"{folder / DESCRIPTION}: {stage} has resolution {config.resolution}; photos need {size}")
        with torch.device("meta"):
            module = build_stage(config)
        state: dict[str, Tensor] = {}
        files = _files(stage, module)
        if set(digests) != set(files):
            known = ", ".join(files)
            raise ModelError(f"{folder / DESCRIPTION}: stage {stage} must give the sha256 of {known}, and of no other")
        for stem, expected in files.items():
            path = folder / f"{stem}.safetensors"
            tensors = _read_tensors(path)
            _check_tensors(expected, tensors, path)
            digest = file_sha256(path)
            if digest != digests[stem]:
                raise ModelError(f"{path} was altered: its sha256 is {digest}, {DESCRIPTION} says {digests[stem]}")
            prefix = f"{BACKBONE}." if stem == BACKBONE else ""
            state.update({prefix + key: value.float() for key, value in tensors.items()})
        module.load_state_dict(state, strict=True, assign=True)
        modules[stage] = module.eval().requires_grad_(False)
    return Model(
        name=description["name"],
        sha256=file_sha256(folder / DESCRIPTION),
        temperature=float(description["temperature"]),
        guidance=float(description["guidance"]),
        core=modules["core"],
        color_upsampler=modules["color_upsampler"],
        spatial_upsampler=modules["spatial_upsampler"],
    )


def save_model(
    folder: Path,
    name: str,
    stages: dict[str, nn.Module],
    *,
    temperature: float = 1.0,
    guidance: float = 0.0,
) -> None:
    """Write a model folder of the three stages, weights rounded to `STORED`, a backbone's to its finer kind.

    Each file is there whole or not at all; `model.json` comes last. Raises `ModelError` for numbers that are not finite
    once rounded.
    """
    assert set(stages) == set(STAGES)
    rounded = {stage: _rounded(stage, stages[stage]) for stage in STAGES}
    folder.mkdir(parents=True, exist_ok=True)
    described: dict[str, Any] = {}
    for stage, files in rounded.items():
        digests = {}
        for stem, tensors in files.items():
            path = folder / f"{stem}.safetensors"
            with replacing(path) as file:
                file.write(save(tensors))
            digests[stem] = file_sha256(path)
        config = stages[stage].config
        assert isinstance(config, StageConfig)
        described[stage] = {"config": config.to_dict(), "sha256": digests}
    description = {
        "format": FORMAT,
        "name": name,
        "temperature": temperature,
        "guidance": guidance,
        "stages": described,
    }
    with replacing(folder / DESCRIPTION) as file:
        file.write((json.dumps(description, indent=2) + "\n").encode())
