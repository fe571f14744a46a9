"""
The site: sign-in, the sign of life, the REST view of the state, and the pages of NiceGUI.

The sign-in page is plain HTML without a script, so a browser without a session gets none
of the application.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from nicegui import core, ui

from ..access import COOKIE, SESSION_S, Access, TooManyAttempts, session_of
from ..diagnostics import diagnose
from .arbitrage import Arbitrage
from .data import Data
from .frame import Desk
from .market import Markets
from .orders import Orders
from .overview import Overview
from .plugins import Plugins
from .risk import Risk

_HERE = Path(__file__).parent
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="#4c8dff">'
    '<path d="M6 3h2v3h2v9H8v4H6v-4H4V6h2zm10 2h2v4h2v8h-2v4h-2v-4h-2V9h2z"/></svg>'
)
_SIGN_IN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>TickerML · sign in</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head>
<body class="sign-in"><form method="post" action="/login">
<h1>{icon} TickerML <span class="paper">PAPER</span></h1>
<label for="password">Operator password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>
<p class="message" role="alert">{message}</p><button>Sign in</button>
<p class="hint">It was made at the first start: read it in <code>console/password.txt</code>
in the home of the run.</p></form></body></html>"""


def build_site(desk: Desk, access: Access) -> FastAPI:
    """Return the application; it trusts the Gate in front of it."""
    follower = desk.follower
    site = FastAPI(title="TickerML console", docs_url=None, redoc_url=None, openapi_url=None)
    style = (_HERE / "console.css").read_text()

    def sign_in_page(message: str, status: int) -> HTMLResponse:
        return HTMLResponse(_SIGN_IN.format(style=style, icon=_ICON, message=message), status)

    @site.get("/login")
    def show_sign_in() -> Response:
        return sign_in_page("", 200)

    @site.post("/login")
    def sign_in(request: Request, password: Annotated[str, Form()]) -> Response:
        try:
            is_right = access.check_password(password)
        except TooManyAttempts:
            return sign_in_page("Too many wrong passwords; wait a minute.", 429)
        if not is_right:
            return sign_in_page("Wrong password.", 401)
        answer = RedirectResponse("/", 303)
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, access.new_session(), SESSION_S, httponly=True, samesite="strict", secure=is_secure
        )
        return answer

    @site.post("/logout")
    def sign_out() -> Response:
        access.end_sessions()
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE)
        return answer

    @site.get("/api/v1/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @site.get("/api/v1/status")
    def status() -> dict[str, Any]:
        with follower.lock:
            return follower.state.report

    @site.get("/api/v1/plugins/{plugin}/diagnostics")
    def diagnostics(plugin: str) -> Response:
        content = json.dumps(diagnose(plugin, follower, desk.shelf), indent=2, default=str)
        name = "".join(each for each in plugin if each.isalnum() or each == "-")
        saved = {"Content-Disposition": f'attachment; filename="tickerml-{name}-diagnostics.json"'}
        return Response(content, media_type="application/json", headers=saved)

    def signed_in(request: Request) -> Callable[[], bool]:
        token = session_of(request.headers)
        return lambda: access.is_session(token)

    @ui.page("/", title="TickerML")
    def overview(request: Request) -> None:
        Overview(desk, signed_in(request), _is_dark(request)).build()

    @ui.page("/market", title="TickerML · market")
    def markets(request: Request) -> None:
        Markets(desk, signed_in(request), _is_dark(request), "").build()

    @ui.page("/market/{exchange}", title="TickerML · market")
    def one_exchange(request: Request, exchange: str) -> None:
        Markets(desk, signed_in(request), _is_dark(request), exchange).build()

    @ui.page("/orders", title="TickerML · orders and queue")
    def orders(request: Request) -> None:
        Orders(desk, signed_in(request), _is_dark(request)).build()

    @ui.page("/risk", title="TickerML · risk")
    def risk(request: Request) -> None:
        Risk(desk, signed_in(request), _is_dark(request)).build()

    @ui.page("/arbitrage", title="TickerML · arbitrage and funding")
    def arbitrage(request: Request) -> None:
        Arbitrage(desk, signed_in(request), _is_dark(request)).build()

    @ui.page("/data", title="TickerML · data")
    def data(request: Request) -> None:
        Data(desk, signed_in(request), _is_dark(request)).build()

    @ui.page("/plugins", title="TickerML · plugins")
    def plugins(request: Request) -> None:
        Plugins(desk, signed_in(request), _is_dark(request), "").build()

    @ui.page("/plugins/{plugin}", title="TickerML · plugins")
    def one_plugin(request: Request, plugin: str) -> None:
        Plugins(desk, signed_in(request), _is_dark(request), plugin).build()

    ui.run_with(
        site,
        favicon=_ICON,
        language="en-US",
        tailwind=False,
        show_welcome_message=False,
        binding_refresh_interval=None,
    )
    core.sio.eio.cors_allowed_origins = None  # engine.io's own rule, the same origin; NiceGUI opens it to all
    return site


def _is_dark(request: Request) -> bool:
    return request.cookies.get("tickerml_theme") != "light"
