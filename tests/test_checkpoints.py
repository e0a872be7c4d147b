"""A model folder is loaded whole and unaltered, or refused with a line that says what is wrong."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from colorize_cli.checkpoints import find_model, load_model, save_model, shipped_models
from colorize_cli.digests import file_sha256
from colorize_cli.errors import ModelError
from tests.conftest import TINY, random_stage

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def respell(folder: Path, change: Callable[[Tensors], object], stem: str = "core") -> None:
    """Change a file's tensors, and its sha256 in model.json with them."""
    path = folder / f"{stem}.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    description = json.loads((folder / "model.json").read_text())
    description["stages"]["core"]["sha256"][stem] = file_sha256(path)
    (folder / "model.json").write_text(json.dumps(description))


def test_what_was_saved_is_loaded(tiny_model: Path) -> None:
    model = load_model(str(tiny_model))
    assert (model.name, model.temperature) == ("tiny", 0.9)
    saved = random_stage(TINY["core"]).state_dict()
    for name, tensor in model.core.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, saved[name].bfloat16().float()), name


def test_a_missing_tensor_is_named(folder: Path) -> None:
    respell(folder, lambda tensors: tensors.pop("head.bias"))
    with pytest.raises(ModelError, match=r"core\.safetensors.*missing: head\.bias"):
        load_model(str(folder))


def test_an_extra_tensor_is_named(folder: Path) -> None:
    respell(folder, lambda tensors: tensors.update(stray=torch.zeros(2)))
    with pytest.raises(ModelError, match="not expected: stray"):
        load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_a_tensor_of_no_real_numbers_is_named(folder: Path, dtype: torch.dtype) -> None:
    respell(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(512, dtype=dtype)}))
    with pytest.raises(ModelError, match=r"no real numbers: head\.bias"):
        load_model(str(folder))


def test_a_tensor_with_a_number_that_is_not_finite_is_named(folder: Path) -> None:
    respell(folder, lambda tensors: tensors["head.bias"].fill_(math.nan))
    with pytest.raises(ModelError, match=r"not finite in head\.bias"):
        load_model(str(folder))


def test_a_description_nested_without_end_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"model\.json cannot be read"):
        load_model(str(folder))


def test_an_empty_name_is_not_the_folder_one_stands_in() -> None:
    with pytest.raises(ModelError, match="no model named ''"):
        load_model("")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(folder: Path) -> None:
    respell(folder, lambda tensors: tensors.update({"head.bias": torch.zeros(7)}))
    with pytest.raises(ModelError, match=r"wrong shape: head\.bias \(7,\) instead of \(512,\)"):
        load_model(str(folder))


def test_altered_bytes_are_refused(folder: Path) -> None:
    path = folder / "core.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"core\.safetensors was altered"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["core.safetensors", "spatial_upsampler.safetensors", "model.json"])
def test_a_missing_or_truncated_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:20])
    with pytest.raises(ModelError, match=name):
        load_model(str(folder))
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        load_model(str(folder))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.update(format=2),
        lambda d: d["stages"].pop("core"),
        lambda d: d["stages"]["core"].pop("config"),
        lambda d: d["stages"]["core"]["config"].update(width=3),
        lambda d: d["stages"]["core"].update(sha256={}),
        lambda d: d["stages"]["core"]["sha256"].update(stray="0"),
        lambda d: d["stages"]["core"]["config"].update(hidden=2**40),
        lambda d: d["stages"]["core"]["config"].update(gray_bias="false"),
        lambda d: d.update(format=True),
        lambda d: d.update(name="two\nlines"),
        lambda d: d.update(temperature="hot"),
        lambda d: d.update(guidance=9),
    ],
)
def test_a_description_that_says_too_little_or_too_much_is_refused(folder: Path, spoil: Callable[[dict], None]) -> None:
    description = json.loads((folder / "model.json").read_text())
    spoil(description)
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ModelError, match=r"model\.json"):
        load_model(str(folder))


def test_a_backbone_is_a_file_of_its_own(tmp_path: Path) -> None:
    from dataclasses import replace

    from colorize_cli.config import BackboneConfig, CoreConfig

    core = TINY["core"]
    assert isinstance(core, CoreConfig)
    stages = {stage: random_stage(config) for stage, config in TINY.items()}
    stages["core"] = random_stage(replace(core, backbone=BackboneConfig(channels=8, blocks=1)))
    save_model(tmp_path / "eye", "eye", stages)
    files = {path.name for path in (tmp_path / "eye").iterdir()}
    names = ("core", "backbone", "color_upsampler", "spatial_upsampler")
    assert files == {"model.json", *(f"{name}.safetensors" for name in names)}
    kinds = {name: {t.dtype for t in load_file(tmp_path / "eye" / f"{name}.safetensors").values()} for name in names}
    assert kinds == {name: {torch.float16 if name == "backbone" else torch.bfloat16} for name in names}
    assert load_model(str(tmp_path / "eye")).core.backbone is not None
    with torch.no_grad():
        stages["core"].get_parameter("backbone.stem.weight")[0] = 1e6  # more than float16 holds
    with pytest.raises(ModelError, match=r"backbone: stem\.weight .* too large to store"):
        save_model(tmp_path / "large", "large", stages)
    assert not (tmp_path / "large").exists()


def test_an_unknown_name_lists_the_models_that_exist() -> None:
    with pytest.raises(ModelError, match=r"no model named 'coltran-tiny'.*coltran-small"):
        find_model("coltran-tiny")


def test_a_folder_without_a_description_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        find_model(str(tmp_path))


def test_a_hub_id_that_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no route to the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"somebody/model.*no route to the hub"):
        find_model("somebody/model")


def test_a_hub_id_is_loaded_from_where_the_hub_put_it(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tiny_model))
    assert load_model("somebody/tiny").name == "tiny"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tiny_model.parent))
    with pytest.raises(ModelError, match=r"somebody/other on the hub holds no model\.json"):
        load_model("somebody/other")


def test_the_shipped_model_is_small_and_whole() -> None:
    path = shipped_models()["coltran-small"]
    assert sum(file.stat().st_size for file in path.iterdir()) <= 28_000_000
    assert (path / "MODEL_CARD.md").is_file()
    assert load_model("coltran-small").core.backbone is not None
