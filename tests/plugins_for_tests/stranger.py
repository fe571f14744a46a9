"""A good plugin from somebody who marks the hook with pluggy's own marker."""

from typing import Annotated

import msgspec
import pluggy

from tickerml.kernel import CancelOrder, Options, StrategySpec, SubmitOrder

hookimpl = pluggy.HookimplMarker("tickerml")


class StrangerOptions(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What it can be told."""

    patience: Annotated[int, msgspec.Meta(ge=1, description="how long it waits")] = 3


class Stranger:
    """Does nothing."""

    def __init__(self, ctx: object, options: StrangerOptions) -> None:
        self.options = options

    def snapshot(self) -> bytes:
        """Return nothing: there is nothing to remember."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing back."""


@hookimpl
def tickerml_strategies() -> list[StrategySpec]:
    """Offer the stranger."""
    return [
        StrategySpec(
            id="stranger",
            factory=Stranger,
            options=StrangerOptions,
            publishes=(SubmitOrder, CancelOrder),
            summary="does nothing",
        )
    ]
