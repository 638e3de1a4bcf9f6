"""Downloads go on where they stopped, are checked, and appear whole or not at all; against a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from faceanon_engine.engine.errors import UserError
from faceanon_engine.engine.models.download import fetch, obtain
from faceanon_engine.engine.models.official import OFFICIAL, Address, OfficialFile, official_files

CONTENT = bytes(range(256)) * 12_000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
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
        if start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
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
    assert (obtained.fetched.sha256, obtained.fetched.url) == (CHECKSUM, address(server))
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


def test_the_files_needed_are_those_nobody_named() -> None:
    assert [file.name for file in official_files()] == [file.name for file in OFFICIAL if not file.optional]
    assert [file.name for file in official_files(["ffhq.pkl"])] == ["ffhq.pkl"]
    with pytest.raises(UserError, match=r"unknown file 'nothing.pth': known are stylegan2_ffhq1024.pth"):
        official_files(["nothing.pth"])
