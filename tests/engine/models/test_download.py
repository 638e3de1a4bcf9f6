"""Downloads go on where they stopped, are checked, and appear whole or not at all; against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.download import _extract, fetch, fetch_official, obtain
from faceanon_engine.engine.models.official import OFFICIAL, Address, OfficialFile, official_files

CONTENT = bytes(range(256)) * 12_000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    content = CONTENT
    ranges = True
    cut_after: int | None = None
    status = 200
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(self.server.content):
            self.send_error(416)
            return
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut, self.server.cut_after = self.server.cut_after, None
        self.wfile.write(body if cut is None else body[:cut])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as here:
        here.asked = []
        thread = threading.Thread(target=here.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield here
        here.shutdown()
        thread.join()


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/weights.pth"


def test_a_download_is_complete_and_reported(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "weights.pth"
    assert fetch(address(server), target, sha256=CHECKSUM, progress=lambda *x: seen.append(x)) == CHECKSUM
    assert target.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert list(target.parent.iterdir()) == [target]


def test_a_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after = 1_500_000
    fetch(address(server), tmp_path / "w", sha256=CHECKSUM, pause=0.01)
    assert (tmp_path / "w").read_bytes() == CONTENT
    assert server.asked[0] is None
    assert server.asked[1] is not None


def test_what_an_earlier_run_left_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.partial").write_bytes(CONTENT[:1_000_000])
    fetch(address(server), tmp_path / "w", sha256=CHECKSUM)
    assert server.asked == ["bytes=1000000-"]
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "w.partial").write_bytes(CONTENT[:1_000_000])
    fetch(address(server), tmp_path / "w", sha256=CHECKSUM)
    assert (tmp_path / "w").read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected 0000"):
        fetch(address(server), tmp_path / "w", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (503, 3)])
def test_a_refusal_is_one_line_and_only_a_busy_server_is_asked_again(
    server: Server, tmp_path: Path, status: int, asked: int
) -> None:
    server.status = status
    with pytest.raises(UserError, match=str(status)) as caught:
        fetch(address(server), tmp_path / "w", pause=0.01, tries=3)
    assert "\n" not in str(caught.value)
    assert len(server.asked) == asked
    assert not (tmp_path / "w").exists()


def test_no_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="could not be downloaded"):
        fetch("http://127.0.0.1:9/weights.pth", tmp_path / "w", tries=2, pause=0.01)


def official(server: Server) -> OfficialFile:
    return OfficialFile("weights.pth", "generator", (Address(address(server), CHECKSUM),), "page", "terms")


def test_an_official_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[float, float | None]] = []
    obtained = obtain(official(server), tmp_path, progress=lambda done, total, what="": seen.append((done, total)))
    assert obtained.fetched is not None
    assert (obtained.fetched.sha256, obtained.fetched.url, obtained.fetched.stated) == (CHECKSUM, address(server), True)
    assert obtained.path.read_bytes() == CONTENT
    assert (seen[0], seen[-1]) == ((0, None), (len(CONTENT), len(CONTENT)))
    again = obtain(official(server), tmp_path)
    assert (again.path, again.fetched, again.problem) == (obtained.path, None, None)
    assert len(server.asked) == 1


def test_an_official_file_that_cannot_be_had_is_no_error(server: Server, tmp_path: Path) -> None:
    server.status = 404
    obtained = obtain(official(server), tmp_path)
    assert obtained.fetched is None
    assert "404" in str(obtained.problem)
    assert not obtained.path.exists()


@pytest.mark.parametrize(
    ("sent", "word"),
    [
        (b"<!DOCTYPE html><title>Quota exceeded</title>", "a web page \\('Quota exceeded'\\)"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "a pointer of Git LFS"),
        (b'{"error": "licence"}', "JSON"),
    ],
)
def test_a_page_that_is_sent_as_a_file_is_not_kept(server: Server, tmp_path: Path, sent: bytes, word: str) -> None:
    """Where no checksum is stated, nothing else would tell."""
    server.content = sent
    file = OfficialFile("weights.pth", "generator", (Address(address(server)),), "page", "terms")
    with pytest.raises(UserError, match=word) as caught:
        fetch(address(server), tmp_path / "weights.pth", tries=1)
    assert "\n" not in str(caught.value)
    assert word.split(" ")[0] in str(obtain(file, tmp_path).problem)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_stated_checksum_is_said_to_be_unverified(server: Server, tmp_path: Path) -> None:
    file = OfficialFile("weights.pth", "generator", (Address(address(server)),), "page", "terms")
    obtained = obtain(file, tmp_path)
    assert obtained.fetched is not None
    assert (obtained.fetched.sha256, obtained.fetched.stated) == (CHECKSUM, False)


def test_a_file_of_two_archives_is_taken_from_the_second_where_the_first_is_gone(
    server: Server, tmp_path: Path
) -> None:
    server.content = ARCHIVES["w:"]
    gone = Address("http://127.0.0.1:9/gone.tar", "0" * 64, archive=True)
    second = Address(
        address(server).replace("weights.pth", "e4e.tar?dl=1"), hashlib.sha256(server.content).hexdigest(), archive=True
    )
    file = OfficialFile("file.pth", "identity encoder", (gone, second), "page", "terms")
    fetched = fetch_official(file, tmp_path, tries=1)
    assert (fetched.url, fetched.stated) == (second.url, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


def test_nvidias_generator_is_offered_by_name_and_the_identity_encoder_from_both_of_its_archives() -> None:
    (nvidias,) = official_files(["stylegan2-ffhq-1024x1024.pkl"])
    assert nvidias.optional
    assert nvidias.addresses[0].url.startswith("https://api.ngc.nvidia.com/")
    assert nvidias.addresses[0].sha256 is None
    identity, e4e = official_files(["model_ir_se50.pth", "e4e_ffhq_encode.pt"])
    assert len(identity.addresses) == 2
    assert identity.addresses[1] == e4e.addresses[0]


def test_the_files_needed_are_those_nobody_named() -> None:
    assert [file.name for file in official_files()] == [file.name for file in OFFICIAL if not file.optional]
    assert [file.name for file in official_files(["ffhq.pkl"])] == ["ffhq.pkl"]
    with pytest.raises(UserError, match=r"unknown file 'nothing.pth': known are stylegan2_ffhq1024.pth"):
        official_files(["nothing.pth"])


@pytest.mark.parametrize(
    "mark", [b"", b"\xff\xfe", b'"two\r\nlines: 1"', b'"' + b"x" * 100_000 + b'"', b"W/weak", b'"a" "b"', b'"\0"']
)
def test_a_record_of_a_version_that_is_none_begins_anew(server: Server, tmp_path: Path, mark: bytes) -> None:
    """It would go into the request as it is; and what the beginning is of, nobody knows without it."""
    (tmp_path / "file.partial").write_bytes(b"of another file")
    (tmp_path / "file.partial.etag").write_bytes(mark)
    assert fetch(address(server), tmp_path / "file", tries=1) == CHECKSUM
    assert server.asked == [None]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_partial_file_that_is_none_is_refused(server: Server, tmp_path: Path, kind: str) -> None:
    partial = tmp_path / "file.partial"
    partial.mkdir() if kind == "folder" else os.mkfifo(partial)
    with pytest.raises(UserError, match=r"file\.partial is no file"):
        fetch(address(server), tmp_path / "file", tries=1)


def _archive(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name in ("folder/other", "folder/" + "x" * 200, "folder/file.pth"):
            member = tarfile.TarInfo(name)
            member.size = 1000
            archive.addfile(member, io.BytesIO(bytes(1000)))
    return stream.getvalue()


ARCHIVES = {mode: _archive(mode) for mode in ("w:", "w:gz", "w:bz2", "w:xz")}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_archive_is_unpacked_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(ARCHIVES[data.draw(st.sampled_from(sorted(ARCHIVES)))])
    for _ in range(data.draw(st.integers(1, 3))):
        first = data.draw(st.integers(0, len(content) - 1))
        content[first : first + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    archive, target = tmp_path / "archive.tar", tmp_path / "file.pth"
    archive.write_bytes(content)
    target.unlink(missing_ok=True)
    try:
        checksum = _extract(archive, target)
    except UserError as error:
        said = str(error)
    else:
        assert checksum == hashlib.sha256(target.read_bytes()).hexdigest()
        return
    assert "\n" not in said
    assert str(archive) in said
    assert not target.exists()
