"""
Every exception that TickerML raises on purpose.

TickerMLError
  ConfigError            plugins.toml or an option: file, key path, rule, what it was
  PluginError            .plugin names the culprit
    PluginNotFound
    PluginLoadError      raised while importing or constructing
    PluginContractError  published or returned what its kind does not allow
    StateRefused         restore() cannot take the state it was given
  FeedError              what a supervisor may retry
    FeedDisconnected
    SequenceBroken
    MalformedMessage
  BusError
    CodecError
    HandshakeRefused
    KernelUnreachable
  StoreError
    StoreFull
    StoreCorrupt
    StoreLocked          another kernel owns this home
    SubscriptionLost     a reader's next message is gone from the journal
  CaptureError           a recorded file that cannot be read to its end
  PackageError           a plugin's package that cannot be installed, or may not be
  ChangeRolledBack       the kernel took a change of its plugins back

A business "no" (an order denied, a halt) is a message, not an exception. Messages
read: what was asked, the rule, what it was, what to do.
"""


class TickerMLError(Exception):
    """Base of everything below; `except TickerMLError` never hides a bug of ours."""


class ConfigError(TickerMLError):
    """The configuration asks for something that cannot be; exit code 2."""


class PluginError(TickerMLError):
    """A plugin broke its side of the contract."""

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(f"{plugin}: {message}")
        self.plugin = plugin


class PluginNotFound(PluginError):
    """No installed distribution offers this plugin id."""


class PluginLoadError(PluginError):
    """The plugin raised while being imported or constructed."""


class PluginContractError(PluginError):
    """The plugin did what its kind does not allow."""


class StateRefused(PluginError):
    """The plugin cannot take the state it was given."""


class FeedError(TickerMLError):
    """A feed failed in a way that reconnecting may cure."""


class FeedDisconnected(FeedError):
    """The socket closed, or was silent for too long."""


class SequenceBroken(FeedError):
    """An update is missing between two that arrived."""


class MalformedMessage(FeedError):
    """A frame that does not follow the exchange's documented format."""


class BusError(TickerMLError):
    """The bus or its peers broke the protocol."""


class CodecError(BusError):
    """Bytes that are not a message we know."""


class HandshakeRefused(BusError):
    """The kernel turned a host away: protocol, schema or token do not match."""


class KernelUnreachable(BusError):
    """No kernel answers for this home; exit code 3."""


class StoreError(TickerMLError):
    """The journal or the tape cannot do what was asked."""


class StoreFull(StoreError):
    """The disk or the LMDB map is full; nothing further is accepted."""


class StoreCorrupt(StoreError):
    """Stored bytes do not match their checksum."""


class StoreLocked(StoreError):
    """Another kernel owns this home."""


class SubscriptionLost(StoreError):
    """What a reader would take next no longer exists: begin again, or jump to the head."""


class CaptureError(TickerMLError):
    """A recorded file is missing, truncated or not a capture."""


class PackageError(TickerMLError):
    """A plugin's package cannot be installed, or may not be; nothing was changed."""


class ChangeRolledBack(TickerMLError):
    """The kernel tried a change of its plugins and took it back; exit code 4."""
