"""Versions, ranges and requirements: what plugins need of PEP 440 and 508, and no more."""

from pathlib import Path

import pytest

from tickerml.kernel.requirements import holds, is_range, normalized, satisfies, unmet


@pytest.mark.parametrize(
    ("version", "wanted", "is_met"),
    [
        ("1.0", "", True),
        ("1.0", ">=1.0,<2", True),
        ("1.9.9", ">=1.0,<2", True),
        ("2", ">=1.0,<2", False),
        ("2.0.0", "<2", False),
        ("0.9", ">=1.0,<2", False),
        ("1.10", ">1.9", True),
        ("1.0.0", "==1", True),
        ("1.0.1", "==1.0.*", True),
        ("1.1", "==1.0.*", False),
        ("1.1", "!=1.0.*", True),
        ("1.4.5", "~=1.4.2", True),
        ("1.5", "~=1.4.2", False),
        ("1.5", "~=1.4", True),
        ("2.0rc1", ">=2.0", False),
        ("2.0rc1", "<2.0", True),
        ("2.0.post1", ">2.0", True),
        ("2.0.0+cpu", "==2.0", True),
        ("v1.2", ">=1.2", True),
        ("1.2", "=== 1.2", True),
        ("1.2", "newest", False),
        ("unknown", ">=0", False),
    ],
)
def test_a_version_lies_in_a_range_or_not(version, wanted, is_met):
    assert satisfies(version, wanted) is is_met


@pytest.mark.parametrize(
    ("text", "is_one"), [("", True), (">=1,<2", True), (">= 1.0", True), ("1.0", False), (">=x", False)]
)
def test_a_range_is_known_by_its_form(text, is_one):
    assert is_range(text) is is_one


def test_names_of_distributions_are_compared_without_case_and_punctuation():
    assert normalized("Ticker_ML.Strategy--X") == "ticker-ml-strategy-x"


@pytest.mark.parametrize(
    ("marker", "is_true"),
    [
        ("python_version >= '3.8'", True),
        ('python_version < "3.8"', False),
        ("sys_platform == 'linux'", True),
        ("sys_platform != 'linux'", False),
        ("extra == 'pc'", False),
        ("python_version >= '3.8' and extra == 'pc'", False),
        ("extra == 'pc' or sys_platform == 'linux'", True),
        ("(python_version < '3' or extra == 'x') and os_name == 'posix'", False),
        ("'linux' in sys_platform", True),
        ("sys_platform not in 'win32 cygwin'", True),
        ("no_such_variable == '1'", True),
        ("python_version", True),
    ],
)
def test_a_marker_holds_here_or_not_and_counts_when_it_is_not_understood(marker, is_true):
    assert holds(marker) is is_true


def distribution(directory: Path, name: str, version: str) -> None:
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_what_is_required_and_not_there_is_named_with_what_is(tmp_path):
    distribution(tmp_path, "spam-eggs", "1.4")

    lacking = unmet(
        [
            "spam_eggs>=1,<2",
            "spam-eggs[fried] (>=2)",
            "no-such-thing-anywhere>=3",
            "no-such-extra; extra == 'all'",
            "msgspec",
            "at-a-url @ https://example.org/x.whl",
        ],
        [str(tmp_path)],
    )

    assert lacking == [
        "spam-eggs>=2 (is 1.4)",
        "no-such-thing-anywhere>=3 (missing)",
        "at-a-url (missing)",
    ]
