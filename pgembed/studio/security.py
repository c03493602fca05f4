"""Who may ask: by the name that is asked for, a token, and where a form came from."""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pgembed.studio.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from pgembed.studio.settings import StudioSettings

API = "/v1/"
# What has no secrets, and what a browser needs before it has the cookie.
_OPEN = ("/static/", "/login", "/openapi.json")
_READING = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    # No script and no style but the studio's own files: nothing in a row can run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Keys:
    """What the token opens, and what is made of it.

    Args:
        token: The token.
        port: Of the server; cookies of one host are shared by all its ports.
    """

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self.cookie_name = f"pgembed_studio_{port}"
        #: In the cookie; who reads it has no token for the API.
        self.cookie = self._made_of("cookie")

    def is_token(self, given: str) -> bool:
        """Whether this is the token, in a time that does not tell how much of it is."""
        return _same(given, self._token)

    def is_cookie(self, request: Request) -> bool:
        """Whether a browser has been let in."""
        return _same(request.cookies.get(self.cookie_name, ""), self.cookie)

    def is_bearer(self, request: Request) -> bool:
        """Whether the header has the token."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self.is_token(given.strip())

    def _made_of(self, purpose: str) -> str:
        key = self._token.encode()
        return hmac.new(key, purpose.encode(), hashlib.sha256).hexdigest()


class Guard:
    """Lets through who may ask, and puts the headers on every answer.

    Args:
        app: What is behind.
        settings: Names that it may be asked for by.
        keys: What opens it.
        closed: Answers a browser that has no cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: StudioSettings,
        keys: Keys,
        closed: Callable[[Request], Awaitable[Response]],
    ) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in settings.allowed_hosts)}
        self._keys = keys
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if request.url.path.startswith("/static/"):
                    headers["Cache-Control"] = "no-cache"  # but kept, and asked after
            await send(message)

        refusal = await self._refusal(request)
        answer = refusal or self._app
        await answer(scope, receive, send_with_headers)

    async def _refusal(self, request: Request) -> Response | None:
        path = request.url.path
        if not self._is_known(request.headers):
            # A name that somebody else lets lead here: DNS rebinding.
            return PlainTextResponse(
                "This name is not one of the studio's: see --allow-host.\n", 421
            )
        if path.startswith(API):
            return None if self._keys.is_bearer(request) else _no_token()
        if request.method not in _READING and not _is_own(request):
            return PlainTextResponse("This form is of another page.\n", 403)
        if path.startswith(_OPEN) or self._keys.is_cookie(request):
            return None
        return await self._closed(request)

    def _is_known(self, headers: Headers) -> bool:
        name = _host_name(headers.get("host", ""))
        if name in self._names:
            return True
        try:
            # An address is nobody's to redirect.
            ip_address(name)
        except ValueError:
            return False
        return True


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode(), right.encode())


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_own(request: Request) -> bool:
    """Whether a page of the studio's sent this, as the browser says."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    if origin is None:
        return False
    return origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


def _no_token() -> Response:
    problem = Problem(
        401,
        "the token is missing or wrong",
        "Send Authorization: Bearer TOKEN.",
        "invalid_api_key",
    )
    return JSONResponse(problem.as_openai(), 401, {"WWW-Authenticate": "Bearer"})
