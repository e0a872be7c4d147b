"""The authors' checkpoints are read to the last variable, or refused with a list."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from colorize_cli.checkpoints import build_stage
from colorize_cli.config import BackboneConfig, ColorUpsamplerConfig, CoreConfig, SpatialUpsamplerConfig, StageConfig
from colorize_cli.errors import ModelError
from colorize_cli.tf_checkpoint import Checkpoint, crc32c, crc32c_long, read_index, unsnappy
from colorize_cli.tf_import import choose_keys, import_checkpoint, table
from tests.test_golden import GOLDEN, golden_config

OFFICIAL = Path(__file__).parent / "official-index"
PUBLISHED: dict[str, StageConfig] = {
    "colorizer": CoreConfig(),
    "color_upsampler": ColorUpsamplerConfig(),
    "spatial_upsampler": SpatialUpsamplerConfig(),
}
VALUE = ":0/.ATTRIBUTES/VARIABLE_VALUE"


@pytest.mark.parametrize("stage", PUBLISHED)
def test_the_official_variables_map_one_to_one_on_the_published_config(stage: str) -> None:
    entries, shards = read_index(OFFICIAL / f"{stage}.index")
    shapes = {key: entry.shape for key, entry in entries.items()}
    chosen = choose_keys(shapes, PUBLISHED[stage], stage)
    assert shards == 1
    assert len(set(chosen.values())) == len(chosen)
    # No moving average is left behind, and what has one is read from it.
    averages = {key for key in shapes if ".SExponentialMovingAverage" in key}
    assert averages == {key for key in chosen.values() if ".SExponentialMovingAverage" in key}
    parameters = sum(int(np.prod(shapes[key])) for key in chosen.values())
    with torch.device("meta"):
        module = build_stage(PUBLISHED[stage])
    assert parameters == sum(p.numel() for p in module.parameters())


def test_the_published_cores_trained_values_are_46_310_400() -> None:
    entries, _ = read_index(OFFICIAL / "colorizer.index")
    averages = [entry.shape for key, entry in entries.items() if ".SExponentialMovingAverage" in key]
    assert sum(int(np.prod(shape)) for shape in averages) == 46_310_400


@pytest.mark.parametrize(
    "config",
    [
        CoreConfig(hidden=12, feed_forward=20, heads=3, encoder_layers=1, outer_layers=3, inner_layers=1),
        CoreConfig(resolution=32, hidden=8, feed_forward=4, heads=2, encoder_layers=3, outer_layers=1, inner_layers=4),
        ColorUpsamplerConfig(hidden=6, feed_forward=10, heads=1, layers=5),
        SpatialUpsamplerConfig(hidden=6, feed_forward=10, heads=2, layers=1),
    ],
    ids=str,
)
def test_the_table_covers_every_parameter_of_any_size_once(config: StageConfig) -> None:
    sources = table(config)
    names = Counter(source.parameter for source in sources)
    state = build_stage(config).state_dict()
    assert set(names) == set(state)
    assert set(names.values()) == {1}
    variables = Counter(variable.name for source in sources for variable in source.variables)
    assert set(variables.values()) == {1}
    for source in sources:
        arrays = [np.zeros(variable.shape, dtype=np.float32) for variable in source.variables]
        assert source.convert(*arrays).shape == tuple(state[source.parameter].shape), source.parameter


def test_layer_numbers_follow_the_layer_counts() -> None:
    config = CoreConfig(hidden=8, feed_forward=8, heads=1, encoder_layers=1, outer_layers=1, inner_layers=1)
    by_name = {source.parameter: source.variables[0].name for source in table(config)}
    # Dense: 0 pixels, 1 gray, 2-5 encoder, 6-9 outer, 10-13 outer norms, 14-15 inner, 16-17 inner norms.
    assert by_name["encoder.stack.layers.0.row_mlp.expand.weight"] == "dense_2/kernel"
    assert by_name["outer.column_layers.0.mlp.contract.weight"] == "dense_9/kernel"
    outer, inner = "col_tran_core/outer_decoder", "col_tran_core/inner_decoder"
    assert (
        by_name["outer.row_layers.0.attention_norm.condition.weight"]
        == f"{outer}/conditional_layer_norm/dense_10/kernel"
    )
    assert by_name["inner.layers.0.mlp.expand.weight"] == "dense_14/kernel"
    assert by_name["inner.layers.0.mlp_norm.condition.weight"] == f"{inner}/conditional_layer_norm_5/dense_17/kernel"


def test_one_encoder_three_outer_and_one_inner_layer_are_numbered_as_keras_does() -> None:
    config = CoreConfig(hidden=8, feed_forward=12, heads=2, encoder_layers=1, outer_layers=3, inner_layers=1)
    by_name = {source.parameter: source.variables[0].name for source in table(config)}
    core = "col_tran_core"
    # Dense: 0 pixels, 1 gray, 2-5 encoder, 6-17 outer, 18-29 outer norms, 30-31 inner, 32-33 inner norms.
    # LayerNormalization: 0 before the head, 1-4 encoder. ConditionalLayerNorm: 0-11 outer, 12-13 inner.
    expected = {
        "pixel_embedding.weight": f"{core}/dense/kernel",
        "norm.weight": f"{core}/layer_normalization/gamma",
        "encoder.embedding.weight": f"{core}/gray_scale_encoder/dense_1/kernel",
        "encoder.stack.layers.0.column_attention.qkv.weight": (
            f"{core}/gray_scale_encoder/factorized_attention/self_attention_nd_1/q/kernel"
        ),
        "encoder.stack.layers.0.norms.3.bias": (
            f"{core}/gray_scale_encoder/factorized_attention/layer_normalization_4/beta"
        ),
        "outer.positions.rows": f"{core}/outer_decoder/position_embed_1/position_embedding_0",
        "outer.row_layers.2.mlp.expand.weight": "dense_14/kernel",
        "outer.column_layers.2.mlp.contract.bias": "dense_17/bias",
        "outer.column_layers.2.mlp.condition.bias": f"{core}/outer_decoder/affine_c_2/bias",
        "outer.row_layers.2.attention_norm.condition.weight": (
            f"{core}/outer_decoder/conditional_layer_norm_8/dense_26/kernel"
        ),
        "outer.column_layers.2.mlp_norm.spatial_average": (
            f"{core}/outer_decoder/conditional_layer_norm_11/spatial_average"
        ),
        "inner.positions.columns": f"{core}/inner_decoder/position_embed_2/position_embedding_1",
        "inner.layers.0.mlp.contract.weight": "dense_31/kernel",
        "inner.layers.0.mlp_norm.condition.bias": f"{core}/inner_decoder/conditional_layer_norm_13/dense_33/bias",
    }
    assert {name: by_name[name] for name in expected} == expected


def test_averages_are_read_and_raw_values_only_where_there_is_no_average() -> None:
    config = golden_config("colorizer")
    shapes = {key: entry.shape for key, entry in Checkpoint(GOLDEN / "colorizer").entries.items()}
    chosen = choose_keys(shapes, config, "golden")
    raw = {name for name, key in chosen.items() if "ExponentialMovingAverage" not in key}
    assert raw
    assert all(name.endswith(("/normalize/gamma", "/normalize/beta")) for name in raw)


def test_missing_left_over_and_misshaped_variables_are_all_listed() -> None:
    config = golden_config("color_upsampler")
    shapes = {key: entry.shape for key, entry in Checkpoint(GOLDEN / "color_upsampler").entries.items()}
    for key in [key for key in shapes if key.startswith("dense_6.Sbias")]:
        del shapes[key]
    shapes[f"color_upsampler.Sstray.Skernel{VALUE}"] = (3,)
    for key in shapes:
        if key.startswith("dense_7.Sbias"):
            shapes[key] = (99,)
    with pytest.raises(ModelError) as raised:
        choose_keys(shapes, config, "spoilt")
    text = str(raised.value)
    assert "missing (1): dense_6/bias" in text
    assert "not expected (1): color_upsampler/stray/kernel" in text
    assert "wrong shape (1): dense_7/bias (99,) instead of (32,)" in text


def test_a_checkpoint_of_other_sizes_is_refused() -> None:
    with pytest.raises(ModelError, match="wrong shape"):
        import_checkpoint(GOLDEN / "color_upsampler", ColorUpsamplerConfig(layers=2))
    with pytest.raises(ModelError, match="missing"):
        import_checkpoint(GOLDEN / "color_upsampler", ColorUpsamplerConfig(hidden=32, feed_forward=48, layers=3))


def test_a_config_with_parts_that_were_not_published_is_refused() -> None:
    for config in (CoreConfig(gray_bias=True), CoreConfig(backbone=BackboneConfig())):
        with pytest.raises(ModelError, match="no backbone and no gray bias"):
            import_checkpoint(GOLDEN / "colorizer", config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "color_upsampler", tmp_path / "checkpoint"))


@pytest.mark.parametrize("name", ["checkpoint", "model-1.index", "model-1.data-00000-of-00001"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name):
        import_checkpoint(folder, golden_config("color_upsampler"))


def test_data_that_is_cut_short_is_refused(folder: Path) -> None:
    path = folder / "model-1.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cut short"):
        import_checkpoint(folder, golden_config("color_upsampler"))


@pytest.mark.parametrize("place", [0, 100, 5000, -60, -1])
def test_a_damaged_index_is_refused(folder: Path, place: int) -> None:
    path = folder / "model-1.index"
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        import_checkpoint(folder, golden_config("color_upsampler"))


def test_a_checkpoint_that_was_moved_is_found_beside_its_text_file(folder: Path) -> None:
    (folder / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/model-1"\n')
    assert import_checkpoint(folder, golden_config("color_upsampler"))


def test_checksum_and_unpacking_agree_with_known_answers() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    # A literal "abcd", then a copy of 6 bytes from 4 back, which overlaps what it writes.
    assert unsnappy(bytes([10, 3 << 2]) + b"abcd" + bytes([(6 - 4) << 2 | 1, 4])) == b"abcdabcdab"
    with pytest.raises(ValueError, match="outside"):
        unsnappy(bytes([4, 1, 9]))


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def block(*records: tuple[bytes, bytes]) -> bytes:
    """A block of a string table, stored plainly, with what follows it in the file."""
    body = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in records)
    stored = body + bytes(4) + (1).to_bytes(4, "little") + b"\0"  # one restart, at 0; not packed
    return stored + checksum(stored)


def checksum(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def write_checkpoint(folder: Path, arrays: dict[str, np.ndarray], dtype: int = 1) -> None:
    """A checkpoint with a data file and an index block for each array."""
    body, handles = b"", []
    for number, (key, array) in enumerate(sorted(arrays.items())):
        (folder / f"model.data-{number:05}-of-{len(arrays):05}").write_bytes(array.tobytes())
        sizes = b"".join(b"\x12" + varint(len(size) + 1) + b"\x08" + size for size in map(varint, array.shape))
        entry = b"\x08" + varint(dtype) + b"\x12" + varint(len(sizes)) + sizes
        entry += b"\x18" + varint(number) + b"\x28" + varint(array.nbytes)
        entry += b"\x35" + checksum(array.tobytes())
        header = [(b"", b"\x08" + varint(len(arrays)))] if number == 0 else []
        stored = block(*header, (key.encode(), entry))
        handles.append((key.encode(), varint(len(body)) + varint(len(stored) - 5)))
        body += stored
    footer = varint(0) + varint(0) + varint(len(body)) + varint(len(block(*handles)) - 5)
    magic = (0xDB4775248B80FB57).to_bytes(8, "little")
    (folder / "model.index").write_bytes(body + block(*handles) + footer.ljust(40, b"\0") + magic)
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"\n')


def test_several_index_blocks_and_data_files_are_read(tmp_path: Path) -> None:
    arrays = {name: np.arange(6, dtype="<f4").reshape(2, 3) + start for start, name in enumerate("abc")}
    write_checkpoint(tmp_path, arrays)
    checkpoint = Checkpoint(tmp_path)
    assert set(checkpoint.entries) == set(arrays)
    assert all(np.array_equal(checkpoint.read(name), array) for name, array in arrays.items())
    (tmp_path / "model.data-00001-of-00003").unlink()
    with pytest.raises(ModelError, match="00001-of-00003"):
        checkpoint.read("b")


def test_an_unknown_type_is_refused_by_its_number(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, {"bfloat16": np.zeros(4, dtype="<i2")}, dtype=14)
    with pytest.raises(ModelError, match="type number 14"):
        Checkpoint(tmp_path).read("bfloat16")


def test_a_damaged_array_is_refused(folder: Path) -> None:
    path = folder / "model-1.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[1000] ^= 0x10  # within a moving average
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"checksum of .* is wrong"):
        import_checkpoint(folder, golden_config("color_upsampler"))


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000, 4096, 4097])
def test_the_fast_checksum_equals_the_plain_one(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c_long(data) == crc32c(data)
