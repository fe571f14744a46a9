"""
What a campaign has seen: states, transitions and paths, counted, so that a quiet world is noticed.

EXPECTED lists what a campaign of some thousand seeds must have met. A row that stays at zero
means that the world no longer goes there, and that its silence proves nothing.
"""

from collections.abc import Mapping

from .faults import Flaw, Kind

_PHASES = ("waiting", "starting", "ready", "down", "stopping", "stopped", "quarantined")
STEPS = ("starting", "standby", "shadow", "barrier", "takeover", "probation")  # of a swap

#: What must be seen, by name; log events of the production code appear under their own names.
EXPECTED: tuple[str, ...] = (
    *(f"fault {kind.value}" for kind in Kind),
    *(f"host {phase}" for phase in _PHASES),
    "host ready > down",
    "host starting > down",
    "host starting > ready",
    "host stopping > stopped",
    "consumer syncing",
    "consumer catching up",
    "consumer running",
    "consumer running > catching up",
    "kernel session",
    "kernel recovered",
    "kernel restarted in place",
    "kernel stopped by its journal",
    "kernel refused a damaged journal",
    "journal cut and trading halted",
    "journal repaired by a person",
    "reader rewound",
    "journal error on",
    "journal error off",
    "log journal.grown",
    "commits lost with the power",
    "inlet repeated",
    "inlet lost",
    "epoch refused",
    "checkpoint restored",
    "flow paused",
    "flow proceeded",
    "outlet blocked",
    "inlet left alone",
    "bus dropped",
    "canary published",
    "acknowledged",
    "refused",
    "trading halted",
    "trading resumed",
    "order denied",
    "order accepted",
    "order rejected",
    "order canceled",
    "order expired",
    "order filled",
    "run complete",
    "paced max",
    "paced played",
    "paced wall",
    "feed in doubt",
    "rules in a host of their own",
    *(f"swap {step}" for step in (*STEPS, "rolling back")),
    *(f"change rolled back at {step}" for step in STEPS),
    *(f"{who} lost in {step}" for who in ("kernel", "active") for step in STEPS),
    *(f"rolled back: {flaw}" for flaw in Flaw if flaw is not Flaw.KERNEL),
    "change permanent",
    "change refused",
    "state handed over in parts",
    "log host.fell_behind",
    "log journal.checkpoint_damaged",
    "log journal.cut",
    "log journal.failed",
    "log journal.recovered",
    "log kernel.stood_still",
)


def table(seen: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return (name, count) of everything expected, and then of everything else that was seen."""
    others = sorted(name for name in seen if name not in EXPECTED)
    return [(name, seen.get(name, 0)) for name in (*EXPECTED, *others)]


def unseen(seen: Mapping[str, int]) -> list[str]:
    """Return what was expected and never seen."""
    return [name for name in EXPECTED if not seen.get(name)]
