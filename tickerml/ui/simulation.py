"""What `tickerml dev simulate` runs and prints."""

import json
import sys

from tickerml.testing import campaign, simulate
from tickerml.testing.campaign import Campaign
from tickerml.testing.scenario import unfold, with_faults
from tickerml.testing.trace import Trace


def run_one(seed: int, *, is_traced: bool, with_no_faults: bool, as_json: bool) -> bool:
    """Run one seed and print what came of it; returns whether it was green."""
    scenario = unfold(seed)
    if with_no_faults:
        scenario = with_faults(scenario, [])
    trace = Trace(is_on=is_traced)
    outcome = simulate.run(scenario, trace)
    failure = None if outcome.is_green else campaign.fail(outcome)
    if as_json:
        report = {
            "seed": seed,
            "green": outcome.is_green,
            "violation": outcome.violation,
            "end": outcome.end,
            "virtual_s": outcome.virtual_ns / 1e9,
            "messages": outcome.messages,
            "faults": [str(fault) for fault in scenario.faults],
            "shrunk": failure.faults if failure else [],
            "trace": trace.lines(),
            "coverage": outcome.seen,
        }
        print(json.dumps(report))
        return outcome.is_green
    for line in trace.lines():
        print(line)
    print(f"seed {seed}: {outcome.violation or outcome.end}")
    print(f"{outcome.messages:,} messages in {outcome.virtual_ns / 1e9:.3f} s of its time; its faults:")
    for fault in scenario.faults:
        print(f"  {fault}")
    if failure:
        _show_failure(failure, with_trace=not is_traced)
    return outcome.is_green


def run_many(seeds: range, *, processes: int, limit_s: float, as_json: bool) -> bool:
    """Run *seeds* on every core and print what was seen; returns whether all of it was green."""
    found = campaign.run(
        seeds,
        processes=processes,
        limit_s=limit_s,
        on_progress=lambda campaign: _show_progress(campaign, len(seeds), as_json),
    )
    if as_json:
        print(json.dumps(found.report()))
    else:
        _show(found)
    return found.is_green


def _show_progress(found: Campaign, seeds: int, as_json: bool) -> None:
    if as_json or not sys.stderr.isatty():
        return
    rate = 60 * found.seeds / found.elapsed_s
    line = f"{found.seeds:,} of {seeds:,} seeds, {found.seeds - found.green} failed, {rate:,.0f} a minute"
    print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)


def _show(found: Campaign) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    report = found.report()
    print("what was seen                                 times")
    for name, count in report["coverage"].items():
        print(f"  {name:<44} {count:>9,}{'' if count else '   never'}")
    ends = ", ".join(f"{count:,} {end}" for end, count in report["ends"].items())
    print(
        f"{found.seeds:,} seeds, {found.green:,} green ({ends}); {report['seeds_per_minute']:,.0f} a minute; "
        f"{found.messages:,} messages, {report['virtual_hours']} hours of their time, "
        f"in {found.elapsed_s:.0f} s"
    )
    for failure in found.failures:
        _show_failure(failure, with_trace=True)
    if found.unseen:
        print(f"expected of so many seeds, and never seen: {', '.join(found.unseen)}")


def _show_failure(failure: campaign.Failure, *, with_trace: bool) -> None:
    print(f"\nseed {failure.seed} failed: {failure.violation}")
    print(f"with {len(failure.faults)} of its faults it still does: {failure.shrunk}")
    for fault in failure.faults:
        print(f"  {fault}")
    if with_trace:
        print("the end of that run:")
        for line in failure.trace:
            print(f"  {line}")
    print(f"run it again: tickerml dev simulate --seed {failure.seed} --trace")
