"""Images that rows name by path or address: read only where the configuration allows.

What a row says is not trusted. A path is resolved, symbolic links included, and must
then lie in an allowed folder; an address must have an allowed one's scheme, host and
port, and lie below its path as it is written, without `..` or escapes of it. Answers
that lead elsewhere are not followed, and no proxy or credential is taken from the
environment.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unicodedata import normalize
from urllib.parse import SplitResult, unquote, urlsplit

from pgembed.errors import ImageError, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_BYTES: Final = 24 << 20  # of a file, as of one that is in the database
SECONDS: Final = 10.0  # until the other side answers, and between two pieces
TOGETHER_SECONDS: Final = 30.0
_AT_ONCE: Final = 1 << 16
_SCHEMES: Final = {"http": 80, "https": 443}


class ImageNotThere(ImageError):
    """An image could not be fetched now; another time it may."""


class ImageRoots:
    """The places that images may be read from."""

    def __init__(self, roots: Sequence[str]) -> None:
        """Take the places.

        Args:
            roots: Absolute paths of folders, and addresses that begin with http:// or
                https://.

        Raises:
            InvalidParameter: One is neither, or there is no such folder.
        """
        self._folders: list[Path] = []
        self._addresses: list[SplitResult] = []
        for root in roots:
            if "://" in root:
                self._addresses.append(_root_address(root))
            else:
                self._folders.append(_root_folder(root))
        self._open = urllib.request.build_opener(
            _NoRedirect, urllib.request.ProxyHandler({})
        ).open

    def read(self, location: str) -> bytes:
        """Read an image.

        Raises:
            ImageError: It may not be read, is too large, or is not there (and then it
                is an `ImageNotThere` where that may pass).
        """
        if "://" in location:
            return self._fetch(location)
        return self._read_file(location)

    def _read_file(self, location: str) -> bytes:
        for root in self._folders:
            try:
                file = (root / location).resolve(strict=True)
            except (OSError, ValueError, RuntimeError):
                continue
            if not file.is_relative_to(root):
                continue
            try:
                if not file.is_file():
                    break
                with file.open("rb") as opened:
                    return _checked(opened.read(MOST_BYTES + 1))
            except OSError as exc:
                raise ImageNotThere(
                    f"the image cannot be read: {exc.strerror}", detail=location
                ) from exc
        away = [root for root in self._folders if not root.is_dir()]
        if away:
            raise ImageNotThere(
                f"an allowed folder is not there: {away[0]}", detail=location
            )
        # The same whether it is there or not: nobody is told of other files.
        raise ImageError(
            "the image is no file below the allowed folders",
            detail=location,
            hint="pgembed serve --image-root FOLDER allows one.",
        )

    def _fetch(self, location: str) -> bytes:
        if not any(_below(root, location) for root in self._addresses):
            raise ImageError(
                "the image is not below an allowed address",
                detail=location,
                hint="pgembed serve --image-root https://HOST/PATH/ allows one.",
            )
        try:
            with self._open(location, timeout=SECONDS) as answer:
                until = time.monotonic() + TOGETHER_SECONDS
                data = b""
                while len(data) <= MOST_BYTES and (piece := answer.read1(_AT_ONCE)):
                    data += piece
                    if time.monotonic() > until:
                        raise TimeoutError(f"took more than {TOGETHER_SECONDS:g} s")
        except urllib.error.HTTPError as exc:
            exc.close()
            kind = ImageNotThere if exc.code in (408, 429) or exc.code >= 500 else None
            raise (kind or ImageError)(
                f"the image was not sent: {exc.code} {exc.reason}", detail=location
            ) from exc
        except (OSError, HTTPException, ValueError) as exc:
            raise ImageNotThere(
                f"the image could not be fetched: {exc}", detail=location
            ) from exc
        return _checked(data)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What leads elsewhere is an answer like 404."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _checked(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise ImageError(
            f"the image has more than {MOST_BYTES:,} bytes", hint="Store a smaller one."
        )
    return data


def _root_folder(root: str) -> Path:
    folder = Path(root)
    if not folder.is_absolute() or not folder.is_dir():
        raise InvalidParameter(
            f"image root {root!r} is no folder here",
            hint="Give an absolute path, or an address such as https://host/photos/.",
        )
    return folder.resolve()


def _root_address(root: str) -> SplitResult:
    parts = _split(root)
    if parts is None or parts.query or parts.fragment or not parts.path.endswith("/"):
        raise InvalidParameter(
            f"image root {root!r} is no address to allow",
            hint="Give http(s)://HOST/PATH/ with a slash at its end, without user, "
            "query, fragment or dots.",
        )
    return parts


def _split(address: str) -> SplitResult | None:
    """Part an address that means one place only, however it is read."""
    if not address.isascii() or not address.isprintable() or set(address) & set(" \\"):
        return None
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _SCHEMES or not parts.hostname or "@" in parts.netloc:
        return None
    del port
    return parts if _means_one_path(parts.path) else None


def _means_one_path(path: str) -> bool:
    # %2e and %2f may be read as a dot and a slash; %25 may be read twice.
    lowered = path.lower()
    if any(escape in lowered for escape in ("%2e", "%2f", "%5c", "%25", "//")):
        return False
    # Some servers read more: escapes that are no UTF-8, or none at all (%u002e), what
    # looks like a dot or a slash, and a step up to its `;`.
    read = normalize("NFKC", unquote(path))
    if set(read) & {"\ufffd", "%", "\\"} or not read.isprintable():
        return False
    return all(step.partition(";")[0] not in (".", "..") for step in read.split("/"))


def _below(root: SplitResult, location: str) -> bool:
    parts = _split(location)
    return (
        parts is not None
        and not parts.fragment
        and _origin(parts) == _origin(root)
        and parts.path.startswith(root.path)
    )


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or _SCHEMES[parts.scheme]
