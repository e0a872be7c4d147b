"""Photo in, colourings out: what a sample depends on, and what a Python program sees."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colorize_cli import Colorizer, SamplingOptions
from colorize_cli.colorizer import resolve_device, resolve_dtypes
from colorize_cli.errors import OptionError
from colorize_cli.views import Prediction, see
from tests.conftest import EXAMPLES


@pytest.fixture(scope="module", params=["float32", "auto"])
def colorizer(request: pytest.FixtureRequest, tiny_model: Path) -> Colorizer:
    return Colorizer.from_pretrained(str(tiny_model), device="cpu", dtype=request.param)


def wave(seed: int) -> np.ndarray:
    y, x = np.mgrid[0:90, 0:120]
    return (128 + 90 * np.sin(x / (5 + seed)) * np.cos(y / (9 - seed))).astype(np.uint8)


def same(first: Prediction, second: Prediction) -> bool:
    arrays = ("bins", "low_res", "rgb")
    equal = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)
    return equal and first.bits_per_pixel == second.bits_per_pixel


def test_sample_k_is_byte_identical_for_any_number_of_samples_and_any_company(colorizer: Colorizer) -> None:
    views = [see(wave(seed)) for seed in range(3)]
    (three,) = colorizer.predict([views[0]], SamplingOptions(3, seed=3))
    together = colorizer.predict([views[2], views[0]], SamplingOptions(2, seed=3))
    assert all(same(a, b) for a, b in zip(together[1], three[:2], strict=True))
    company = colorizer.predict([views[1], views[2], views[0]], SamplingOptions(1, seed=3))
    assert same(company[2][0], three[0])
    assert len({prediction.bins.tobytes() for prediction in three}) == 3


def test_a_sample_is_byte_identical_for_any_number_of_threads_and_calls_beside_it(colorizer: Colorizer) -> None:
    view, options, before = see(wave(1)), SamplingOptions(1, seed=3), torch.get_num_threads()
    made = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made += [*colorizer.predict([view], options), *colorizer.predict([view], options, in_company=True)]
    finally:
        torch.set_num_threads(before)
    assert all(same(one, made[0][0]) for (one,) in made)


def test_a_sample_is_byte_identical_whether_processes_or_threads_draw_it(colorizer: Colorizer) -> None:
    view, options, rows = see(wave(2)), SamplingOptions(3, seed=3), []
    made, forks, before = [], colorizer.forks, torch.get_num_threads()
    assert forks == (sys.platform == "linux")
    try:
        for threads, colorizer.forks in ((2, forks), (5, forks), (2, False)):  # one sample is left over, or all are
            torch.set_num_threads(threads)
            drawn: list[int] = []
            made += colorizer.predict([view], options, drawn.append)
            rows.append(sum(drawn))
    finally:
        colorizer.forks = forks
        torch.set_num_threads(before)
    assert all(same(a, b) for other in made[1:] for a, b in zip(made[0], other, strict=True))
    assert [sample.index for sample in made[0]] == [1, 2, 3]
    assert rows == [3 * 64] * 3


def test_a_result_has_the_photos_size_and_all_that_made_it(tiny_model: Path) -> None:
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    results = colorizer.colorize(EXAMPLES / "campus-martius-detroit-1915.jpg", samples=2, temperature=0.8, seed=7)
    with Image.open(EXAMPLES / "campus-martius-detroit-1915.jpg") as photo:
        size = photo.size
    assert [result.index for result in results] == [1, 2]
    for result in results:
        assert (result.image.size, result.image.mode) == (size, "RGB")
        assert result.model_rgb.size == (256, 256)
        assert result.low_res.size == result.coarse.size == (64, 64)
        assert (result.seed, result.temperature) == (7, 0.8)
        assert 0 < result.bits_per_pixel < 12


def test_a_pillow_image_with_alpha_comes_back_with_its_alpha(tiny_model: Path) -> None:
    image = Image.fromarray(wave(1)).convert("LA")
    image.putalpha(Image.fromarray(wave(2)))
    (result,) = Colorizer.from_pretrained(str(tiny_model)).colorize(image, samples=1)
    assert result.image.mode == "RGBA"
    assert np.array_equal(np.asarray(result.image.getchannel("A")), wave(2))


def test_nothing_is_printed_and_the_global_random_state_is_untouched(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
    Colorizer.from_pretrained(str(tiny_model)).colorize(Image.fromarray(wave(1)), samples=1)
    after = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())  # type: ignore[index]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert capsys.readouterr() == ("", "")


def test_a_small_photo_is_seen_by_the_backbone_from_its_64x64_gray() -> None:
    small = see(wave(1)[:60, :60])
    expected = np.asarray(Image.fromarray(small.gray_64).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(small.backbone_gray, expected)
    large = see(wave(1))
    expected = np.asarray(Image.fromarray(large.gray_256).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.array_equal(large.backbone_gray, expected)


@pytest.mark.parametrize("device", ["gpu", "cpu:1", "cpu:", "cuda:", "cuda:x", "cuda:²", "cuda:99", ""])
def test_a_device_that_cannot_be_had_is_refused_by_its_name(device: str) -> None:
    with pytest.raises(OptionError, match=f"device is '{device}'"):
        resolve_device(device)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(OptionError, match="float16"):
        resolve_dtypes("float16", torch.device("cpu"))


def test_auto_takes_bfloat16_where_the_processor_gains_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def auto(device: str) -> set[torch.dtype]:
        return set(resolve_dtypes("auto", torch.device(device)).values())

    monkeypatch.setattr("colorize_cli.colorizer.multiplies_bfloat16", lambda: True)
    assert auto("cpu") == auto("cuda") == {torch.bfloat16}
    monkeypatch.setattr("colorize_cli.colorizer.multiplies_bfloat16", lambda: False)
    assert auto("cpu") == {torch.float32}


def test_in_bfloat16_the_backbone_stays_in_float32() -> None:
    core = Colorizer.from_pretrained(device="cpu", dtype="bfloat16").model.core
    assert core.backbone is not None
    assert {p.dtype for p in core.backbone.parameters()} == {torch.float32}
    assert {p.dtype for name, p in core.named_parameters() if not name.startswith("backbone.")} == {torch.bfloat16}
    gray = torch.zeros(1, 64, 64, dtype=torch.int32)
    assert core.encode(gray, torch.zeros(1, 224, 224, dtype=torch.uint8)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [{"samples": 0}, {"temperature": float("nan")}, {"seed": -1}, {"saturation": float("inf")}, {"guidance": -1.0}],
)
def test_a_bad_option_is_refused_by_name(tiny_model: Path, options: dict[str, float]) -> None:
    colorizer = Colorizer.from_pretrained(str(tiny_model))
    with pytest.raises(OptionError, match=next(iter(options))):
        colorizer.colorize(Image.fromarray(wave(1)), **options)  # type: ignore[arg-type]
