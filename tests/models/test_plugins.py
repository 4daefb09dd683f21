"""What is loaded of other packages, and what is said of those that cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from models import plugins

TORCHVISION = """
    from torch import nn

    class models:
        @staticmethod
        def list_models(module):
            assert module is models
            return ["smallnet", "widenet"]

        @staticmethod
        def get_model(name, weights, num_classes):
            assert weights is None
            return nn.Sequential(nn.Flatten(), nn.Linear({"smallnet": 12, "widenet": 48}[name],
                                                         num_classes))
"""
TIMM = """
    from torch import nn

    def list_models():
        return ["tiny.a1"]

    def create_model(name, pretrained, num_classes, in_chans):
        assert pretrained is False
        return nn.Conv2d(in_chans, num_classes, 1)
"""
LOOK = """
    import json, sys
    from models import catalog, plugins
    loaded = plugins.load()
    added = catalog.ARCHITECTURES.added
    shapes = {
        name: [list(one.shape) for one in entry.load()(None, (3, 2, 2), 5).state_dict().values()]
        for name, entry in added.items()
    }
    print(json.dumps({"shapes": shapes, "provides": loaded.provides, "plugins": loaded.plugins,
                      "providers": {name: entry.provider for name, entry in added.items()}}))
"""


def looked(folder, packages):
    """What a process finds that has these packages, each a version and the text of its module."""
    for name, (version, text) in packages.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
        if version is not None:
            information = folder / f"{name}-{version}.dist-info"
            information.mkdir()
            (information / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
    script = f"import sys; sys.path.insert(0, {str(folder)!r})\n" + textwrap.dedent(LOOK)
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100
    )
    assert run.stderr == ""
    return json.loads(run.stdout)


def test_the_networks_of_torchvision_and_timm_are_offered_where_they_import(tmp_path):
    found = looked(tmp_path, {"torchvision": ("9.1", TORCHVISION), "timm": ("7.2", TIMM)})
    assert found["shapes"] == {
        "torchvision/smallnet": [[5, 12], [5]],
        "torchvision/widenet": [[5, 48], [5]],
        "timm/tiny.a1": [[5, 3, 1, 1], [5]],
    }
    assert found["provides"] == {"torchvision": "9.1", "timm": "7.2"}
    assert set(found["providers"].values()) == {"torchvision", "timm"}


@pytest.mark.parametrize(
    "failing",
    [
        'raise RuntimeError("operator torchvision::nms does not exist")',
        "import sys; sys.exit(3)",
        "class models: pass",
        "1 +",
    ],
)
def test_a_collection_that_fails_is_left_out_in_silence(tmp_path, failing):
    found = looked(tmp_path, {"torchvision": ("9.1", failing), "timm": ("7.2", TIMM)})
    assert list(found["shapes"]) == ["timm/tiny.a1"]
    assert found["provides"] == {"timm": "7.2"}
    assert found["plugins"] == []


def test_a_collection_of_unknown_version_is_left_out(tmp_path):
    assert looked(tmp_path, {"torchvision": (None, TORCHVISION), "timm": ("7.2", TIMM)})[
        "provides"
    ] == {"timm": "7.2"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("/usr/lib/x.so: cannot open"), "ImportError: ...: cannot open"),
        (ValueError("first\nsecond"), "ValueError: first"),
        (OSError(2, "No such file", "/home/ann/model.bin"), "OSError"),
        (RuntimeError("expected 3/4 of it"), "RuntimeError: expected 3/4 of it"),
    ],
)
def test_an_error_is_said_in_one_line_without_paths(error, said):
    line = plugins.in_one_line(error)
    assert said in line or line.startswith("FileNotFoundError: [Errno 2] No such file: '...'")
    assert "/home" not in line
    assert "\n" not in line
