"""The image of a real SGLang server that runs on the CPU.

It is built from the published wheels, and nothing in it is replaced except the CUDA kernels (`sgl_kernel`, a stub):
every flag, every endpoint and every metric is SGLang's own.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from image_debian import SITE_PACKAGES, console_script
from log import Step
from oci import Entry, FilesLayer, Image, TarLayer
from paths import HERE
from shell import ClusterError, logged, output

SOURCES = HERE / "images" / "sglang"
"""The requirements and the stub."""

REQUIREMENTS = SOURCES / "requirements.txt"

UNUSED = (
    # Loaded only when a GPU is used: these make up a third of the whole.
    "nvidia/cudnn/lib/libcudnn_*",
    "nvidia/cu13/lib/libcusolverMg.so.*",
    "nvidia/cu13/lib/libnvperf_*",
    "nvidia/cu13/lib/libnvrtc.alt.so.*",
    "nvidia/nvshmem/lib/*.bc",
    "nvidia/nvshmem/lib/*_transport_*",
    "torch/lib/libtorch_cuda_linalg.so",
    "triton/backends/nvidia/bin",
    "triton/backends/nvidia/lib/cupti*",
    "triton/_C/libproton.so",
    # For those who compile against the packages, or test them.
    "bin",
    "**/*.a",
    "nvidia/*/include",
    "pyarrow/include",
    "torch/bin/protoc*",
    "torch/include",
    "torch/share",
    "numba/tests",
    "pandas/tests",
    "pyarrow/tests",
    "scipy/**/tests",
    "sympy/**/tests",
)
"""What SGLang's wheels bring and a server on a CPU never opens, as patterns below the packages."""


RECIPE = " ".join(("1", *UNUSED))
"""What decides the image, besides SOURCES, as text. The number changes with what `make` does: to build the image
again takes minutes, so the text of this module does not count."""


def version() -> str:
    """The version of SGLang that the requirements pin."""
    found = re.search(r"^sglang==(\S+)$", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ClusterError(f"{REQUIREMENTS} does not pin sglang")
    return found[1]


def make(name: str, base: TarLayer, cache: Path, workshop: Path, step: Step) -> Image:
    """Put the image together in the scratch directory `workshop`, which has to stay until it is written."""
    root = workshop / "root"
    root.mkdir()
    output(["tar", "--extract", "--file", base.path, "--directory", root, "--exclude=./dev/*"])
    packages = root / SITE_PACKAGES
    _pip_install(packages, cache, workshop, step)
    shutil.copytree(SOURCES / "sgl_kernel", packages / "sgl_kernel", ignore=shutil.ignore_patterns("__pycache__"))
    _remove_unused(packages)
    step.progress("compiling the Python packages")
    _compile(root, SITE_PACKAGES)
    files = {
        SITE_PACKAGES: Entry(packages, 0o755),
        "usr/local/bin/sglang": Entry(console_script("sglang.cli.main"), 0o755),
    }
    home = "sgl-workspace/sglang"
    # The variable and the working directory are those of upstream's image.
    return Image(
        name,
        [base, FilesLayer(files, {home: 0o755})],
        env={"SGLANG_USE_CPU_ENGINE": "1"},
        workdir=f"/{home}",
    )


def _pip_install(target: Path, cache: Path, workshop: Path, step: Step) -> None:
    """Install wheels for Debian 12's Python into `target`, whatever Python and distribution this machine has."""
    # pip does not know that glibc 2.36 runs what was built for an older one, unless it is told each.
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(36, 4, -1)]
    platforms += [f"--platform=manylinux{year}_x86_64" for year in ("2014", "2010", "1")]
    options = ["--no-input", "--no-deps", "--no-compile", "--only-binary=:all:"]
    options += ["--implementation=cp", "--python-version=3.11"]
    options += [f"--target={target}", f"--requirement={REQUIREMENTS}"]
    logged(
        [sys.executable, "-m", "pip", "install", *options, *platforms],
        cache / "logs" / "pip-sglang.log",
        step,
        # pip moves what it unpacked: within one file system that is a rename.
        env={"TMPDIR": str(workshop), "PIP_PROGRESS_BAR": "off"},
    )


def _remove_unused(packages: Path) -> None:
    """Remove what UNUSED names. Raises ClusterError for a pattern that fits nothing: its time has passed."""
    for pattern in UNUSED:
        found = list(packages.glob(pattern))
        if not found:
            raise ClusterError(f"UNUSED: nothing in SGLang's packages fits {pattern}")
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _compile(root: Path, below: str) -> None:
    """Compile the Python sources of an image, with its own Python: without that, each start takes much longer.

    Compiled files hold their sources' dates, which the image does not keep, hence `unchecked-hash`.
    """
    compiler = ["python3", "-m", "compileall", "-q", "-j0", "--invalidation-mode=unchecked-hash", f"/{below}"]
    # Some packages carry templates that are not valid Python: they are left as they are, and so is the status.
    output(["chroot", root, "sh", "-c", '"$@" >/dev/null 2>&1 || true', "sh", *compiler])
