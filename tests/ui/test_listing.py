from tickerml.ui.costs import Costs
from tickerml.ui.listing import groups


def report(at=10.0, cpu=1.0, seq=1000, published=500, pid=7, **host):
    row = {"host": "trade", "state": "ready", "pid": pid, "restarts": 0, "lag": 10, "lag_s": 0.25}
    row |= {"rss_mb": 41.4, "cpu_s": cpu, "reason": ""} | host
    plugin = {"id": "strategy-a", "kind": "strategy", "host": "trade", "state": "active"}
    plugin |= {"enabled": True, "publishes": ["SubmitOrder"]}
    return {"uptime_s": at, "seq": seq, "hosts": [row], "plugins": [plugin | {"published": published}]}


def row(plugin, state="active", reason="", **facts):
    common = {"kind": "risk_rule", "version": "0.1.0", "host": "trade", "enabled": True}
    return common | {"id": plugin, "state": state, "reason": reason} | facts


def test_what_is_used_a_second_is_the_difference_of_two_reports():
    costs = Costs()
    costs.look(report())
    first = dict(costs.cpu)
    costs.look(report(at=12.0, cpu=1.5, seq=1600, published=700))

    assert first == {}
    assert (costs.cpu, costs.taken, costs.published) == (
        {"trade": 0.25},
        {"trade": 300.0},
        {"strategy-a": 100.0},
    )


def test_another_process_begins_anew_and_the_same_report_says_nothing():
    costs = Costs()
    costs.look(report())
    costs.look(report(at=12.0, cpu=0.1, pid=8))
    costs.look(report(at=12.0, cpu=9.9, pid=8))
    one = dict(costs.cpu)
    costs.look(report(at=13.0, cpu=0.6, pid=8))

    assert (one, costs.cpu) == ({}, {"trade": 0.5})


def test_another_session_begins_anew():
    costs = Costs()
    costs.look(report())
    costs.look(report(at=12.0, published=700))
    costs.look(report(at=1.0, seq=5, published=2))

    assert (costs.cpu, costs.taken, costs.published) == ({}, {}, {})


def test_plugins_stand_below_their_process_and_the_others_last():
    costs = Costs()
    costs.look(report())
    costs.look(report(at=12.0, cpu=1.5, seq=1600, published=700))
    rows = [row("strategy-a", kind="strategy"), row("sink-b", "blocked", "no manifest", host="", kind="")]

    trade, apart = groups(rows, {"strategy-a": "buys"}, report(), costs)

    assert [trade[name] for name in ("name", "detail", "cpu", "memory", "messages", "lag")] == [
        "trade",
        "pid 7",
        "25.0 %",
        "41 MB",
        "300 in",
        "0.2 s",
    ]
    assert [(each["id"], each["summary"], each["messages"]) for each in trade["rows"]] == [
        ("strategy-a", "buys", "100 out")
    ]
    (blocked,) = apart["rows"]
    assert (apart["name"], blocked["tone"], blocked["reason"], blocked["is_on"]) == (
        "not running",
        "bad",
        "no manifest",
        False,
    )


def test_why_a_process_is_down_is_said_once_beside_it():
    why = "killed by SIGKILL"
    down = report(state="down", reason=why, restarts=1)
    (trade,) = groups([row("strategy-a", "retry", f"{why}; again in 1.0 s")], {}, down, Costs())

    assert (trade["state"], trade["reason"], trade["detail"]) == ("down", why, "pid 7 · 1 restart")
    assert trade["rows"][0]["reason"] == ""


def test_what_failed_by_itself_says_why():
    (trade,) = groups([row("strategy-a", "failed", "build: no")], {}, report(), Costs())

    assert (trade["rows"][0]["tone"], trade["rows"][0]["reason"]) == ("bad", "build: no")


def test_a_disabled_plugin_is_off_and_not_broken():
    (trade,) = groups([row("strategy-a", "blocked", "disabled")], {}, report(), Costs())

    shown = trade["rows"][0]
    assert (shown["state"], shown["tone"], shown["reason"]) == ("disabled", "off", "")
