"""
`tickerml why ORDER`: the way from the market to an order and what became of it.

It reads what is on the disk, so it works while the run goes on and after it has ended.

Exit codes: 0 done; 1 the journal is damaged; 2 wrong usage, or no such run or order.
"""

import json
import shutil
import textwrap
from typing import Annotated, Any

import msgspec
import typer

from tickerml.kernel import hookimpl
from tickerml.kernel.why import Story, tell

from .data_show import format_time
from .run_named import HOME, AsJson, Home, RunDir, find_run, reading

MOVES_SHOWN = 20  # of the queue; --json has them all


def why(
    order: Annotated[str, typer.Argument(help="The id of an order.")],
    run: RunDir = None,
    queue: Annotated[
        bool, typer.Option(help="Run the simulator again, to see what moved the queue ahead.")
    ] = True,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Tell why an order came to be: market, features, verdicts, gate, queue, fills, mark-outs, money."""
    found = find_run(run, home)
    with reading():
        story = tell(found, order, with_queue=queue)
    if as_json:
        return print(json.dumps(msgspec.to_builtins(story)))
    _print(story)


def _print(story: Story) -> None:
    print(f"{story.order_id}: {story.outcome}")
    width = max(60, shutil.get_terminal_size().columns)
    for step in _shortened(story.steps):
        head = f"{step['seq']:>10}  {format_time(step['ts'])[11:]}  {step['stage']:<9} "
        print(
            textwrap.fill(
                f"{step['who']}: {step['text']}",
                width,
                initial_indent=head,
                subsequent_indent=" " * len(head),
            )
        )
    for note in story.notes:
        print(f"note: {note}")
    if story.replay:
        print(f"to be there again: {story.replay}")


def _shortened(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return *steps* without the middle of a long queue."""
    moves = [step for step in steps if step["stage"] == "queue"]
    left_out = moves[MOVES_SHOWN // 2 : len(moves) - MOVES_SHOWN // 2] if len(moves) > MOVES_SHOWN else []
    if not left_out:
        return steps
    text = f"{len(left_out):,} more moves, which --json has"
    kept = [step for step in steps if step not in left_out]
    return sorted([*kept, {**left_out[0], "text": text}], key=lambda step: step["seq"])


@hookimpl
def tickerml_commands(app: typer.Typer) -> None:
    """Add `tickerml why`."""
    app.command("why")(why)
