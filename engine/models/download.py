"""Downloads the official checkpoints from their published addresses: resumed, retried, checked, atomic."""

from __future__ import annotations

import lzma
import os
import re
import socket
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, cast
from urllib.parse import urlsplit

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.checkpoints.foreign import START, Foreign, check_text
from faceanon_engine.engine.models.official import OfficialFile
from faceanon_engine.engine.system.digests import sha256_of, sha256_of_chunks
from faceanon_engine.engine.system.locks import locked
from faceanon_engine.engine.system.printable import first_line
from faceanon_engine.engine.system.progress import Progress

_BLOCK = 1 << 20
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,1000}"')
"""Only a strong mark promises the same bytes."""


@dataclass(frozen=True)
class Fetched:
    """What a download gave: the file's sha256 and the address it came from.

    stated: whether what the address sent was compared with a checksum that its publisher states.
    """

    sha256: str
    url: str
    stated: bool = False


@dataclass(frozen=True)
class Obtained:
    """What became of getting an official file; neither `fetched` nor a `problem` where it was there already."""

    path: Path
    fetched: Fetched | None = None
    problem: str | None = None
    """What is wrong with each of its addresses: the file has to be placed by hand."""


def obtain(file: OfficialFile, folder: Path, *, progress: Progress | None = None) -> Obtained:
    """Get the file into the folder unless it is there; that it cannot be had is part of the answer, and no error.

    `progress` counts bytes, from none on as soon as fetching begins.
    """
    path = folder / file.name
    if path.is_file():
        return Obtained(path)
    if progress is not None:
        progress(0, None, file.name)  # connecting may take a while, and nothing comes meanwhile
    try:
        return Obtained(path, fetched=fetch_official(file, folder, progress=progress))
    except UserError as error:
        return Obtained(path, problem=str(error))


def fetch_official(
    file: OfficialFile,
    folder: Path,
    *,
    progress: Progress | None = None,
    tries: int = 4,
    timeout: float = 30.0,
    pause: float = 1.0,
) -> Fetched:
    """Get the file into the folder from the first of its addresses that has it; arguments as `fetch`.

    An archive lies beside the file while it is read, and is removed afterwards. Raises UserError saying what is wrong
    with each address.
    """
    target = folder / file.name
    reasons = []
    for address in file.addresses:
        try:
            archive = folder / PurePosixPath(urlsplit(address.url).path).name
            checksum = fetch(
                address.url,
                archive if address.archive else target,
                sha256=address.sha256,
                progress=progress,
                tries=tries,
                timeout=timeout,
                pause=pause,
            )
            if address.archive:
                checksum = _extract(archive, target)
                archive.unlink(missing_ok=True)
            return Fetched(checksum, address.url, stated=address.sha256 is not None)
        except UserError as error:
            reasons.append(str(error))
    raise UserError("; ".join(reasons))


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

    The file appears under its name when it is complete and, where `sha256` is known, right; one that is there already
    and right is kept. `progress` counts bytes; `pause` is the wait before the second try in seconds, doubled for each
    further one (backoff). Raises UserError when the address cannot be reached, refuses, or sends something else, and
    when another process downloads the same file.
    """
    if sha256 is not None and target.is_file() and sha256_of(target) == sha256:
        return sha256
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{target.parent} cannot be made ({error.strerror}): choose another folder") from None
    if partial.exists() and not partial.is_file():
        raise UserError(f"{partial} is no file that a download left: move it away")
    lock = partial.with_name(partial.name + ".lock")
    taken = f"{partial} is being written by another download: wait for that one"
    with ExitStack() as stack:
        try:
            # Two that append to one partial file would mix their halves.
            stack.enter_context(locked(lock, refusal=taken))
        except OSError as error:
            raise UserError(f"{partial} cannot be written ({error.strerror}): choose another folder") from None
        checksum = _complete(url, partial, sha256, progress, tries, timeout, pause)
        try:
            os.replace(partial, target)
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror}): choose another folder") from None
        _etag(partial).unlink(missing_ok=True)
    return checksum


def _complete(
    url: str,
    partial: Path,
    sha256: str | None,
    progress: Progress | None,
    tries: int,
    timeout: float,
    pause: float,
) -> str:
    """Bring the partial file to its end; returns its sha256, or raises UserError with what the last try met."""
    reason = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        resumed = False
        try:
            resumed = _continue(url, partial, progress, timeout)
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == 416 and partial.exists():
                # Nothing follows what is here: it is complete, or the beginning of something else.
                complete = error.headers.get("Content-Range") == f"bytes */{partial.stat().st_size}"
                if (checksum := sha256_of(partial)) == sha256 or (sha256 is None and complete):
                    return checksum
                _discard(partial)
                continue
            if error.code < 500 and error.code not in (408, 429):
                raise UserError(f"{url} could not be downloaded ({reason}): check the address") from None
            continue
        except (OSError, HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = " ".join(str(cause).split()) or type(error).__name__
            if isinstance(cause, socket.gaierror):
                break  # There is no network, or no such host: neither changes within seconds.
            continue
        checksum = sha256_of(partial)
        if sha256 is None:
            _check_sent(url, partial)
        if sha256 in (None, checksum):
            return checksum
        _discard(partial)
        if not resumed:
            raise UserError(
                f"{url} sent a file with sha256 {checksum}, expected {sha256}: nothing was kept, do not use it"
            )
        reason = "what an earlier download left was of another file"
    raise UserError(f"{url} could not be downloaded ({reason}): try again later, it goes on where it stopped")


def _check_sent(url: str, partial: Path) -> None:
    """Raises UserError, and keeps nothing, where a server sent a page or a message under another name."""
    with open(partial, "rb") as stream:
        start = stream.read(START)
    try:
        check_text(start)
    except Foreign as error:
        _discard(partial)
        raise UserError(f"{url} sent something else than a checkpoint, {error}") from None


def _continue(url: str, partial: Path, progress: Progress | None, timeout: float) -> bool:
    """Append what is missing, or write all where the server cannot go on; returns whether it went on."""
    etag = _recorded_etag(partial)
    if etag is None and _etag(partial).exists():
        _discard(partial)  # of which version the beginning is, cannot be told any more
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "faceanon-engine"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if etag is not None:
            request.add_header("If-Range", etag)
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise UserError(f"{url} sent a web page instead of a file: download it in a browser")
        resumed = answer.status == 206 and str(answer.headers.get("Content-Range", "")).startswith(f"bytes {have}-")
        if not resumed:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length is not None and re.fullmatch(r"[0-9]{1,18}", length) else None
        with _writing(partial):
            if not resumed:
                etag = str(answer.headers.get("ETag", ""))
                if _STRONG_ETAG.fullmatch(etag):
                    _etag(partial).write_text(etag, encoding="ascii")
                else:
                    _etag(partial).unlink(missing_ok=True)
        with _open(partial, "ab" if resumed else "wb") as stream:
            while block := answer.read(_BLOCK):
                with _writing(partial):
                    stream.write(block)
                have += len(block)
                if progress is not None:
                    progress(have, total)
            with _writing(partial):
                stream.flush()
                os.fsync(stream.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
    return resumed


def _extract(archive: Path, target: Path) -> str:
    """Write the archive's file of the target's name to the target; returns its sha256. Nothing else is unpacked."""
    partial = target.with_name(target.name + ".partial")
    try:
        with tarfile.open(archive) as content:
            for member in content:
                if member.isfile() and not member.issparse() and PurePosixPath(member.name).name == target.name:
                    break
            else:
                raise UserError(f"{archive} holds no {target.name}: look into it, or get the file elsewhere")
            source = content.extractfile(member)
            assert source is not None
            with _writing(partial), open(partial, "wb") as stream:
                checksum = sha256_of_chunks(_copied(source, stream))
        os.replace(partial, target)
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"{archive} is no readable tar archive ({first_line(error)}): delete it and try again"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return checksum


def _copied(source: IO[bytes], target: IO[bytes]) -> Iterator[bytes]:
    """The blocks of the source, each when it is written to the target."""
    while block := source.read(_BLOCK):
        target.write(block)
        yield block


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell a failure of the disk from one of the network."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error}): free space there") from None


def _open(path: Path, mode: str) -> IO[bytes]:
    with _writing(path):
        return cast(IO[bytes], open(path, mode))


def _etag(partial: Path) -> Path:
    """Where the server's mark of the version that the partial file belongs to is kept."""
    return partial.with_name(partial.name + ".etag")


def _recorded_etag(partial: Path) -> str | None:
    """The mark that lies beside the partial file; None where there is none, or what lies there is none."""
    if not _etag(partial).is_file():
        return None
    try:
        with open(_etag(partial), "rb") as stream:
            etag = stream.read(1025).decode("ascii", "replace")
    except OSError:
        return None
    return etag if _STRONG_ETAG.fullmatch(etag) else None


def _discard(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _etag(partial).unlink(missing_ok=True)
