"""What is shipped: a wheel in which every plugin is found, as it is in a checkout."""

import json
import subprocess
import sys
from pathlib import Path

from tickerml.kernel import catalog

ROOT = Path(__file__).resolve().parents[1]
FIND = """
import json
from tickerml.kernel import catalog
found = catalog.find().plugins
print(json.dumps({name: [each.problem, each.file] for name, each in found.items()}))
"""


def test_the_wheel_brings_the_manifest_of_every_plugin(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    install = [*pip, "install", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)

    # The folder goes before the checkout, which the environment has on its path as well.
    program = f"import sys; sys.path.insert(0, {str(installed)!r})\n{FIND}"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    found = json.loads(told.stdout)
    assert found.keys() >= {name for name, each in catalog.find().plugins.items() if each.is_ours}
    assert {problem for problem, _ in found.values()} == {""}
    assert all(Path(file).is_relative_to(installed) for _, file in found.values())
