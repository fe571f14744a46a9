"""
Changes of plugins: edited, planned, sent to the kernel that runs, and followed to their end.

A change is an edit of plugins.toml or plugins.lock. Where a kernel runs, what it would run after
the edit is computed here, in full, and the kernel is asked to go over to that without stopping. It
puts the edited files in place itself once the change is permanent, and deletes them when it rolls
the change back. Where none runs, or nothing that it runs is touched, the files are put at once.

The command line and the console change plugins by this and by nothing else.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from tickerml.kernel import ChangeRolledBack, ConfigError, PackageError, control
from tickerml.kernel import catalog as catalogs
from tickerml.kernel import config as configs
from tickerml.kernel.client import Client, read_beacon
from tickerml.kernel.errors import KernelUnreachable
from tickerml.kernel.lock import Held, hold
from tickerml.kernel.plans import Plan

from . import documents, packages
from .documents import Documents

PROBATION_S = 30.0
_LOOK_S = 0.1  # between two looks at how a change goes

Edit = Callable[[Documents], None]
Report = dict[str, Any]


class Proposal(NamedTuple):
    """An edit that does not count yet; plan is what the kernel would run then, None where none runs."""

    plan: Plan | None
    files: dict[str, str]
    is_live: bool = False  # whether what the kernel runs is touched
    newly_blocked: Mapping[str, str] = MappingProxyType(
        {}
    )  # plugins that could run before, and why they could not any more


class Pace(NamedTuple):
    """How long a candidate runs beside the old version, and how long it may still be taken back, s."""

    shadow_s: float = 0.0
    probation_s: float = PROBATION_S


AT_ONCE = Pace()


class Turn(NamedTuple):
    """The right to change the plugins of a home; report is of the kernel that runs, None without one."""

    home: Path
    config: Path
    report: Report | None


# --- What there is ----------------------------------------------------------------------------------


def running(home: Path) -> Report | None:
    """
    Return the status of the kernel of *home*; None where none runs.

    Raises: KernelUnreachable: one runs, and does not answer.
    """
    try:
        read_beacon(home)
    except KernelUnreachable:
        return None
    client = Client(home)
    try:
        return client.status()
    finally:
        client.close()


def find_config(home: Path, given: Path | None, report: Report | None = None) -> Path:
    """
    Return the plugins.toml that was *given*, or that of the running kernel, or else the one that lies here.

    Raises: ConfigError: there is none, or another than the kernel runs with was given.
    """
    if report and report.get("config"):
        its = Path(report["config"])
        if given and given.expanduser().resolve() != its.resolve():
            raise ConfigError(f"the kernel on {home} runs with {its}, not with {given}; leave --config out")
        return its
    places = [given] if given else [Path("plugins.toml"), home / "plugins.toml"]
    path = next((place for place in places if place.exists()), given)
    if path is None:
        raise ConfigError(
            f"there is no plugins.toml here or in {home}; name one with --config, or go to the project's root"
        )
    return path.expanduser()


def catalog_of(home: Path, config: Path) -> catalogs.Catalog:
    """Return every plugin there is for a home and a plugins.toml; imports none of them."""
    return catalogs.find(home, documents.lock_beside(config))


@contextlib.contextmanager
def turn(home: Path, given: Path | None = None) -> Iterator[Turn]:
    """
    Have the plugins of *home* to oneself, with whatever an interrupted command left put right.

    Raises: PackageError: another command, or a change that the kernel makes, is under way.
        ConfigError, KernelUnreachable.
    """
    try:
        descriptor = hold(home / "plugins", "turn.lock")
    except Held as error:
        raise PackageError(
            f"another `tickerml plugin` (pid {error}) is changing the plugins of {home}; wait for its end"
        ) from None
    try:
        report = running(home)
        change = (report or {}).get("change")
        if change and change["step"] != "ended":
            raise PackageError(
                f"the kernel is making change {change['number']} ({change['reason']}), now at "
                f"{change['step']}; wait for its end, or cancel it in the console"
            )
        config = find_config(home, given, report).resolve()
        documents.recover(home, config)
        packages.sweep(home)
        yield Turn(home, config, report)
    finally:
        os.close(descriptor)


# --- From an edit to its end ------------------------------------------------------------------------


def propose(home: Path, config: Path, edit: Edit, report: Report | None = None) -> Proposal:
    """
    Return what *edit* comes to, written into files that do not count yet.

    Args:
        report: the status of the kernel that runs, for whose profile and --set it is planned.
    Raises: ConfigError: what it would make of plugins.toml cannot be.
    """
    edited = Documents(config)
    edit(edited)
    files = edited.stage()
    try:
        plan = _plan(home, config, files, report)
    except BaseException:
        documents.discard(files)
        raise
    was = None
    with contextlib.suppress(ConfigError):
        was = _plan(home, config, {}, report)
    if plan is None:
        return Proposal(None, files)
    could = {each.id for each in was.plugins if not each.blocked} if was else set()
    blocked = {each.id: each.blocked for each in plan.plugins if each.blocked and each.id in could}
    return Proposal(plan, files, plan != was, blocked)


def _plan(home: Path, config: Path, files: dict[str, str], report: Report | None) -> Plan | None:
    staged = {target: Path(name) for name, target in files.items()}
    path, lock = (staged.get(str(each), each) for each in (config, documents.lock_beside(config)))
    try:
        loaded = msgspec.structs.replace(configs.load(path), path=config)
        if report is None:
            return None
        found = catalogs.find(home, lock)
        return configs.plan(loaded, report["profile"], report.get("overrides", []), catalog=found)
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(path), str(config))) from None


def check(proposal: Proposal, reason: str) -> None:
    """
    Make sure that a proposal keeps no plugin from running that can run now.

    Raises: PackageError: it does; its files are gone then.
    """
    for plugin, why in proposal.newly_blocked.items():
        documents.discard(proposal.files)
        raise PackageError(f"cannot {reason}: {plugin} could not run any more: {why}")


def send(client: Client, proposal: Proposal, reason: str, pace: Pace, reload: Sequence[str] = ()) -> int:
    """
    Ask the kernel for a change; returns its number.

    Args:
        reload: hosts to be replaced although nothing in the plan says so.
    Raises: BusError: it refused, and why; the files of the proposal are gone then. KernelUnreachable.
    """
    assert proposal.plan is not None
    request = control.ChangeRequest(
        plan=proposal.plan,
        reason=reason,
        shadow_s=pace.shadow_s,
        probation_s=pace.probation_s,
        files=proposal.files,
        reload=list(reload),
    )
    try:
        number: int = client.request(request).change
    except BaseException:
        documents.discard(proposal.files)
        raise
    return number


def follow(client: Client, number: int, look_s: float = _LOOK_S) -> Iterator[Report]:
    """
    Yield how a change goes, again and again, until it has ended.

    Raises: KernelUnreachable: it is gone, or knows nothing of the change any more.
    """
    while True:
        change = client.status().get("change")
        if not change or change["number"] != number:
            raise KernelUnreachable(
                f"how change {number} ended is not known: the kernel was started again, or has begun "
                "another; `tickerml plugin list` shows what runs"
            )
        yield change
        if change["step"] == "ended":
            return
        time.sleep(look_s)


def carry_out(
    at: Turn,
    proposal: Proposal,
    reason: str,
    *,
    pace: Pace = AT_ONCE,
    reload: Sequence[str] = (),
    show: Callable[[str], None] = lambda text: None,
) -> Report | None:
    """
    Make a proposal count; returns the change as the kernel tells of it, None where it had no part in it.

    Args:
        show: told how it goes, in one line, again and again.
    Raises: ChangeRolledBack: with the reason; everything is as it was. BusError: the kernel refused.
    """
    if at.report is None or not (proposal.is_live or reload):
        documents.put(proposal.files, at.home)
        return None
    client = Client(at.home)
    change: Report = {}
    try:
        number = send(client, proposal, reason, pace, reload)
        for change in _to_the_end(client, number):
            show(describe(change))
    finally:
        client.close()
    if change["outcome"] != "permanent":
        documents.discard(proposal.files)
        raise ChangeRolledBack(
            f"{reason}: rolled back at {change['failed_at']}: {change['error']}; "
            "everything is as it was before"
        )
    return change


def _to_the_end(client: Client, number: int) -> Iterator[Report]:
    """Follow a change; whoever does not want to wait any longer takes it back."""
    try:
        yield from follow(client, number)
    except KeyboardInterrupt:
        client.request(control.CancelRequest("interrupted"))
        yield from follow(client, number)


def make(at: Turn, edit: Edit, reason: str, **how: Any) -> Report | None:
    """
    Propose an edit and carry it out; what they take, return and raise.

    Raises: PackageError: it would keep a plugin from running that can run now.
    """
    proposal = propose(at.home, at.config, edit, at.report)
    check(proposal, reason)
    return carry_out(at, proposal, reason, **how)


def describe(change: Report) -> str:
    """Return how a change goes, in one line."""
    parts = [f"{change['host']}: {change['step']}" if change["host"] else change["step"]]
    parts += [f"{change['left_s']:.0f} s left"] if change["left_s"] else []
    parts += [describe_shadow(change["shadow"])] if change["shadow"] else []
    return "  ".join(parts)


def describe_shadow(shadow: Report) -> str:
    """Return how the outputs of a candidate compare with those of the version that runs."""
    return (
        f"{shadow['equal']:,} outputs equal, {shadow['different']:,} different, "
        f"{shadow['only_old']:,} only of the old, {shadow['only_new']:,} only of the new"
    )
