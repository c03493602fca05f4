"""Where images may be read from: no path and no address leads elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pgembed.errors import ImageError, InvalidParameter
from pgembed.service import image_roots
from pgembed.service.image_roots import ImageNotThere, ImageRoots


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to allow, with a secret beside it."""
    root = tmp_path / "photos"
    (root / "of 2026").mkdir(parents=True)
    (root / "of 2026" / "a.png").write_bytes(b"a photo")
    (tmp_path / "secret").write_bytes(b"a secret")
    (tmp_path / "photos2").mkdir()
    (tmp_path / "photos2" / "b.png").write_bytes(b"another root")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "way").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "of 2026" / "a.png")
    return root


def test_files_below_an_allowed_folder_are_read(folder: Path) -> None:
    roots = ImageRoots([str(folder)])
    assert roots.read("of 2026/a.png") == b"a photo"
    assert roots.read(str(folder / "of 2026" / "a.png")) == b"a photo"
    assert roots.read("of 2026/../of 2026/a.png") == b"a photo"
    assert roots.read("inside") == b"a photo"


@pytest.mark.parametrize(
    "location",
    [
        "../secret",
        "of 2026/../../secret",
        "/etc/passwd",
        "{beside}/secret",
        "{beside}/photos/../secret",
        "{beside}/photos2/b.png",
        "../photos2/b.png",
        "link",
        "way/secret",
        "of 2026",
        "not there",
        "~/secret",
        "a\0b",
        "x" * 5000,
        "",
        ".",
        "file:secret",
    ],
)
def test_nothing_else_is_read_and_nobody_learns_what_is_there(
    folder: Path, location: str
) -> None:
    roots = ImageRoots([str(folder)])
    with pytest.raises(ImageError, match="no file below the allowed folders"):
        roots.read(location.replace("{beside}", str(folder.parent)))


def test_a_large_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_roots, "MOST_BYTES", 5)
    with pytest.raises(ImageError, match="more than 5 bytes"):
        ImageRoots([str(folder)]).read("of 2026/a.png")


def test_a_folder_that_is_not_mounted_may_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    roots = ImageRoots([str(folder)])
    folder.rmdir()
    with pytest.raises(ImageNotThere, match="an allowed folder is not there"):
        roots.read("a.png")


def test_without_roots_nothing_is_read(folder: Path) -> None:
    roots = ImageRoots([])
    for location in (str(folder / "of 2026" / "a.png"), "https://localhost/a.png"):
        with pytest.raises(ImageError, match="allowed") as caught:
            roots.read(location)
        assert "--image-root" in str(caught.value.hint)


class Photos(BaseHTTPRequestHandler):
    """A server of photos that also leads elsewhere."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, headers, body = {
            "/photos/a.png": (200, {}, b"a photo"),
            "/photos/away": (302, {"Location": "/secret"}, b""),
            "/photos/inside": (301, {"Location": "/photos/a.png"}, b""),
            "/photos/broken": (503, {}, b""),
            "/photos/large": (200, {}, b"x" * 100),
        }.get(self.path, (404, {}, b""))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked for."""
    asked: list[str] = []
    handler = type("Asked", (Photos,), {"asked": asked})
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}", asked
    running.shutdown()
    thread.join()
    running.server_close()


def test_addresses_below_an_allowed_one_are_fetched(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # which is not asked
    assert (
        ImageRoots([f"{address}/photos/"]).read(f"{address}/photos/a.png") == b"a photo"
    )
    assert asked == ["/photos/a.png"]


@pytest.mark.parametrize("name", ["away", "inside"])
def test_an_answer_that_leads_elsewhere_is_not_followed(
    server: tuple[str, list[str]], name: str
) -> None:
    address, asked = server
    with pytest.raises(ImageError, match="was not sent: 30"):
        ImageRoots([f"{address}/photos/"]).read(f"{address}/photos/{name}")
    assert asked == [f"/photos/{name}"]


def test_what_may_pass_is_told_from_what_does_not(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    roots = ImageRoots([f"{address}/photos/", "http://127.0.0.1:1/"])
    with pytest.raises(ImageError, match="404") as caught:
        roots.read(f"{address}/photos/none")
    assert not isinstance(caught.value, ImageNotThere)
    with pytest.raises(ImageNotThere, match="503"):
        roots.read(f"{address}/photos/broken")
    with pytest.raises(ImageNotThere, match="could not be fetched"):
        roots.read("http://127.0.0.1:1/a.png")
    monkeypatch.setattr(image_roots, "MOST_BYTES", 50)
    with pytest.raises(ImageError, match="more than 50 bytes"):
        roots.read(f"{address}/photos/large")


@pytest.mark.parametrize(
    "location",
    [
        "{address}/secret",
        "{address}/photos",
        "{address}/photos2/a.png",
        "{address}/photos/../secret",
        "{address}/photos/./a.png",
        "{address}/photos/%2e%2e/secret",
        "{address}/photos/%2E%2E%2Fsecret",
        "{address}/photos/..%2fsecret",
        "{address}/photos/..%5csecret",
        "{address}/photos/%252e%252e/secret",
        "{address}/photos/..\\secret",
        "{address}/photos//a.png",
        "{address}/photos/..;/secret",
        "{address}/photos/..;x=1/secret",
        "{address}/photos/..%3b/secret",
        "{address}/photos/.%00./secret",
        "{address}/photos/%u002e%u002e/secret",
        "{address}/photos/%ef%bc%8e%ef%bc%8e/secret",
        "{address}/photos/%e2%80%a5/secret",
        "{address}/photos/..%ef%bc%8fsecret",
        "{address}/photos/..%ef%bc%bcsecret",
        "{address}/photos/%c0%ae%c0%ae/secret",
        "{address}/photos/%C0%AF..%c0%af/secret",
        "{address}/photos/a.png#{address}",
        "{address}/photos/a png",
        "{address}/photos/a.png\r\nHost: elsewhere",
        "https{rest}/photos/a.png",
        "http://user@{host}/photos/a.png",
        "http://{host}@169.254.169.254/photos/a.png",
        "http://169.254.169.254/photos/a.png",
        "http://127.0.0.1:80/photos/a.png",
        "http://localhost:{port}/photos/a.png",
        "http://[::1]:{port}/photos/a.png",
        "http://2130706433:{port}/photos/a.png",
        "http://{host}.elsewhere.test/photos/a.png",
        "http://elsewhere.test/{address}/photos/a.png",
        "http://{host}\u3002test/photos/a.png",
        "http://127.0.0.1:99999/photos/a.png",
        "file:///etc/passwd",
        "file://{host}/photos/a.png",
        "ftp://{host}/photos/a.png",
        "gopher://{host}/photos/a.png",
        "data://image/png;base64,AAAA",
    ],
)
def test_no_other_address_is_asked(
    server: tuple[str, list[str]], location: str
) -> None:
    address, asked = server
    host = address.removeprefix("http://")
    given = (
        location.replace("{address}", address)
        .replace("{rest}", address.removeprefix("http"))
        .replace("{host}", host)
        .replace("{port}", host.partition(":")[2])
    )
    with pytest.raises(ImageError, match="not below an allowed address"):
        ImageRoots([f"{address}/photos/"]).read(given)
    assert asked == []


@pytest.mark.parametrize(
    "root",
    [
        "photos",
        "/no/such/folder",
        "https://host",
        "https://host/photos",
        "https://user:word@host/photos/",
        "https://host/photos/../",
        "https://host/photos/?a=b",
        "ftp://host/photos/",
        "file:///photos/",
        "https:///photos/",
    ],
)
def test_a_root_that_means_no_place_is_refused(root: str) -> None:
    with pytest.raises(InvalidParameter, match="image root"):
        ImageRoots([root])
