"""
Contracts: everything the kit asks of a plugin of one kind, as tests of your own.

    from tickerml.testing.contracts import StrategyContract

    class TestDemo(StrategyContract):
        plugin = "strategy-demo"
        options = {"symbols": ["BTC/USDT"]}

pytest then runs one test for each check, up to `tier`, and skips those that the
manifest exempts. `tickerml plugin check` asks the same of the installed package.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tickerml.kernel import Message, catalog
from tickerml.kernel.errors import ConfigError

from . import tape as tapes
from . import tiers
from .check import subject_of
from .contracts_subject import Subject


def find_subject(plugin: str, beside: Path, options: dict[str, Any], tape: str = "") -> Subject:
    """
    Return *plugin* of the project that the file *beside* lies in, or else the installed one.

    Raises: ConfigError: there is none, or it cannot run.
    """
    everything = catalog.find().plugins
    projects = [folder for folder in beside.resolve().parents if (folder / "pyproject.toml").exists()]
    claims = [found for folder in projects[:1] for found in catalog.in_project(folder) if found.id == plugin]
    found = claims[0] if claims else everything.get(plugin)
    if found is None:
        raise ConfigError(f"{plugin}: neither the project of {beside} offers it nor an installed package")
    if found.problem or found.manifest is None:
        raise ConfigError(f"{plugin}: {found.problem}")
    return subject_of(found, everything, options, tape)


class Contract:
    """
    Base of the contracts.

    plugin is the id, options what it is tried with, tier how far the checks go; recorded() may return a
    tape of your own.
    """

    plugin: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}
    tier: ClassVar[str] = "edge"
    KIND: ClassVar[str] = ""
    _made: ClassVar[Subject]

    def recorded(self) -> Sequence[Message]:
        """Return the tape it is tried with; by default the made-up one."""
        return ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one test of each check."""
        if "check" in metafunc.fixturenames and self.plugin:
            subject = self._subject(Path(metafunc.module.__file__ or ""))
            metafunc.parametrize("check", tiers.possible(subject, self.tier))

    @pytest.fixture
    def subject(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
        """The plugin under test."""
        cls = type(self)
        if "_made" not in vars(cls):
            tape = ""
            if messages := self.recorded():
                path = tmp_path_factory.mktemp("tape") / "recorded.tape"
                tapes.save(path, messages)
                tape = str(path)
            cls._made = self._subject(Path(request.path), tape)
        return cls._made

    def _subject(self, beside: Path, tape: str = "") -> Subject:
        found = find_subject(self.plugin, beside, self.options, tape)
        if self.KIND not in found.manifest.kinds:
            raise ConfigError(f"{self.plugin}: this is the contract of a {self.KIND}, it is a {found.kind}")
        return found

    def test_contract(self, check: str, subject: Subject) -> None:
        """It passes one check of the kit."""
        if reason := subject.manifest.exempt.get(check):
            pytest.skip(f"exempt: {reason}")
        outcome = tiers.ask(subject, tiers.CHECKS[check])
        if not outcome.is_asked:
            pytest.skip("not asked of what is driven like this")
        assert outcome.ok, f"{check}: {tiers.CHECKS[check].sentence} {outcome.detail}"


class ExchangeContract(Contract):
    """Books that are never crossed, time that never goes back, a scale before every price."""

    KIND = "exchange"


class NewsSourceContract(Contract):
    """A live feed that survives without its network."""

    KIND = "news_source"


class FeatureSetContract(Contract):
    """A value for each column, from market data alone."""

    KIND = "feature_set"


class StrategyContract(Contract):
    """Orders that can be told apart, have a size, and say whose they are."""

    KIND = "strategy"


class RiskRuleContract(Contract):
    """One verdict an order, which never enlarges."""

    KIND = "risk_rule"


class SimulatorContract(Contract):
    """Fills that add up, at no worse price than asked."""

    KIND = "simulator"


class TrainerContract(Contract):
    """A model that nothing of the last 30 days has touched."""

    KIND = "trainer"


class StoreContract(Contract):
    """Money that adds up, where it speaks of money."""

    KIND = "store"


class SinkContract(Contract):
    """Takes every alert, whatever it says."""

    KIND = "sink"


class PageContract(Contract):
    """Starts, stays, and ends when told to."""

    KIND = "page"


class CommandContract(Contract):
    """Adds the words its manifest lists, each with help."""

    KIND = "command"
