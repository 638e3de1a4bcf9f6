"""Downloads the official checkpoints from their published addresses: resumed, checked, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from faceanon_engine.engine.errors import UserError

Progress = Callable[[int, int | None], None]
_BLOCK = 1 << 20


@dataclass(frozen=True)
class OfficialFile:
    """A published checkpoint: its name, what it holds, a direct address or None, the page that offers it, its terms."""

    name: str
    holds: str
    url: str | None
    page: str
    licence: str
    sha256: str | None = None


# Addresses without a checksum published by the authors have none here: what was downloaded is recorded on import.
OFFICIAL: tuple[OfficialFile, ...] = (
    OfficialFile(
        "e4e_ffhq_encode.pt",
        "inverter and generator",
        None,
        "https://github.com/omertov/encoder4editing#pretrained-models",
        "MIT (code); the decoder derives from NVIDIA's StyleGAN2 FFHQ weights, non-commercial",
    ),
    OfficialFile(
        "model_ir_se50.pth",
        "identity encoder",
        None,
        "https://github.com/TreB1eN/InsightFace_Pytorch#21-ir-se50",
        "MIT (code); trained on MS-Celeb-1M, research use",
    ),
    OfficialFile(
        "FaRL-Base-Patch16-LAIONFace20M-ep64.pth",
        "attribute encoder",
        "https://github.com/FacePerceiver/FaRL/releases/download/pretrained_weights/"
        "FaRL-Base-Patch16-LAIONFace20M-ep64.pth",
        "https://github.com/FacePerceiver/FaRL",
        "MIT",
    ),
    OfficialFile(
        "ffhq.pkl",
        "generator, instead of the one in e4e's file",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/ffhq.pkl",
        "https://github.com/NVlabs/stylegan2-ada-pytorch",
        "NVIDIA Source Code License, non-commercial",
    ),
)


def sha256_so_far(path: Path) -> hashlib._Hash:
    """A running sha256 over what a file holds now."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    tries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> str:
    """Download to `target`, going on with what an interrupted download left; returns the file's sha256.

    The file appears under its name when it is complete and, where `sha256` is known, right. `progress(done, total)`
    counts bytes; `pause` is the wait before the second try in seconds, doubled for each further one. Raises UserError
    when the address cannot be reached, refuses, or sends something else.
    """
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target.parent} cannot be made ({error.strerror}): choose another folder") from None
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            _continue(url, partial, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == 416:
                # The server has no more than we have: what we have is complete, or it is another file's beginning.
                if attempt:
                    partial.unlink(missing_ok=True)
                elif sha256 is not None and sha256_so_far(partial).hexdigest() == sha256:
                    break
                else:
                    partial.unlink(missing_ok=True)
            elif error.code < 500:
                break
        except (urllib.error.URLError, HTTPException, ConnectionError, TimeoutError) as error:
            cause = getattr(error, "reason", error)
            reason = str(cause) or type(error).__name__
        except OSError as error:
            raise UserError(f"{partial} cannot be written ({error.strerror or error}): free space there") from None
    else:
        raise UserError(f"{url} could not be downloaded ({reason}): try again later, it goes on where it stopped")
    if not partial.exists() or (reason and "answered 4" in reason):
        raise UserError(f"{url} could not be downloaded ({reason}): check the address")
    found = sha256_so_far(partial).hexdigest()
    if sha256 is not None and found != sha256:
        partial.unlink()
        raise UserError(f"{url} sent a file with sha256 {found}, expected {sha256}: nothing was kept, do not use it")
    os.replace(partial, target)
    return found


def _continue(url: str, partial: Path, progress: Progress | None, timeout: float) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "faceanon-engine"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        resumed = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with open(partial, "ab" if resumed else "wb") as stream:
            while block := answer.read(_BLOCK):
                stream.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
