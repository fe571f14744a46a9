"""Changes of plugins: planned in full, sent to the kernel that runs and followed to their end."""

import os
import tomllib

import pytest

from tickerml.kernel import BusError, ChangeRolledBack, ConfigError, KernelUnreachable, PackageError
from tickerml.kernel.client import Client
from tickerml.kernel.lock import hold
from tickerml.ui import changes
from tickerml.ui.changes import Pace

from .changing_kernel import ChangingKernel

TOML = """\
# mine
format = 1
[profile.demo]
plugins = ["exchange-synthetic", "features-core", "recorder"]
[profile.other]
plugins = ["portfolio"]
[plugin.exchange-synthetic]
host = "market"
[plugin.features-core]
host = "trade"
[plugin.recorder]
host = "record"
[plugin.portfolio]
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "plugins.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def kernel(home, config):
    kernel = ChangingKernel(home, config)
    yield kernel
    kernel.close()


def without_recorder(documents):
    documents.set_enabled("recorder", False)


def is_recorder_off(config):
    return tomllib.loads(config.read_text())["plugin"]["recorder"].get("enabled") is False


def nothing_staged(config):
    return [name for name in os.listdir(config.parent) if "staged" in name] == []


# --- Without a kernel -----------------------------------------------------------------------------------


def test_without_a_kernel_the_files_are_put_at_once(home, config):
    with changes.turn(home, config) as at:
        assert changes.make(at, without_recorder, "disable recorder") is None

    assert is_recorder_off(config)
    assert nothing_staged(config)


def test_an_edit_that_cannot_be_changes_nothing(home, config):
    def edit(documents):
        documents.append("[plugin.new]\nnonsense = 1")

    with changes.turn(home, config) as at, pytest.raises(ConfigError) as refused:
        changes.make(at, edit, "spoil it")

    assert f"{config}: plugin.new.nonsense: unknown key" in str(refused.value)
    assert config.read_text() == TOML
    assert nothing_staged(config)


def test_one_at_a_time(home, config):
    os.close(hold(home / "plugins", "turn.lock"))
    with (
        changes.turn(home, config),
        pytest.raises(PackageError, match=rf"another `tickerml plugin` \(pid {os.getpid()}\)"),
        changes.turn(home, config),
    ):
        pass
    with changes.turn(home, config):
        pass


def test_a_configuration_is_found_here_or_in_the_home_or_nowhere(home, config, monkeypatch):
    monkeypatch.chdir(config.parent)
    assert changes.find_config(home, None).resolve() == config
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"there is no plugins\.toml here or in"):
        changes.find_config(home, None)


# --- With a kernel --------------------------------------------------------------------------------------


def test_a_kernel_is_sent_the_whole_new_plan_and_puts_the_files(home, config, kernel):
    kernel.overrides = ["exchange-synthetic.host=fair"]
    shown = []
    with changes.turn(home) as at:
        change = changes.make(at, without_recorder, "disable recorder", pace=Pace(60, 5), show=shown.append)

    (request,) = kernel.requests
    assert (request.reason, request.shadow_s, request.probation_s) == ("disable recorder", 60, 5)
    assert request.plan.profile == "demo"
    assert request.plan.config == str(config)
    assert request.plan.overrides == kernel.overrides
    assert sorted(request.plan.hosts()) == ["fair", "trade"]
    assert change["outcome"] == "permanent"
    assert is_recorder_off(config)
    assert nothing_staged(config)
    assert shown[0].startswith("trade: starting")


def test_a_change_that_is_rolled_back_says_why_and_leaves_the_files(home, config, kernel):
    kernel.error = "the candidate has ended: exit code 1"

    with changes.turn(home) as at, pytest.raises(ChangeRolledBack) as told:
        changes.make(at, without_recorder, "disable recorder")

    assert str(told.value) == (
        "disable recorder: rolled back at starting: the candidate has ended: exit code 1; "
        "everything is as it was before"
    )
    assert config.read_text() == TOML
    assert nothing_staged(config)


def test_a_kernel_that_refuses_is_left_as_it_is(home, config, kernel):
    kernel.refusal = "change 3 is under way"

    with changes.turn(home) as at, pytest.raises(BusError, match="change 3 is under way"):
        changes.make(at, without_recorder, "disable recorder")

    assert config.read_text() == TOML
    assert nothing_staged(config)


def test_what_the_kernel_does_not_run_is_put_without_it(home, config, kernel):
    with changes.turn(home) as at:
        assert changes.make(at, lambda edited: edited.set_enabled("portfolio", False), "no matter") is None

    assert kernel.requests == []
    assert tomllib.loads(config.read_text())["plugin"]["portfolio"]["enabled"] is False


def test_a_host_can_be_replaced_although_nothing_in_the_plan_differs(home, kernel):
    with changes.turn(home) as at:
        proposal = changes.propose(at.home, at.config, lambda edited: None, at.report)
        changes.carry_out(at, proposal, "reload recorder", reload=["record"])

    assert (kernel.requests[0].reload, kernel.requests[0].files) == (["record"], {})


def test_while_the_kernel_makes_a_change_there_is_no_second(home, kernel):
    kernel.change = {"number": 4, "reason": "upgrade x", "step": "probation"}

    with (
        pytest.raises(PackageError, match=r"the kernel is making change 4 \(upgrade x\), now at probation"),
        changes.turn(home),
    ):
        pass


def test_another_configuration_than_the_kernels_is_refused(home, tmp_path, kernel):
    other = tmp_path / "other.toml"
    other.write_text(TOML)

    with pytest.raises(ConfigError, match=r"runs with .*plugins\.toml, not with"), changes.turn(home, other):
        pass


def test_whoever_interrupts_a_change_takes_it_back(home, config, kernel, monkeypatch):
    follow, interruptions = changes.follow, [KeyboardInterrupt]

    def impatient(client, number):
        for change in follow(client, number):
            yield change
            if interruptions:
                raise interruptions.pop()

    monkeypatch.setattr(changes, "follow", impatient)
    with changes.turn(home) as at, pytest.raises(ChangeRolledBack, match="interrupted"):
        changes.make(at, without_recorder, "disable recorder")

    assert kernel.is_canceled
    assert config.read_text() == TOML


def test_a_change_that_a_restarted_kernel_knows_nothing_of_has_no_known_end(home, kernel):
    client = Client(home)
    kernel.change = {"number": 1, "step": "ended", "outcome": "permanent"}
    try:
        with pytest.raises(KernelUnreachable, match="how change 7 ended is not known"):
            list(changes.follow(client, 7))
    finally:
        client.close()


def test_what_would_stop_another_plugin_is_refused(home, config, kernel, monkeypatch):
    blocked = changes.Proposal(None, {}, True, {"strategy-x": "needs recorder, which is disabled"})
    monkeypatch.setattr(changes, "propose", lambda *arguments: blocked)

    with (
        changes.turn(home) as at,
        pytest.raises(
            PackageError, match="cannot disable recorder: strategy-x could not run any more: needs"
        ),
    ):
        changes.make(at, without_recorder, "disable recorder")
    assert kernel.requests == []


def test_how_far_it_is_says_the_seconds_left_and_how_the_shadow_compares():
    shadow = {"equal": 1200, "different": 3, "only_old": 1, "only_new": 0}
    change = {"host": "trade", "step": "shadow", "left_s": 540.2, "shadow": shadow}

    said = changes.describe(change)

    assert said == (
        "trade: shadow  540 s left  1,200 outputs equal, 3 different, 1 only of the old, 0 only of the new"
    )
