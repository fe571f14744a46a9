import asyncio
import json
import stat
from functools import partial

import pytest
from argon2 import PasswordHasher
from starlette.responses import PlainTextResponse

from tickerml.kernel import ConfigError
from tickerml.ui import access as access_module
from tickerml.ui.access import ATTEMPTS, COOKIE, MINUTE_S, SESSION_S, Access, Gate, TooManyAttempts


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch):
    cheap = partial(PasswordHasher, time_cost=1, memory_cost=64)
    monkeypatch.setattr(access_module, "PasswordHasher", cheap)


@pytest.fixture
def access(tmp_path):
    return Access(tmp_path / "console")


def password_of(access):
    return access.new_password.read_text().strip()


# --- Password and sessions --------------------------------------------------------------------------


def test_the_first_start_makes_a_password_and_keeps_only_its_hash(access, tmp_path):
    password = password_of(access)
    stored = json.loads((tmp_path / "console" / "console.json").read_text())

    assert len(password) >= 16
    assert stored["password_hash"].startswith("$argon2id$")
    assert password not in json.dumps(stored)
    assert access.check_password(password)
    assert not access.check_password(f"{password}x")


def test_nobody_else_may_read_the_files(access, tmp_path):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "console").iterdir()}

    assert modes == {0o600}


def test_the_next_start_keeps_password_and_sessions(access, tmp_path):
    token = access.new_session()
    again = Access(tmp_path / "console")

    assert again.new_password is None
    assert again.check_password(password_of(access))
    assert again.is_session(token)


def test_a_damaged_access_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "console.json").write_text("{")

    with pytest.raises(ConfigError, match="remove it, and a new password is made"):
        Access(tmp_path)


def test_after_five_wrong_passwords_even_the_right_one_must_wait_a_minute(access, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(access_module.time, "monotonic", lambda: now)
    for _ in range(ATTEMPTS):
        assert not access.check_password("wrong")

    with pytest.raises(TooManyAttempts):
        access.check_password(password_of(access))
    now += MINUTE_S + 1
    assert access.check_password(password_of(access))


def test_right_passwords_do_not_count_as_attempts(access):
    for _ in range(ATTEMPTS + 1):
        assert access.check_password(password_of(access))


def test_a_session_ends_with_its_time_or_when_all_are_ended(access, monkeypatch):
    old, token = access.new_session(), access.new_session()
    access.end_sessions()
    assert not access.is_session(old)

    token = access.new_session()
    later = access_module.time.time() + SESSION_S + 1
    monkeypatch.setattr(access_module.time, "time", lambda: later)
    assert not access.is_session(token)


@pytest.mark.parametrize("forged", ["", "x", "{token}x", "9{token}", "{token}é"])
def test_a_forged_session_is_refused(access, forged):
    assert not access.is_session(forged.format(token=access.new_session()))


# --- The gate ---------------------------------------------------------------------------------------


def ask(access, path="/", kind="http", cookie="", origin="", accept="*/*"):
    """Return (status or close code, headers) of one request through the gate."""
    headers = [(b"host", b"127.0.0.1:8080"), (b"accept", accept.encode())]
    headers += [(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else []
    headers += [(b"origin", origin.encode())] if origin else []
    scope = {"type": kind, "path": path, "method": "GET", "headers": headers, "query_string": b""}
    sent = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        sent.append(message)

    async def inner(scope, receive, send):
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
        else:
            await PlainTextResponse("in")(scope, receive, send)

    asyncio.run(Gate(inner, access)(scope, receive, send))
    answer = sent[0]
    return answer.get("status", answer.get("code")), dict(answer.get("headers", []))


def test_without_a_session_only_sign_in_and_the_sign_of_life_are_served(access):
    assert ask(access, "/login")[0] == 200
    assert ask(access, "/api/v1/health")[0] == 200
    for page in ("/", "/market/kraken", "/data", "/a-page-of-a-plugin"):
        status, headers = ask(access, page, accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert (status, headers[b"location"]) == (303, b"/login")
    assert ask(access, "/api/v1/status")[0] == 401
    assert ask(access, "/_nicegui/3/static/nicegui.js")[0] == 401
    assert ask(access, "/_nicegui_ws/socket.io/")[0] == 401
    assert ask(access, "/_nicegui_ws/socket.io/", "websocket")[0] == 4401


def test_with_a_session_everything_is_served_and_no_page_is_kept(access):
    status, headers = ask(access, "/", cookie=access.new_session())

    assert (status, headers[b"cache-control"]) == (200, b"no-store")
    assert b"frame-ancestors 'none'" in headers[b"content-security-policy"]
    assert ask(access, "/_nicegui_ws/socket.io/", "websocket", access.new_session())[0] is None


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:9999", "null"])
def test_pages_of_other_sites_are_refused_even_with_a_session(access, origin):
    token = access.new_session()

    assert ask(access, "/", cookie=token, origin=origin)[0] == 403
    assert ask(access, "/_nicegui_ws/socket.io/", "websocket", token, origin)[0] == 4401
    assert ask(access, "/", cookie=token, origin="http://127.0.0.1:8080")[0] == 200
