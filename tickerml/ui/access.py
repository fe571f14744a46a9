"""
Who may look: one operator, one password, and a gate in front of every door.

The password is made at the first start; only its argon2id hash is kept, with the secret
that signs sessions, in one file that nobody else may read. A session is a signed expiry in
a cookie, so it survives a restart of the console; signing out changes the secret and so
ends every session at once.

The gate stands outside of the whole application, WebSockets included: without a session
nothing is served but the sign-in page and the sign of life, and nothing that another
site's page asks for is served at all.
"""

import hashlib
import hmac
import os
import secrets
import time
from collections import deque
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tickerml.kernel import ConfigError

COOKIE = "tickerml_session"
SESSION_S = 7 * 86_400
ATTEMPTS = 5  # wrong passwords a minute, by whomever: there is one operator
MINUTE_S = 60.0
OPEN_PATHS = frozenset({"/login", "/api/v1/health", "/favicon.ico"})
_POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Vue compiles its templates in the page
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self' data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)


class Stored(msgspec.Struct, frozen=True):
    """The content of the access file."""

    password_hash: str
    session_secret: str


class TooManyAttempts(Exception):
    """A further password is not even looked at."""


class Access:
    """Passwords and sessions."""

    def __init__(self, directory: Path) -> None:
        """
        Read the access file in *directory*, or make one with a new password.

        The new password is written to password.txt beside it, and its path is new_password.

        Raises: ConfigError: the file is there and cannot be read.
        """
        self._path = directory / "console.json"
        self._hasher = PasswordHasher()
        self._failures: deque[float] = deque()
        self.new_password: Path | None = None
        if not self._path.exists():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._create(directory / "password.txt")
        try:
            self._stored = msgspec.json.decode(self._path.read_bytes(), type=Stored)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"cannot read {self._path}: {error}; remove it, and a new password is made"
            ) from None

    def _create(self, password_path: Path) -> None:
        password = secrets.token_urlsafe(12)
        _write_private(password_path, f"{password}\n".encode())
        self._save(Stored(self._hasher.hash(password), secrets.token_urlsafe(32)))
        self.new_password = password_path

    def _save(self, stored: Stored) -> None:
        self._stored = stored
        _write_private(self._path, msgspec.json.encode(stored))

    def check_password(self, password: str) -> bool:
        """
        Return whether *password* is right.

        Raises: TooManyAttempts: five in the last minute were wrong.
        """
        now = time.monotonic()
        while self._failures and now - self._failures[0] > MINUTE_S:
            self._failures.popleft()
        if len(self._failures) >= ATTEMPTS:
            raise TooManyAttempts
        self._failures.append(now)  # before the slow check, so that guesses at the same time count too
        try:
            self._hasher.verify(self._stored.password_hash, password)
        except (Argon2Error, InvalidHashError):
            return False
        self._failures.clear()
        return True

    def new_session(self) -> str:
        """Return a session token that is good for SESSION_S."""
        expiry = str(int(time.time()) + SESSION_S)
        return f"{expiry}.{self._sign(expiry)}"

    def is_session(self, token: str) -> bool:
        """Return whether *token* is one of ours and still good."""
        expiry, _, signature = token.partition(".")
        is_ours = hmac.compare_digest(signature.encode(), self._sign(expiry).encode())
        return is_ours and int(expiry) > time.time()

    def end_sessions(self) -> None:
        """Sign everybody out."""
        self._save(msgspec.structs.replace(self._stored, session_secret=secrets.token_urlsafe(32)))

    def _sign(self, text: str) -> str:
        return hmac.new(self._stored.session_secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def _write_private(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)


class Gate:
    """Lets through what carries a session and comes from our own pages; sets the headers of every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, _with_headers(scope, send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 4401})
        else:
            await refusal(scope, receive, _with_headers(scope, send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return JSONResponse({"detail": "another site's page may not ask this of the console"}, 403)
        if scope["path"] in OPEN_PATHS or self._access.is_session(session_of(headers)):
            return None
        if "text/html" in headers.get("accept", ""):  # a person, who would open a page
            return RedirectResponse("/login", 303)
        return JSONResponse({"detail": "sign in first"}, 401)


def session_of(headers: Headers) -> str:
    """Return the session token that a request carries, "" for none."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


def _with_headers(scope: Scope, send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = _POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            if not scope["path"].startswith("/_nicegui/"):
                headers["Cache-Control"] = "no-store"
        await send(message)

    return send_with_headers
