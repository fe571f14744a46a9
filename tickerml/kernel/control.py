"""
What the kernel and its peers say to each other beside the bus: ROUTER/DEALER.

A host greets, is welcomed with its plugins, presents what it built, is admitted,
and reports Ready; then any traffic counts as a sign of life. A client (the command
line, the console) sends requests and gets one answer each; an answer that promises
something waits for the journal's commit.
"""

import enum
import os
import secrets
from pathlib import Path
from typing import Any

import msgspec

from .config import KernelSettings, PluginPlan
from .errors import BusError, HandshakeRefused

PROTOCOL = 2
TOKEN_VARIABLE = "TICKERML_TOKEN"
TELEMETRY = b"~"  # topics of what is neither ordered nor kept: ~status, ~log, ~head
HEAD = b"~head."  # how far every topic is, once a second, so that a drop on a quiet one is noticed


class Role(enum.StrEnum):
    """What a host is to the flow: it feeds it, it takes every message in order, or it looks on."""

    SOURCE = "source"
    CONSUMER = "consumer"
    PAGE = "page"


class _Control(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=False):
    pass


# --- host to kernel ---


class Hello(_Control, frozen=True):
    """I am a host of yours; the token proves it."""

    host: str
    pid: int
    token: str
    protocol: int
    schema: str


class Component(_Control, frozen=True):
    """One component a host has built."""

    plugin: str
    kind: str
    publishes: list[str]


class Present(_Control, frozen=True):
    """These are my components; failed names plugins that could not be loaded, with the reason."""

    host: str
    components: list[Component]
    failed: dict[str, tuple[str, str]]  # plugin -> (stage, error)


class Ready(_Control, frozen=True):
    """Restored and caught up."""

    host: str
    role: Role


class Beat(_Control, frozen=True):
    """Still here. How far a host is, Progress tells: it must not overtake the outputs."""

    host: str
    failed: list[str]


class Unfit(_Control, frozen=True):
    """I cannot run at all; is_config when the configuration is to blame."""

    host: str
    error: str
    is_config: bool


# --- kernel to host ---


class Welcome(_Control, frozen=True):
    """Build these plugins."""

    session: int
    plugins: list[PluginPlan]
    config: str
    settings: KernelSettings
    started_ns: int
    rules: list[str]
    vital: list[str]
    revived: list[str]
    has_gate: bool
    home: str
    run_dir: str
    profile: str


class Admitted(_Control, frozen=True):
    """Publish as these origins at these epochs; outputs are the last the kernel has of each."""

    origins: dict[str, int]
    epochs: dict[str, int]
    outputs: dict[str, tuple[int, int]]
    head: int
    tseq: dict[bytes, int]
    link: int  # number of this incarnation of the host: its bursts carry it


class Start(_Control, frozen=True):
    """Everyone is ready: a source may begin."""


class Pause(_Control, frozen=True):
    """A source at full speed waits: somebody is far behind."""


class Proceed(_Control, frozen=True):
    """Go on."""


class Canary(_Control, frozen=True):
    """Push this number in order with your outputs: the canary sets out from here."""

    number: int


class Stop(_Control, frozen=True):
    """Finish what you have, write a checkpoint, and exit."""


# --- client to kernel, and the answers ---


class StatusRequest(_Control, frozen=True):
    """What is the state of everything?"""


class HaltRequest(_Control, frozen=True):
    """Stop trading."""

    source: str
    reason: str


class ResumeRequest(_Control, frozen=True):
    """Lift the halt."""

    source: str
    reason: str


class PluginRequest(_Control, frozen=True):
    """Enable or disable a plugin, now and in plugins.toml."""

    plugin: str
    is_enabled: bool


class ShutdownRequest(_Control, frozen=True):
    """Stop everything cleanly."""

    reason: str


class RestartRequest(_Control, frozen=True):
    """Stop everything cleanly and start it again, in the same process."""

    reason: str


class SyncRequest(_Control, frozen=True):
    """Publish a Sync: whoever receives it has received everything before it."""

    purpose: str


class Done(_Control, frozen=True):
    """It is so, and on disk; seq is where."""

    seq: int


class Status(_Control, frozen=True):
    """The state of everything, ready for JSON."""

    report: dict[str, Any]


class Refused(_Control, frozen=True):
    """No, and why."""

    reason: str


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
    Hello
    | Present
    | Ready
    | Beat
    | Unfit
    | Welcome
    | Admitted
    | Start
    | Pause
    | Proceed
    | Canary
    | Stop
    | StatusRequest
    | HaltRequest
    | ResumeRequest
    | PluginRequest
    | ShutdownRequest
    | RestartRequest
    | SyncRequest
    | Done
    | Status
    | Refused
)

encode = _encoder.encode


def decode(data: bytes) -> Any:
    """
    Return the control message in *data*.

    Raises: BusError.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BusError(f"expected a control message, was {data[:40]!r}: {error}") from None


# --- notes travel in the data pipe, in order with the outputs they follow ---

PROGRESS = b"\0P"
CHECKPOINT = b"\0C"
CANARY = b"\0N"


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """A host has taken every input up to position, and pushed all its outputs."""

    host: str
    position: int


class HostCheckpoint(msgspec.Struct, frozen=True, array_like=True):
    """A host's whole state after the input *position*."""

    host: str
    position: int
    state: bytes


class CanaryNote(msgspec.Struct, frozen=True, array_like=True):
    """The canary of this number has come as far as this host, behind everything before it."""

    host: str
    number: int


class Pulled(msgspec.Struct, frozen=True, array_like=True):
    """An event that was taken from a source and waits for its time."""

    ts: int
    messages: list[bytes]


class HostState(msgspec.Struct, frozen=True, array_like=True):
    """What a host's checkpoint holds: its bus, its place in the order, and its sources' places."""

    position: int
    causes: dict[str, int]
    bus: bytes
    pulled: dict[str, Pulled] = {}


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The last seq, and the last tseq of every topic."""

    seq: int
    counts: dict[bytes, int]


def pack_head(head: Head) -> bytes:
    """Return *head* as it goes out on the bus."""
    return HEAD + b"\0" + msgspec.msgpack.encode(head)


def unpack_head(data: bytes) -> Head:
    """
    Return the head in a bus message.

    Raises: BusError.
    """
    try:
        return msgspec.msgpack.decode(data[len(HEAD) + 1 :], type=Head)
    except msgspec.MsgspecError as error:
        raise BusError(f"expected the head of the order, was {data[:40]!r}: {error}") from None


# --- where a running kernel is found ---


class Beacon(msgspec.Struct, frozen=True):
    """The content of HOME/kernel.json."""

    pid: int
    runtime: str
    profile: str
    run_dir: str
    session: int


def ingest_address(runtime: str) -> str:
    """Return the address of the kernel's data inlet."""
    return f"ipc://{runtime}/in"


def bus_address(runtime: str) -> str:
    """Return the address of the bus."""
    return f"ipc://{runtime}/bus"


def control_address(runtime: str) -> str:
    """Return the address of the control socket."""
    return f"ipc://{runtime}/ctl"


def beacon_path(home: Path) -> Path:
    """Return where the kernel of *home* says how it is reached."""
    return home / "kernel.json"


def new_token() -> str:
    """Return a secret that only the kernel's own children learn."""
    return secrets.token_hex(16)


def check_hello(hello: Hello, token: str, schema: str) -> None:
    """
    Raises: HandshakeRefused: protocol, message types or token differ.
    """
    if not secrets.compare_digest(hello.token, token):
        raise HandshakeRefused(f"host {hello.host} (pid {hello.pid}) was not started by this kernel")
    if hello.protocol != PROTOCOL:
        raise HandshakeRefused(f"host {hello.host} speaks protocol {hello.protocol}, this kernel {PROTOCOL}")
    if hello.schema != schema:
        raise HandshakeRefused(
            f"host {hello.host} has other message types ({hello.schema}) than this kernel ({schema}); "
            "reinstall tickerml so that both are the same version"
        )


def take_token() -> str:
    """Return the token from the environment and remove it from there, so that no child inherits it."""
    return os.environ.pop(TOKEN_VARIABLE, "")
