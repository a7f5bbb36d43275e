# Copyright (c) the llm_d.multi_engine authors
# SPDX-License-Identifier: Apache-2.0
"""Fills a cache of Hugging Face with the weights of a model, before engines need them.

    python3 prefetch.py REPOSITORY [--revision REVISION] [--size BYTES] [--place WORDS]

Runs in the engine's image, with the huggingface_hub that is there (tried: 0.36, 1.33 and 2.4); how to reach
the Hub, where the cache is and the token come from the environment, as that library reads it. A new run goes
on where the last one was cut off. Newer versions of the library do not: they give each try a file of its own.
So large files are fetched here first, to where the library then finds them.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import hashlib
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Before the library is imported. Its bars are not made for logs; Xet fetches a whole file anew.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

#: Exit code that says that another try would end the same way.
HOPELESS = 78
#: Files at once, and seconds between two lines about how far it is.
WORKERS = 8
EVERY = float(os.environ.get("PREFETCH_PROGRESS_SECONDS", "10"))
#: What repositories hold besides safetensors: the same weights once more.
DUPLICATES = (
    "pytorch_model*.bin*", "tf_model*.h5", "flax_model*.msgpack", "*.pth", "*.gguf", "*.onnx", "*.onnx_data",
    "original/*", "metal/*", "onnx/*", "openvino/*", "coreml/*",
)  # fmt: skip


class GiveUp(Exception):
    """Why no new try can help."""


class File:
    """One file of a repository, and how much of it the cache has."""

    def __init__(self, sibling: Any, blobs: Path) -> None:
        lfs = sibling.lfs
        self.name, self.size = sibling.rfilename, sibling.size
        #: Only of large files; the cache calls them by it.
        self.sha256 = lfs["sha256"] if isinstance(lfs, dict) else getattr(lfs, "sha256", None)
        self.blob = blobs / (self.sha256 or sibling.blob_id or "unknown")
        self.part = self.blob.with_name(f"{self.blob.name}.prefetch")

    def there(self) -> int:
        """Return how many bytes the cache has."""
        for path in (self.blob, self.part):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0


def main() -> int:
    """Run, and say in one line how it ended."""
    # Nobody else would stop process 1.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    parser = argparse.ArgumentParser(description="Fill a cache of Hugging Face with the weights of a model.")
    parser.add_argument("repository")
    parser.add_argument("--revision")
    parser.add_argument("--size", type=int, help="bytes of the weights, where the Hub does not tell")
    parser.add_argument("--place", default=constants.HF_HUB_CACHE, help="what to call the cache in messages")
    options = parser.parse_args()
    try:
        with alone(Path(constants.HF_HUB_CACHE)):
            fetch(options)
    except Exception as error:  # noqa: BLE001 - whatever it was, the next try may do better
        if never := hopeless(error, options):
            say(f"given up: {never}")
            return HOPELESS
        say(f"failed, the next try goes on from here: {type(error).__name__}: {error}")
        return 1
    say(f"{options.repository} is in {options.place}")
    return 0


def hopeless(error: Exception, options: argparse.Namespace) -> str | None:
    """Return why no new try can help, in one line, or None where one may."""
    if isinstance(error, GiveUp):
        return str(error)
    if isinstance(error, RevisionNotFoundError):
        return f"{options.repository} has no revision {options.revision!r} at {constants.ENDPOINT}."
    refused = isinstance(error, HfHubHTTPError) and getattr(error.response, "status_code", None) in (401, 403)
    if refused or isinstance(error, RepositoryNotFoundError):
        given = "the token that is given may not read it" if os.environ.get("HF_TOKEN") else "it needs a token"
        return f"{constants.ENDPOINT} gives no {options.repository}: it does not exist, or {given}."
    return None


def fetch(options: argparse.Namespace) -> None:
    """Bring everything into the cache that is missing there."""
    if constants.HF_HUB_OFFLINE:
        check_offline(options)
        return
    info = HfApi().model_info(options.repository, revision=options.revision, files_metadata=True)
    names = [sibling.rfilename for sibling in info.siblings]
    ignored = DUPLICATES if any(name.endswith(".safetensors") for name in names) else ()
    blobs = Path(constants.HF_HUB_CACHE, f"models--{options.repository.replace('/', '--')}", "blobs")
    files = [
        File(sibling, blobs)
        for sibling in info.siblings
        if not any(fnmatch.fnmatch(sibling.rfilename, pattern) for pattern in ignored)
    ]
    told = all(file.size is not None for file in files)
    total = sum(file.size for file in files) if told else options.size
    blobs.mkdir(parents=True, exist_ok=True)
    check_room(total, files, options)
    with progress(total, files):
        large = [file for file in files if file.sha256 and not file.blob.exists()]
        with ThreadPoolExecutor(WORKERS) as pool:
            for _done in pool.map(lambda file: fetch_file(file, options.repository, info.sha), large):
                pass
        found = snapshot_download(options.repository, revision=options.revision, ignore_patterns=list(ignored))
    # Older versions of the library are content with what is there when the Hub goes away in between.
    missing = [file.name for file in files if not Path(found, file.name).exists()]
    if missing:
        raise OSError(f"the Hub went away before {', '.join(missing[:3])} came")


def fetch_file(file: File, repository: str, commit: str) -> None:
    """Fetch what is missing of one file, and move it to its place when it is what it should be."""
    with file.part.open("ab") as target:
        start = target.tell()
        # A range from the first byte on, too: without one the Hub refuses more than 50 GB.
        headers = {**build_hf_headers(), "Range": "bytes=0-"}
        if start != file.size:
            http_get(hf_hub_url(repository, file.name, revision=commit), target, resume_size=start, headers=headers)
        target.flush()
        os.fsync(target.fileno())
    if digest(file.part) != file.sha256:
        file.part.unlink()
        raise OSError(f"{file.name} is not what the Hub says it is; it is fetched anew")
    file.part.rename(file.blob)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            found.update(chunk)
    return found.hexdigest()


def check_offline(options: argparse.Namespace) -> None:
    """Refuse to start engines that would not find their weights."""
    try:
        snapshot_download(
            options.repository, revision=options.revision, ignore_patterns=list(DUPLICATES), local_files_only=True
        )
    except LocalEntryNotFoundError as error:
        # Newer versions of the library tell an incomplete one by it, too.
        wanted = f"{options.repository}@{options.revision}" if options.revision else options.repository
        message = f"{wanted} is not, or not as a whole, in {options.place}, and nothing may be downloaded (offline)."
        raise GiveUp(message) from error


def check_room(total: int | None, files: list[File], options: argparse.Namespace) -> None:
    """Refuse to begin what cannot be finished."""
    if total is None:
        say("the Hub tells no sizes and none is given (cache.weights_size): free space is not checked")
        return
    needed, free = max(0, total - sum(file.there() for file in files)), shutil.disk_usage(constants.HF_HUB_CACHE).free
    say(f"{options.repository}: {amount(total)}, {amount(needed)} of it missing; {amount(free)} are free")
    if needed > free:
        raise GiveUp(
            f"not enough room in {options.place}: {options.repository} needs {amount(needed)} more, "
            f"{amount(free)} are free."
        )


@contextlib.contextmanager
def alone(cache: Path):
    """Keep other downloads out of the cache: each would count the same free space as its own."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".prefetch.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another download into this cache is under way: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            say(f"the file system knows no locks ({error}): not waiting for other downloads")
        yield


@contextlib.contextmanager
def progress(total: int | None, files: list[File]):
    """Say every few seconds how far it is."""
    over, begin = threading.Event(), time.monotonic()
    first = sum(file.there() for file in files)

    def tell() -> None:
        while not over.wait(EVERY):
            done = sum(file.there() for file in files)
            rate = (done - first) / (time.monotonic() - begin)
            text = f"{amount(done)} of {amount(total)} ({100 * done // total} %)" if total else amount(done)
            text += f", {amount(rate)}/s"
            if total and rate:
                left = int((total - done) / rate)
                text += f", {left // 60}:{left % 60:02d} left"
            say(text)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def amount(count: float) -> str:
    """Return ``65.5 GB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
