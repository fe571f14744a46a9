"""A running system whose one component is replaced, and whether any of its outputs was lost meanwhile."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tickerml.kernel import BusError, FeatureVector, KernelUnreachable, Trade, codec, config, control
from tickerml.kernel.client import Client
from tickerml.kernel.journal import JournalReader
from tickerml.kernel.runs import latest

PLUGINS = Path(__file__).parent / "swapped"
sys.path.append(str(PLUGINS))  # where the catalog looks for them

HOST = "subject"
NEAR = 100  # messages that a host may be behind
ON_THE_WAY = 400  # trades whose answers may be yet to come
CONFIG = """
format = 1
[profile.test]
plugins = ["swapped-market", "swapped"]
[profile.test.kernel]
clock = "wall"
speed = "1"
checkpoint_s = 60
[plugin.swapped-market]
host = "market"
module = "swapped_market"
options = {{ trouble = "{market}" }}
[plugin.swapped]
host = "subject"
module = "{module}"
[plugin.swapped.options]
{options}
[host.subject]
max_rss_mb = 70
"""


class Swapping:
    """One home; kernels come and go on it."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.home = directory / "home"
        self.config = directory / "plugins.toml"
        self.python = directory / "python"  # what lies there, each new process finds
        self.python.mkdir()
        self.options = options
        self.factors = [31]  # by which the state was mixed, one after the other
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        self.write(self.config)

    def write(self, path: Path, module: str = "swapped", market: str = "", **options: object) -> None:
        """Write a plugins.toml whose feature set has *options* on top of the usual ones; see change()."""
        all_options = {**self.options, **options}
        lines = [f"{key} = {json.dumps(value)}" for key, value in all_options.items()]
        text = CONFIG.format(module=module, market=market, options="\n".join(lines))
        path.write_text(text)

    # --- The kernel ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start a kernel, and wait until it trades."""
        command = [sys.executable, "-m", "tickerml.ui.cli", "run", "--home", str(self.home), "--json"]
        with (self.home.parent / "err").open("ab") as err:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config), "--profile", "test"],
                env={**os.environ, "PYTHONPATH": f"{PLUGINS}{os.pathsep}{self.python}"},
                stdout=subprocess.DEVNULL,
                stderr=err,
            )
        self.wait_until(lambda report: report["state"] in ("running", "degraded"))

    def stop(self) -> None:
        """Stop the kernel cleanly, where it runs."""
        self.hang_up()
        if self._process:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        """Kill -9 the kernel."""
        self.hang_up()
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)

    @property
    def is_alive(self) -> bool:
        """Whether a kernel runs."""
        return self._process is not None and self._process.poll() is None

    def hang_up(self) -> None:
        """Drop the connection to the kernel."""
        if self._client:
            self._client.close()
            self._client = None

    @property
    def client(self) -> Client:
        """A connection to the kernel."""
        self._client = self._client or Client(self.home)
        return self._client

    def status(self) -> dict[str, Any]:
        """Return what the kernel says of itself."""
        return self.client.status()

    def wait_until(
        self, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 40
    ) -> dict[str, Any]:
        """Return the first status for which *condition* holds."""
        until, report = time.monotonic() + timeout_s, {}
        while time.monotonic() < until:
            try:
                report = self.status()
                if condition(report):
                    return report
            except KernelUnreachable:
                self.hang_up()
                if not self.is_alive:
                    break
            time.sleep(0.02)
        err = (self.home.parent / "err").read_text()[-2000:]
        raise TimeoutError(f"the condition was not met; {report.get('change')}\n{err}")

    def pid(self, host: str = HOST) -> int:
        """Return the process id of *host*."""
        return next(row["pid"] for row in self.status()["hosts"] if row["host"] == host)

    # --- Changes ------------------------------------------------------------------------------

    def change(
        self,
        *,
        module: str = "swapped",
        market: str = "",
        shadow_s: float = 0.0,
        probation_s: float = 0.5,
        reload: tuple[str, ...] = (),
        **options: object,
    ) -> int:
        """
        Ask for another version or other options of the feature set; returns the number of the change.

        Args:
            market: the trouble in which the market is to be.
        """
        new = self.config.with_suffix(".new")
        self.write(new, module, market, **options)
        plan = config.plan(config.load(new), "test")
        files = {str(new): str(self.config)}
        request = control.ChangeRequest(plan, "test", shadow_s, probation_s, files, list(reload))
        try:
            number: int = self.client.request(request).change
        except BusError:
            new.unlink()
            raise
        return number

    def outcome(self) -> dict[str, Any]:
        """Return what the kernel says of the change once it has ended."""
        found: dict[str, Any] = self.wait_until(lambda report: report["change"]["outcome"])["change"]
        return found

    def until_step(self, step: str) -> dict[str, Any]:
        """Return what the kernel says of the change once it is at *step*."""
        found: dict[str, Any] = self.wait_until(
            lambda report: report["change"]["step"] == step or report["change"]["outcome"]
        )["change"]
        assert found["step"] == step, found
        return found

    # --- Whether anything was lost ------------------------------------------------------------

    def run_on(self, trades: int = 50) -> None:
        """Let at least so many more trades be answered."""
        target = self.status()["seq"] + 2 * trades
        self.wait_until(lambda report: report["committed"] >= target and self._is_near(report))

    def _is_near(self, report: dict[str, Any]) -> bool:
        """Whether nobody is far behind."""
        return all(row["state"] == "ready" and row["lag"] < NEAR for row in report["hosts"])

    def messages(self) -> list[Any]:
        """Return everything that is in the journal."""
        found = latest(self.home)
        assert found is not None
        reader = JournalReader(found / "journal")
        messages = [codec.decode(codec.unpack(raw).body) for raw in reader.frames()]
        reader.close()
        return messages

    def faults(self) -> list[str]:
        """
        Return what is wrong with the outputs in the journal; nothing where they are all as they must be.

        Every trade has one answer, in order, and each is what the state comes to after
        all the trades before it.
        """
        messages = self.messages()
        trades = [message for message in messages if isinstance(message, Trade)]
        answers = [message.unpack() for message in messages if isinstance(message, FeatureVector)]
        if [trade.seq for trade in trades] != list(range(1, len(trades) + 1)):
            return ["the market is not whole"]
        if len(answers) < 20 or len(trades) - len(answers) > (ON_THE_WAY if self.is_alive else 0):
            return [f"{len(trades)} trades have {len(answers)} answers"]
        mixed, left = 0, list(self.factors)
        for trade, answer in zip(trades, answers, strict=False):
            if (expected := _answer(mixed, trade, left[0])) != answer and len(left) > 1:
                expected = _answer(mixed, trade, left.pop(0) and left[0])
            if expected != answer:
                return [f"the answer to trade {trade.seq} was {answer}, expected {expected}"]
            mixed = int(answer[1])
        return [f"nobody has mixed by {left[1:]}"] if left[1:] else []


def _answer(mixed: int, trade: Trade, factor: int) -> list[float]:
    return [float(trade.seq), float((mixed * factor + trade.price) & 0xFFFF_FFFF)]
