"""Imports run one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import colorize_cli

PACKAGE = Path(colorize_cli.__file__).parent

# Each module and what of ours it may import, beside `errors` and `config`.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"colorizer", "openmp"},  # the first for type checkers; imported lazily
    "__main__": {"cli"},
    "errors": set(),
    "config": set(),
    "palette": set(),
    "atomic": set(),
    "ahead": set(),
    "digests": set(),
    "photo": {"atomic", "photo", "provenance", "xmp"},
    "xmp": set(),
    "provenance": {"xmp"},
    "chroma": set(),
    "models": {"models"},
    "sampling": {"models"},
    "checkpoints": {"atomic", "digests", "models"},
    "tf_import": {"checkpoints", "models", "tf_checkpoint"},
    "backbone_import": {"models"},
    "benchmark": {"checkpoints", "chroma", "colorizer", "machine", "models", "photo", "sampling", "views", "workers"},
    "machine": set(),
    "views": {"chroma", "photo"},
    "forks": {"models", "workers"},
    "colorizer": {
        "__init__",
        "ahead",
        "checkpoints",
        "forks",
        "models",
        "palette",
        "photo",
        "provenance",
        "sampling",
        "views",
        "workers",
    },
    "locations": set(),
    "listing": {"locations", "manifest", "storage"},
    "naming": {"listing", "locations"},
    "outcome": {"locations"},
    "manifest": {"locations"},
    "remote_manifest": {"manifest", "storage"},
    "journal": {"atomic", "manifest"},
    "planning": {
        "atomic",
        "digests",
        "journal",
        "listing",
        "locations",
        "manifest",
        "naming",
        "outcome",
        "photo",
        "provenance",
        "storage",
    },
    "steps": {"ahead", "photo", "provenance", "views"},
    "workers": set(),
    "storage": {"atomic", "locations", "steps"},
    "batch": {"colorizer", "journal", "locations", "manifest", "outcome", "planning", "steps", "storage", "views"},
    "local_engine": {"batch", "colorizer", "forks", "outcome", "planning", "steps", "storage", "views", "workers"},
    "ray_engine": {
        "batch",
        "checkpoints",
        "colorizer",
        "digests",
        "locations",
        "outcome",
        "photo",
        "planning",
        "steps",
        "storage",
        "workers",
    },
    "openmp": set(),
    "watching": {"listing"},
    "metrics": set(),
    "judge": {"atomic", "photo"},
    "evaluation": {"chroma", "colorizer", "judge", "metrics", "models", "palette", "photo", "views"},
    "tf_checkpoint": set(),
    "training": {
        "atomic",
        "backbone_import",
        "checkpoints",
        "judge",
        "models",
        "palette",
        "photo",
        "sampling",
        "training",
    },
    "cli": {
        "__init__",
        "atomic",
        "backbone_import",
        "batch",
        "benchmark",
        "checkpoints",
        "cli",
        "colorizer",
        "digests",
        "evaluation",
        "journal",
        "judge",
        "machine",
        "listing",
        "local_engine",
        "locations",
        "manifest",
        "models",
        "provenance",
        "naming",
        "outcome",
        "planning",
        "ray_engine",
        "remote_manifest",
        "steps",
        "training",
        "watching",
    },
}


def imports(path: Path) -> set[str]:
    """Our own top-level modules that a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "colorize_cli":
                names = [f"colorize_cli.{alias.name}" for alias in node.names]
            else:
                names = [node.module]
        for name in names:
            parts = name.split(".")
            if parts[0] == "colorize_cli":
                module = parts[1] if len(parts) > 1 else "__init__"
                found.add("__init__" if module.startswith("__") else module)
    return found - {"errors", "config"}


def test_every_import_follows_the_arrows() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        assert module in ALLOWED, f"{module} has no place in the plan"
        extra = imports(path) - ALLOWED[module]
        assert not extra, f"{path.relative_to(PACKAGE)} must not import {sorted(extra)}"


def test_help_and_version_load_no_torch() -> None:
    script = (
        "import sys; from colorize_cli.cli import cli\n"
        "try: cli(['{}'])\n"
        "except SystemExit as e: assert not e.code\n"
        "assert 'torch' not in sys.modules and 'PIL' not in sys.modules and 'numpy' not in sys.modules"
    )
    for option in ("--help", "--version"):
        subprocess.run([sys.executable, "-c", script.format(option)], check=True, capture_output=True)
