"""Photo in, colourings out: owns the order of the three stages, the device and the dtype."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from colorize_cli import __version__, palette, photo
from colorize_cli.ahead import one_ahead
from colorize_cli.checkpoints import Model, cast_stage, load_model
from colorize_cli.config import DEFAULT_MODEL, STAGES, OutputOptions, SamplingOptions
from colorize_cli.errors import OptionError
from colorize_cli.forks import share_out
from colorize_cli.models.packed import multiplies_bfloat16
from colorize_cli.models.rows import project_context
from colorize_cli.models.threads import one_at_a_time, spread
from colorize_cli.provenance import Provenance
from colorize_cli.sampling import (
    CoarseSample,
    SampleRequest,
    decoder_of,
    draw_samples,
    noise_stream,
    samples_at_once,
)
from colorize_cli.views import GrayPhoto, Prediction, color_maps, join, mean_bits, model_pages, views
from colorize_cli.workers import Report, can_fork

Result = TypeVar("Result")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class Colorization:
    """One colouring of a photo."""

    index: int  # sample number, from 1
    photo: photo.Photo  # what was coloured
    pages: tuple[np.ndarray, ...]  # (H, W, 3) each, of its luma's own size and kind, uint8 or uint16, without alpha
    model_pages: tuple[np.ndarray, ...]  # (256, 256, 3) uint8 each, the spatial upsampler's own; longer beyond 2:1
    low_res: Image.Image  # the colour upsampler's 64x64 RGB of the first square
    coarse: Image.Image  # the core's 64x64 image in 512 colours of the first square
    bits_per_pixel: float  # of the coarse images, the core's own at temperature 1
    seed: int
    temperature: float

    @cached_property
    def image(self) -> Image.Image:
        """The first page at eight bits: RGB, or RGBA with the photo's alpha."""
        image = Image.fromarray(photo.to_8_bits(self.pages[0]))
        if self.photo.alpha is not None:
            image.putalpha(Image.fromarray(photo.to_8_bits(self.photo.alpha)))
        return image

    @property
    def model_rgb(self) -> Image.Image:
        """The spatial upsampler's own RGB of the first page."""
        return Image.fromarray(self.model_pages[0])


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`; one that this machine lacks raises `OptionError`."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch("cpu|mps|cuda(:[0-9]+)?", device) is None:
        raise OptionError(f"device is {device!r}; it must be auto, cpu, cuda, cuda:NUMBER or mps")
    kind, _, number = device.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            devices = "no CUDA device" if count == 0 else f"{count} CUDA device{'s' * (count > 1)}, counted from 0"
            raise OptionError(f"device is {device!r}, but this machine has {devices}; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise OptionError("device is 'mps', but there is none here; use --device cpu")
    return torch.device(device)


def resolve_dtypes(dtype: str, device: torch.device) -> dict[str, torch.dtype]:
    """The dtype of each stage.

    `auto` is bfloat16 on CUDA and on a CPU that multiplies in it, where every stage gains by it, and float32
    elsewhere: docs/performance.md has the measurements.
    """
    if dtype not in {"auto", *DTYPES}:
        raise OptionError(f"dtype is {dtype!r}; it must be auto, {' or '.join(DTYPES)}")
    if dtype == "auto":
        gains = device.type == "cuda" or (device.type == "cpu" and multiplies_bfloat16())
        dtype = "bfloat16" if gains else "float32"
    return dict.fromkeys(STAGES, DTYPES[dtype])


class Colorizer:
    """A loaded model; colours photos one after another.

    For one kind of machine, torch version, dtype and number of threads, a sample depends on the weights, the
    photo's 256x256 gray, the options, the seed and its number alone.

    Samples are drawn in copies of this process beside it where that is possible; set `forks` to False where it is not
    wanted, or while another thread works with torch. Processes of your own in which a `Colorizer` is to work start by
    `spawn`, not by `fork`: torch waits for ever in a fork of a process where its threads have worked.
    """

    def __init__(self, model: Model, device: torch.device, dtypes: dict[str, torch.dtype]) -> None:
        self.model, self.device, self.dtypes = model, device, dtypes
        for stage, dtype in dtypes.items():
            cast_stage(getattr(model, stage).to(device), dtype)
        self.decoder = decoder_of(model.core)
        self.forks = device.type == "cpu" and can_fork()

    @classmethod
    def from_pretrained(cls, model: str = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto") -> Colorizer:
        """Load a shipped name, a model folder or a hub id.

        Raises `ModelError` for a model that cannot be found or verified, `OptionError` for a device or dtype
        that cannot be had.
        """
        torch_device = resolve_device(device)
        return cls(load_model(model), torch_device, resolve_dtypes(dtype, torch_device))

    def temperature(self, options: SamplingOptions) -> float:
        """The request's temperature, or the model's recommended one."""
        return self.model.temperature if options.temperature is None else options.temperature

    def guidance(self, options: SamplingOptions) -> float:
        """The request's guidance, or the model's recommended one."""
        return self.model.guidance if options.guidance is None else options.guidance

    def samples(self, options: SamplingOptions) -> int:
        """How many samples a photo gets: one at temperature 0, where all would be the same."""
        return 1 if self.temperature(options) == 0 else options.samples

    def photos_together(self, options: SamplingOptions) -> int:
        """How many photos are drawn at once: what is projected of one is large, so no more than full speed takes."""
        return -(-samples_at_once(self.decoder) // self.samples(options))

    @torch.inference_mode()
    def predict(
        self,
        photos: Sequence[GrayPhoto],
        options: SamplingOptions,
        progress: Callable[[int], None] | None = None,
        *,
        in_company: bool = False,
    ) -> list[list[Prediction]]:
        """Run the three stages over photos; a list of samples for each.

        `progress` is called with the number of rows of coarse samples drawn, 64 a sample, by one thread at a time.
        Temperature 0 gives one sample: all would be the same. `in_company` says that other calls run beside this
        one and keep the processor busy: nothing is shared out then.
        """
        report: Report = (lambda rows: None) if progress is None else one_at_a_time(progress)
        group = self.photos_together(options)
        results: list[list[Prediction]] = []
        for start in range(0, len(photos), group):
            results.extend(self._predict_together(photos[start : start + group], options, report, in_company))
        return results

    def _predict_together(
        self, photos: Sequence[GrayPhoto], options: SamplingOptions, report: Report, in_company: bool
    ) -> list[list[Prediction]]:
        count = self.samples(options)

        def encode(one: GrayPhoto) -> list[SampleRequest]:
            return self.requests(one, options.seed, count)

        def draw(report: Report, numbers: Sequence[int]) -> list[CoarseSample]:
            wanted = [requests[number] for number in numbers]
            return draw_samples(self.decoder, wanted, self.temperature(options), self.guidance(options), report)

        def finish(number: int, sample: CoarseSample) -> Prediction:
            return self._finish(number % count, sample, photos[number // count])

        alone = len(photos) == 1 and not in_company
        encoded = [encode(photos[0])] if alone else spread(encode, photos, self.device)
        requests = [request for of_photo in encoded for request in of_photo]
        predictions = self.share(draw, finish, len(requests), report, in_company=in_company)
        return [predictions[start : start + count] for start in range(0, len(predictions), count)]

    def share(
        self,
        draw: Callable[[Report, Sequence[int]], list[CoarseSample]],
        finish: Callable[[int, CoarseSample], Result],
        count: int,
        report: Report,
        *,
        in_company: bool = False,
    ) -> list[Result]:
        """`finish(number, sample)` of each number and sample of `draw(report, range(count))`, shared out.

        On a CPU one thread takes a number to its end, in a copy of this process where that is possible. The last ones,
        which would leave threads idle, are only drawn so; all threads finish each of them.
        """

        def make(report: Report, numbers: Sequence[int]) -> list[Result]:
            return [finish(number, sample) for number, sample in zip(numbers, draw(report, numbers), strict=True)]

        threads = 1 if in_company else torch.get_num_threads()
        rest = count if self.device.type != "cpu" else count % threads
        last = range(count - rest, count)
        made = self._side_by_side(make, range(count - rest), threads, report)
        drawn = self._side_by_side(draw, last, threads, report)
        return made + [finish(number, sample) for number, sample in zip(last, drawn, strict=True)]

    def _side_by_side(
        self, work: Callable[[Report, Sequence[int]], list[Result]], numbers: range, threads: int, report: Report
    ) -> list[Result]:
        """`work(report, numbers)`, shared out among as many threads or copies of this process."""
        if self.device.type != "cpu":
            return work(report, numbers)
        shares = [numbers[first::threads] for first in range(min(threads, len(numbers)))]
        if self.forks and len(shares) > 1:
            done = share_out(work, shares, report)
        else:
            shares = [range(number, number + 1) for number in numbers]
            done = spread(lambda share: work(report, share), shares, self.device)
        numbered: dict[int, Result] = {}
        for share, results in zip(shares, done, strict=True):
            numbered.update(zip(share, results, strict=True))
        return [numbered[number] for number in numbers]

    @torch.inference_mode()
    def requests(self, gray_photo: GrayPhoto, seed: int, count: int) -> list[SampleRequest]:
        """Encode a photo: `count` samples of it to draw."""
        gray = self.tensor(gray_photo.gray_64).int()
        projections = project_context(self.model.core, gray, self.tensor(gray_photo.backbone_gray))
        streams = (noise_stream(seed, index, gray_photo.gray_256) for index in range(count))
        return [SampleRequest(projections, noise) for noise in streams]

    def _finish(self, index: int, sample: CoarseSample, gray_photo: GrayPhoto) -> Prediction:
        low_res, rgb = self.upsample(sample.bins, gray_photo)
        return Prediction(index + 1, sample.bins, low_res, rgb, sample.bits_per_pixel)

    def colorize(
        self,
        source: photo.Photo | Image.Image | str | Path,
        samples: int = 3,
        *,
        temperature: float | None = None,
        seed: int = 0,
        saturation: float = 1.0,
        guidance: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Colorization]:
        """Colour one photo.

        Args:
            source: a path, a Pillow image, or a photo opened by `photo.open_photo`.
            samples: how many colourings, at least 1. Temperature 0 gives one.
            temperature: of the drawing; None takes the model's own, 0 the most likely colour each time.
            seed: of the noise, at least 0.
            saturation: scales the predicted chroma.
            guidance: how much the parallel head counts in drawing, 0..8; None takes the model's own.
            progress: called with the number of rows of coarse samples drawn, 64 a sample.

        Raises:
            OptionError: an option is out of its range.
            PhotoError: the photo cannot be read.
        """
        options = SamplingOptions(samples, temperature, seed, saturation, guidance)
        opened = source if isinstance(source, photo.Photo) else photo.open_photo(source)
        return list(self.join(opened, self.predict(views(opened), options, progress), options))

    def join(
        self, opened: photo.Photo, predictions: Sequence[Sequence[Prediction]], options: SamplingOptions
    ) -> Iterator[Colorization]:
        """Put predicted colours under the photo's own luminance, sample by sample, the next one while one is looked at.

        `predictions` are those of all of the photo's `views`.
        """

        def joined(samples: Sequence[Prediction]) -> Colorization:
            maps = color_maps(opened, samples)
            return Colorization(
                index=samples[0].index,
                photo=opened,
                pages=join(opened, maps, options.saturation),
                model_pages=model_pages(maps),
                low_res=Image.fromarray(samples[0].low_res),
                coarse=Image.fromarray(palette.bins_to_rgb(samples[0].bins).astype(np.uint8)),
                bits_per_pixel=mean_bits(samples),
                seed=options.seed,
                temperature=self.temperature(options),
            )

        return one_ahead(joined, zip(*predictions, strict=True))

    def provenance(
        self,
        name: str,
        sha256: str,
        index: int,
        options: SamplingOptions,
        output: OutputOptions | None = None,
        size: str = "original",
    ) -> Provenance:
        """What makes sample `index`, from 1, of the photo in the file of that name: what goes into its picture."""
        output = output or OutputOptions()
        shaping = {name: value for name, value in asdict(options).items() if name != "samples"}
        written = {name: value for name, value in asdict(output).items() if name != "provenance"}
        return Provenance(
            version=__version__,
            model=self.model.name,
            model_sha256=self.model.sha256,
            sample=index,
            options=shaping
            | {"temperature": self.temperature(options), "guidance": self.guidance(options), "size": size}
            | written,
            dtype={stage: str(dtype).removeprefix("torch.") for stage, dtype in self.dtypes.items()},
            device=str(self.device),
            threads=torch.get_num_threads(),
            torch=str(torch.__version__),  # of its own type, which would load torch wherever it is unpickled
            input=name,
            input_sha256=sha256,
        )

    def tensor(self, array: np.ndarray) -> torch.Tensor:
        """A batch of one array, on the device."""
        return torch.from_numpy(np.array(array))[None].to(self.device)

    @torch.inference_mode()
    def upsample(self, bins: np.ndarray, gray_photo: GrayPhoto) -> tuple[np.ndarray, np.ndarray]:
        """A coarse image `(64, 64)` of bins to RGB `(64, 64, 3)` and `(256, 256, 3)`, both uint8."""
        levels = palette.bins_to_levels(self.tensor(bins).long())
        low_res = self.model.color_upsampler.upsample(levels, self.tensor(gray_photo.gray_64).long())
        gray = self.tensor(gray_photo.gray_256).long()
        rgb = self.model.spatial_upsampler.upsample(self.model.spatial_upsampler.enlarge(low_res, gray), gray)
        return low_res[0].cpu().numpy(), rgb[0].cpu().numpy()
