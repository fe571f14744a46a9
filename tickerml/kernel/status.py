"""How a kernel is, ready for JSON: to `status`, to the console, to whoever watches over it. Sans-IO."""

from pathlib import Path
from typing import Any, Protocol

from . import health as h
from .berths import Berths
from .changes import Changes
from .config import Plan
from .edges import Edges
from .flow import Ending, Step
from .health import Canary, Condition, Health
from .inlet import Inlet
from .journal import JournalWriter
from .lag import LagWatch
from .lifecycle import NOTHING_SEEN, Sighting
from .outlet import Outlet
from .report import host_row, plugin_row
from .sequencer import Sequencer
from .supervisor import Supervisor
from .units import NS_PER_S


class Kernel(Protocol):
    """What there is to know of a kernel."""

    plan: Plan
    edges: Edges
    berths: Berths
    supervisor: Supervisor
    sequencer: Sequencer
    inlet: Inlet
    outlet: Outlet
    writer: JournalWriter
    changes: Changes
    ending: Ending
    health: Health
    canary: Canary
    lag_watch: LagWatch
    run_dir: Path
    rate: float
    born_at: int

    @property
    def is_started(self) -> bool:
        """Whether the sources were let go."""


def conditions(kernel: Kernel, now: int) -> list[Condition]:
    """Return everything that is not as it should be."""
    supervisor, summary = kernel.supervisor, kernel.sequencer.summary
    hosts = supervisor.hosts.values()
    failed = {plugin: why for found in kernel.berths.failures().values() for plugin, why in found.items()}
    blocked = {entry.id: f"blocked: {entry.blocked}" for entry in kernel.plan.plugins if entry.blocked}
    found = [
        *h.of_journal(kernel.writer.error),
        *h.of_halt(summary.halted_by),
        *h.of_hosts(hosts, kernel.plan.vital_hosts()),
        *h.of_plugins(failed | blocked),
        *h.of_feeds(summary.lost),
        *h.of_channels(summary.channels),
        *kernel.lag_watch.conditions(),
    ]
    if kernel.plan.kernel.speed != "max":
        found += kernel.canary.conditions(now, hosts)
    if (ahead := kernel.edges.ahead_ns()) > NS_PER_S:
        words = f"the machine's was set back, and this one waits for it: {ahead / NS_PER_S:.0f} s"
        found.append(Condition("clock", words, about="set back"))
    if kernel.ending.step is not Step.RUNNING:
        found.append(Condition("kernel", kernel.ending.reason, h.State.STOPPING))
    elif not kernel.is_started:
        found.append(Condition("kernel", "waits for its hosts", h.State.STARTING))
    return found


def report(kernel: Kernel) -> dict[str, Any]:
    """Return the state of everything."""
    sequencer, writer = kernel.sequencer, kernel.writer
    now = kernel.edges.monotonic()
    kernel.health.update(kernel.edges.wall(), conditions(kernel, now))
    return {
        "state": kernel.health.state.value,
        "since_ns": kernel.health.since_ns,
        "degraded": kernel.health.report(),
        "halted_by": kernel.health.halted_by or None,
        "halt_level": int(sequencer.summary.level),
        "profile": kernel.plan.profile,
        "config": kernel.plan.config,
        "overrides": kernel.plan.overrides,
        "session": sequencer.session,
        "pid": kernel.edges.pid,
        "uptime_s": round((now - kernel.born_at) / NS_PER_S, 3),
        "seq": sequencer.seq,
        "committed": writer.committed,
        "messages_per_s": round(kernel.rate, 1),
        "duplicates": sequencer.duplicates,
        "bursts_repeated": kernel.inlet.repeated,
        "refused": sequencer.refused,
        "canary": kernel.canary.report(),
        "journal": {
            "path": str(kernel.run_dir / "journal"),
            "error": str(writer.error) if writer.error else None,
        },
        "rss_mb": kernel.edges.rss_mb(kernel.edges.pid),
        "hosts": _hosts(kernel, now),
        "plugins": _plugins(kernel, now),
        "change": kernel.changes.report(now),
        "summary": sequencer.summary.report(),
    }


def _hosts(kernel: Kernel, now: int) -> list[dict[str, Any]]:
    consumers, seq = kernel.supervisor.consumers(), kernel.sequencer.seq
    return [
        host_row(
            host,
            seq - host.position if host in consumers else 0,
            kernel.outlet.lag.behind_ns(host.position, now) if host in consumers else 0,
            kernel.edges.rss_mb(host.pid),
            kernel.edges.cpu_s(host.pid),
        )
        for host in kernel.supervisor.hosts.values()
    ]


def _plugins(kernel: Kernel, now: int) -> list[dict[str, Any]]:
    supervisor, published = kernel.supervisor, kernel.sequencer.published()
    rows = []
    for entry in kernel.plan.plugins:
        process = kernel.berths.active(entry.host)
        seen = NOTHING_SEEN
        if process:
            built = {component.plugin for component in process.present.components}
            seen = Sighting(bool(process.identity), built, process.failed)
        waits_for = supervisor.waits_for(entry.host) if entry.host in supervisor.hosts else ()
        host = supervisor.hosts.get(entry.host)
        count = published.get(entry.id, 0)
        rows.append(plugin_row(entry, host, seen, now=now, waits_for=waits_for, published=count))
    return rows
