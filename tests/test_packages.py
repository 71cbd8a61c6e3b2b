"""Optional packages, and imports of torchvision beside a torch that its operators do not fit, on stand-ins for it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch.library

from neurocodec.errors import MissingPackageError, NeurocodecError
from neurocodec.packages import import_with_torchvision, require

REGISTER = torch.library.register_fake


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file to write a module into; its name is its import name."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "needs_torchvision.py"
    yield path
    sys.modules.pop(path.stem, None)
    assert torch.library.register_fake is REGISTER


def source(operator: str) -> str:
    return f"import torch\n@torch.library.register_fake({operator!r})\ndef meta(*args):\n    return 7\n"


def test_a_missing_package_is_a_sentence() -> None:
    with pytest.raises(MissingPackageError, match=r"rainbows needs Unicorn.*pip install") as caught:
        require("neurocodec_no_such_module", "Unicorn", "rainbows")
    assert isinstance(caught.value, NeurocodecError)


def test_missing_operators_of_torchvision_are_ignored(module: Path) -> None:
    module.write_text(source("torchvision::no_such_operator"))
    with pytest.raises(RuntimeError, match="does not exist"):
        importlib.import_module(module.stem)
    assert import_with_torchvision(module.stem).meta() == 7


def test_torch_fidelity_needs_torchvision(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch_fidelity"]:
        monkeypatch.delitem(sys.modules, name)
    module.with_name("torch_fidelity.py").write_text(source("torchvision::no_such_operator"))
    try:
        assert require("torch_fidelity", "torch-fidelity", "FID", "fid").meta() == 7
    finally:
        sys.modules.pop("torch_fidelity", None)


def test_operators_of_others_must_exist(module: Path) -> None:
    module.write_text(source("elsewhere::no_such_operator"))
    with pytest.raises(RuntimeError, match="elsewhere::no_such_operator does not exist"):
        import_with_torchvision(module.stem)


def test_operators_that_exist_are_registered(module: Path) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("made_for_this_test(Tensor x) -> Tensor")
    module.write_text(source("torchvision::made_for_this_test").replace("return 7", "return args[0].new_empty(5)"))
    import_with_torchvision(module.stem)
    assert torch.ops.torchvision.made_for_this_test(torch.empty(2, device="meta")).shape == (5,)


def test_other_errors_pass_through(module: Path) -> None:
    module.write_text("raise KeyError('mine')")
    with pytest.raises(KeyError, match="mine"):
        import_with_torchvision(module.stem)
    with pytest.raises(ModuleNotFoundError):
        import_with_torchvision("no_module_of_this_name")


def test_torchvision_itself() -> None:
    try:
        metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        pytest.skip("torchvision is not installed")
    assert import_with_torchvision("torchvision").transforms.ToTensor()
