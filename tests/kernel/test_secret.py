"""Secrets: a component is given the values of the names it was granted, from the environment."""

import pytest

from tickerml.kernel import PluginContractError, secret


def test_a_secret_has_a_variable_of_its_own():
    assert secret.variable("api-key") == "TICKERML_SECRET_API_KEY"


def test_only_what_is_named_and_set_is_read():
    environment = {"TICKERML_SECRET_A": "1", "TICKERML_SECRET_B": "2", "PATH": "/bin"}

    assert secret.read(["a", "c"], environment) == {"a": "1"}


def test_one_that_is_missing_is_named_with_what_to_do():
    assert secret.value_of("a", {"a": ""}, "mine") == ""
    with pytest.raises(PluginContractError, match=r"mine: asked for the secret 'b'.* set TICKERML_SECRET_B"):
        secret.value_of("b", {"a": "1"}, "mine")
