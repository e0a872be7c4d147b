"""Standard streams: photos and pictures through them, what takes no more, what is closed, what is told at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from colorize_cli.cli import cli, main
from tests.test_batch import SIGNALS


def test_a_photo_from_standard_input_goes_to_standard_output(
    colorize, gray_photo: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ["-n", "1", "--no-provenance", "--model", str(tiny_model), "-o"]
    result = CliRunner().invoke(cli, ["-", *words, "-"], input=gray_photo.read_bytes(), standalone_mode=False)
    assert (result.return_value, result.exception) == (0, None)
    assert colorize(gray_photo, *words[:3], "-o", tmp_path / "out").exit_code == 0
    assert result.stdout_bytes == (tmp_path / "out" / "photo_color1.jpg").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize(
    ("wanted", "and_then"),
    [(("-q", "-o", "-"), ""), (("--json",), "; stopped, start the same command again when that is mended"), ((), "")],
)
def test_a_standard_output_that_takes_no_more_is_told_in_one_line(
    gray_photo: Path, tiny_model: Path, wanted: tuple[str, ...], and_then: str
) -> None:
    words = [Path(sys.executable).with_name("colorize"), gray_photo, "-n", "1", "--model", tiny_model, *wanted]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: standard output: cannot be written (No space left on device){and_then}\n",
    )


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_so_it_is_told_by_every_other_command(word: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [Path(sys.executable).with_name("colorize"), word], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (
        1,
        "error: standard output: cannot be written (No space left on device)\n",
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    """The console script, with a command that raises an error; it changes nothing of this process."""

    def run(error: Exception) -> None:
        def fails(**_: object) -> None:
            raise error

        monkeypatch.setattr(cli, "main", fails)
        monkeypatch.setattr("colorize_cli.cli.keep_memory", lambda: None)
        monkeypatch.setattr("colorize_cli.cli.signal.getsignal", lambda number: None)
        main()

    return run


def test_an_error_of_the_system_is_not_taken_for_one_of_standard_output(failing: Callable[[Exception], None]) -> None:
    with pytest.raises(OSError, match="No space left"):
        failing(OSError(28, "No space left on device"))


def test_a_shortage_of_memory_is_told_in_one_line(
    failing: Callable[[Exception], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        failing(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: too little memory")


@pytest.mark.skipif(os.name != "posix", reason="as a POSIX shell closes it")
@pytest.mark.parametrize("wanted", [("-", "-o", "out"), ("--from-file", "-")])
def test_a_standard_input_that_is_closed_is_told(tmp_path: Path, wanted: tuple[str, ...]) -> None:
    command = [Path(sys.executable).with_name("colorize"), *wanted]
    done = subprocess.run(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(0))
    assert (done.returncode, "standard input is closed" in done.stderr) == (2, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="as a POSIX shell closes it")
@pytest.mark.parametrize("wanted", [("-o", "-"), ("--json",)])
def test_a_standard_output_that_is_closed_is_told(gray_photo: Path, wanted: tuple[str, ...]) -> None:
    command = [Path(sys.executable).with_name("colorize"), gray_photo, "-n", "1", *wanted]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1))
    assert (done.returncode, "standard output is closed" in done.stderr) == (2, True)
    assert list(gray_photo.parent.iterdir()) == [gray_photo]


@pytest.mark.skipif(os.name != "posix", reason="as a POSIX shell closes them")
def test_no_file_gets_the_number_of_a_standard_stream_that_is_closed() -> None:
    script = "import os; from colorize_cli.cli import fill_closed_streams as fill; fill(); os._exit(os.open('.', 0))"
    done = subprocess.run([sys.executable, "-c", script], preexec_fn=lambda: os.closerange(0, 3))
    assert done.returncode == 3


@SIGNALS
def test_a_command_that_is_terminated_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("colorize"), "-", "-o", "out"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as one:
        while not list(tmp_path.iterdir()):
            assert one.poll() is None
            time.sleep(0.02)
        one.terminate()
        assert one.wait(60) == 130
    assert not list(tmp_path.iterdir())
