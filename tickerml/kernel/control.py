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

from .config import KernelSettings, Plan, PluginPlan
from .errors import BusError, HandshakeRefused

PROTOCOL = 3
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


class StandingBy(_Control, frozen=True):
    """I hear everything and hold it: what comes after any state that I am given, I can go on with."""

    host: str
    begins: dict[str, int] = {}  # stream of a live feed -> the exchange's seq behind which mine begins


class PartTaken(_Control, frozen=True):
    """I have this part of the state."""

    host: str
    part: int


class Took(_Control, frozen=True):
    """I have restored the state and go on from it; failed are the plugins that were set aside in it."""

    host: str
    failed: list[str]


class NotTaken(_Control, frozen=True):
    """I cannot go on from this state."""

    host: str
    reason: str


class Shadowed(_Control, frozen=True):
    """How what I would have published compares with what was published, so far."""

    host: str
    equal: int
    different: int
    only_old: int
    only_new: int
    examples: list[str]


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
    """
    Publish as these origins at these epochs; outputs are the last the kernel has of each.

    What lies behind the first seq of *away*, up to the second, happened without this host.
    """

    origins: dict[str, int]
    epochs: dict[str, int]
    outputs: dict[str, tuple[int, int]]
    head: int
    tseq: dict[bytes, int]
    link: int  # number of this incarnation of the host: its bursts carry it
    away: tuple[int, int] = (0, 0)


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


class StandBy(_Control, frozen=True):
    """Listen, hold what you hear, and publish nothing; with_shadow when outputs will be compared."""

    origins: dict[str, int]
    head: int
    tseq: dict[bytes, int]
    with_shadow: bool
    away: tuple[int, int] = (0, 0)


class Shadow(_Control, frozen=True):
    """Run on live input from your last checkpoint, publish nothing, and compare."""


class ShadowOver(_Control, frozen=True):
    """Forget what you did as a shadow, and stand by again."""


class Barrier(_Control, frozen=True):
    """Stop where you are, hand over your state, and stand by."""

    number: int  # of the handover, told back with the state
    after: dict[str, int] = {}  # streams of live feeds that must have come so far first


class Resume(_Control, frozen=True):
    """Nobody takes over: go on where you stopped, as before."""

    number: int  # of the handover that it ends


class MoreState(_Control, frozen=True):
    """A part of the state has arrived: send the next of those that are left."""

    number: int


class TakeOver(_Control, frozen=True):
    """
    Go on from this state.

    It comes in parts, the last of which brings the epochs to publish at. Without any state
    (parts is 0) a host goes on from the state that it handed over itself.
    """

    position: int
    part: int
    parts: int
    data: bytes
    admitted: "Admitted | None"
    is_started: bool = False
    is_trial: bool = False  # whether the one before waits to go on; over when Permanent is said


class Permanent(_Control, frozen=True):
    """Nobody waits any longer to take your place back: a plugin that raises is set aside again."""


# --- client to kernel, and the answers ---


class StatusRequest(_Control, frozen=True):
    """What is the state of everything?"""


class HaltRequest(_Control, frozen=True):
    """Stop trading at a HaltLevel."""

    source: str
    reason: str
    level: int = 2


class ResumeRequest(_Control, frozen=True):
    """Lift the halt."""

    source: str
    reason: str


class ChangeRequest(_Control, frozen=True):
    """
    Run *plan* instead of the present one, without stopping.

    files maps each prepared temporary file to the one it replaces once the change is permanent;
    reload names hosts to be replaced although nothing in the plan says so.
    """

    plan: Plan
    reason: str
    shadow_s: float = 0.0
    probation_s: float = 30.0
    files: dict[str, str] = {}
    reload: list[str] = []


class CancelRequest(_Control, frozen=True):
    """Roll back the change that is under way."""

    reason: str


class SettleRequest(_Control, frozen=True):
    """End the shadow, or make the change in probation permanent, now."""


class DiagnosticsRequest(_Control, frozen=True):
    """What do a plugin's observers say of it?"""

    plugin: str


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


class Accepted(_Control, frozen=True):
    """The change of this number has begun; the status tells how it goes."""

    change: int


class Diagnosis(_Control, frozen=True):
    """What a plugin's observers say of it; asked of a host, and answered to a client."""

    plugin: str
    facts: dict[str, Any]


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
    | StandingBy
    | PartTaken
    | Took
    | NotTaken
    | Shadowed
    | StandBy
    | Shadow
    | ShadowOver
    | Barrier
    | Resume
    | MoreState
    | TakeOver
    | Permanent
    | ChangeRequest
    | CancelRequest
    | SettleRequest
    | DiagnosticsRequest
    | Accepted
    | Diagnosis
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
STATE = b"\0S"


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


class StatePart(msgspec.Struct, frozen=True, array_like=True):
    """A part of the state after the input *position*, with nothing published behind it."""

    host: str
    number: int  # of the handover that it answers
    position: int
    part: int
    parts: int
    data: bytes


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
    anchors: dict[str, tuple[int, int]] = {}  # source -> when, monotonic ns, which time of its data was due
    marks: dict[str, int] = {}  # stream of a live feed -> the exchange's last seq that was published
    ids: list[str] = []  # of the last news items that were published


decode_state = msgspec.msgpack.Decoder(HostState).decode  # made in advance: who takes over has no time for it


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
