"""The same work on Ray: the same bytes, whatever the number of workers and whatever becomes of them."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from colorize_cli import ray_engine
from colorize_cli.config import SamplingOptions
from colorize_cli.digests import file_sha256
from colorize_cli.errors import OptionError
from colorize_cli.naming import Job
from colorize_cli.planning import Todo
from colorize_cli.steps import Shaping, look
from tests.conftest import write_gray
from tests.test_batch import lines, once, pictures

PHOTOS = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, for all tests of this file: starting it takes a while."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in a small tree, with a bad one among them; do not write into it."""
    root = tmp_path_factory.mktemp("ray") / "box"
    for index in range(PHOTOS):
        write_gray(root / f"{index % 2}" / f"p{index}.png", 40 + index, 50, index)
    (root / "bad.png").write_bytes(b"no photo" * 9)
    return root


@pytest.fixture(scope="module")
def local(colorize, box: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run without Ray."""
    out = tmp_path_factory.mktemp("local")
    assert colorize("-r", box, "-n", 1, "--threads", 1, "-o", out).exit_code == 1
    assert len(pictures(out)) == PHOTOS
    return out


def table(folder: Path) -> list[list[object]]:
    """What of a manifest does not depend on where its run was made."""
    fields = ("name", "status", "sha256", "outputs", "size", "options", "bits_per_pixel", "model_sha256", "threads")
    return sorted([line[field] for field in fields] for line in lines(folder))


def actors() -> list[int]:
    """The processes in which models are at work."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"Painter" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells which processes there are")
@pytest.mark.usefixtures("cluster")
def test_two_workers_of_which_one_is_killed_make_what_this_process_makes(
    colorize, box: Path, local: Path, tmp_path: Path
) -> None:
    words = ("-r", box, "-n", 1, "--threads", 1, "-o", tmp_path)
    killed: list[int] = []

    def kill_one() -> None:
        time.sleep(1)  # to load the model, or draw
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    with once(actors, kill_one):
        result = colorize(*words, "--engine", "ray", "--workers", 2)
    assert result.exception is None
    assert killed
    assert (result.exit_code, result.stderr.count("error: ")) == (1, 1)
    assert "not a photo" in result.stderr
    assert pictures(tmp_path) == pictures(local)
    assert table(tmp_path) == table(local)
    assert colorize(*words).exit_code == 1  # without Ray it goes on from there, and has nothing to do
    assert len(lines(tmp_path)) == PHOTOS + 1


@pytest.mark.usefixtures("cluster")
def test_one_worker_makes_the_same_from_urls_and_to_them(colorize, box: Path, local: Path, tmp_path: Path) -> None:
    words = ("-r", f"file://{box}", "-n", 1, "--threads", 1, "-o", f"file://{tmp_path}", "--engine", "ray")
    result = colorize(*words, "--workers", 1)
    assert (result.exit_code, result.stderr.count("error: "), result.exception) == (1, 1, None)
    assert f"file://{box}/bad.png: not a photo" in result.stderr
    assert pictures(tmp_path) == pictures(local)
    assert table(tmp_path) == table(local)
    assert colorize(*words).exit_code == 1  # the bad one is still bad, and nothing is done again
    assert len(lines(tmp_path)) == PHOTOS + 1


def test_ray_needs_an_output_folder(colorize, box: Path) -> None:
    result = colorize(box, "--engine", "ray")
    assert result.exit_code == 2
    assert "--output" in result.exception.format_message()


def test_a_cluster_that_cannot_be_reached_is_told_at_once() -> None:
    with socket.socket() as nobody:  # bound, but not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        for named in (address, f"ray://{address}"):
            with pytest.raises(OptionError, match=f"no Ray cluster answers at {named} .*; check --address"):
                ray_engine._check_reachable(named)
    for left_to_ray in (None, "auto", "local"):
        ray_engine._check_reachable(left_to_ray)


def test_what_is_looked_at_is_not_drawn_once_the_run_is_to_stop(
    tiny_model: Path, gray_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: SimpleNamespace(get=lambda answer: answer))
    sampling, shaping = SamplingOptions(1), Shaping()
    digest = file_sha256(tiny_model / "model.json")
    job = Job(str(gray_photo), str(gray_photo.parent), "photo", "photo.jpg")
    work = ray_engine._Work(0, Todo(job), look(str(gray_photo), shaping))
    for stopped in (False, True):
        ledger = ray_engine._Ledger()
        ledger.stopped = stopped
        remote = SimpleNamespace(begin=SimpleNamespace(remote=ledger.begin))
        painter = ray_engine._Painter(str(tiny_model), digest, "cpu", "float32", 1, sampling, shaping, remote)
        (content,) = painter({"work": [pickle.dumps(work)]})["work"]
        assert (pickle.loads(content).drawn is None) == stopped


def failing_painter(
    model: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> tuple[ray_engine._Painter, dict[str, list[bytes]], list[list[int]]]:
    """A painter to which photo 1 of a batch of three does `error`, the batch, and what it was given to draw."""
    monkeypatch.setattr(ray_engine, "_import_ray", lambda: SimpleNamespace(get=lambda answer: answer))
    sampling, shaping, ledger = SamplingOptions(1), Shaping(), ray_engine._Ledger()
    digest = file_sha256(model / "model.json")
    job = Job(str(photo), str(photo.parent), "photo", "photo.jpg")
    batch = [pickle.dumps(ray_engine._Work(n, Todo(job), look(str(photo), shaping))) for n in range(3)]
    remote = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(ledger, name)) for name in ("begin", "forget")})
    painter = ray_engine._Painter(str(model), digest, "cpu", "float32", 1, sampling, shaping, remote)
    drawn: list[list[int]] = []

    def draw(works: list[ray_engine._Work]) -> None:
        drawn.append([work.number for work in works])
        if 1 in drawn[-1]:
            raise error

    monkeypatch.setattr(painter, "_draw", draw)
    return painter, {"work": batch}, drawn


def test_photos_over_which_an_actor_dies_are_drawn_alone_and_the_one_that_kills_it_is_given_up(
    tiny_model: Path, gray_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No handler takes SystemExit, as none lives on in a killed process.
    painter, batch, drawn = failing_painter(tiny_model, gray_photo, monkeypatch, SystemExit)
    for _ in range(3):
        with pytest.raises(SystemExit):
            painter(batch)
    outcomes = [pickle.loads(content).outcome for content in painter(batch)["work"]]
    assert drawn == [[0, 1, 2], [0], [1], [0], [1], [0], [2]]
    assert [outcome is None for outcome in outcomes] == [True, False, True]
    assert "killed 2 times over this photo" in outcomes[1].error


def test_photos_over_which_the_model_fails_are_drawn_alone_too(
    tiny_model: Path, gray_photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter, batch, drawn = failing_painter(tiny_model, gray_photo, monkeypatch, MemoryError)
    outcomes = [pickle.loads(content).outcome for content in painter(batch)["work"]]
    assert drawn == [[0, 1, 2], [0], [1], [2]]
    assert [outcome is None for outcome in outcomes] == [True, False, True]
    assert not outcomes[1].final
