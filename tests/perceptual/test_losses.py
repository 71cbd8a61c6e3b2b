"""Features, LPIPS, DISTS, style, content and total variation: values by hand, gradients, and published numbers.

Where the networks' weights are not at hand, random ones show that the parts fit together.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paths import ROOT
from PIL import Image
from torch import Tensor, nn

from neurocodec.errors import ImageError, MissingWeightsError
from neurocodec.perceptual.dists import DISTS, load_dists
from neurocodec.perceptual.features import VGG16, AlexNet, FeatureNetwork, L2Pooling, load_vgg16
from neurocodec.perceptual.lpips import LPIPS, load_lpips
from neurocodec.perceptual.style import (
    content_loss,
    feature_loss,
    gram_matrix,
    style_loss,
    total_variation_anisotropic,
    total_variation_isotropic,
)
from neurocodec.perceptual.weights import SHAPES

DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def pictures(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*(shape or (2, 3, 32, 32)), dtype=dtype)


def small_network() -> FeatureNetwork:
    """Two layers of a few channels, smooth, so that numerical gradients can be trusted."""
    steps: list[tuple[str, nn.Module]] = [
        ("first", nn.Conv2d(3, 4, 3)),
        ("smooth", nn.Softplus()),
        ("second", nn.Conv2d(4, 2, 2)),
    ]
    return FeatureNetwork(steps, ("smooth", "second"), 4)


# Features


def test_alexnet_layers() -> None:
    x = pictures(2, 3, 63, 64)
    features = AlexNet()(x)
    assert {name: tuple(f.shape[1:]) for name, f in features.items()} == {
        "relu1": (64, 15, 15),
        "relu2": (192, 7, 7),
        "relu3": (384, 3, 3),
        "relu4": (256, 3, 3),
        "relu5": (256, 3, 3),
    }
    assert all(f.min() == 0 for f in features.values())


def test_vgg16_layers() -> None:
    names = [f"relu{stage}_{i}" for stage, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1)]
    features = VGG16(names)(pictures(1, 3, 34, 48))
    assert list(features) == names
    for name, f in features.items():
        stage = int(name[4])
        assert f.shape == (1, min(64 * 2 ** (stage - 1), 512), 34 >> (stage - 1), 48 >> (stage - 1))


def test_vgg16_is_the_chain_it_says() -> None:
    """By hand up to the second stage, pictures normalised with ImageNet's mean and deviation."""
    network, x = VGG16(("relu1_1", "conv1_2", "pool1", "relu2_1")), pictures()
    weight = dict(network.steps.named_parameters())
    y = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    relu1_1 = F.relu(F.conv2d(y, weight["conv1_1.weight"], weight["conv1_1.bias"], padding=1))
    conv1_2 = F.conv2d(relu1_1, weight["conv1_2.weight"], weight["conv1_2.bias"], padding=1)
    pool1 = F.max_pool2d(F.relu(conv1_2), 2)
    relu2_1 = F.relu(F.conv2d(pool1, weight["conv2_1.weight"], weight["conv2_1.bias"], padding=1))
    expected = {"relu1_1": relu1_1, "conv1_2": conv1_2, "pool1": pool1, "relu2_1": relu2_1}
    features = network(x)
    assert list(features) == list(expected)
    for name in expected:
        torch.testing.assert_close(features[name], expected[name], atol=1e-6, rtol=1e-5)


def test_loading_copies_and_order_of_layers_does_not_matter() -> None:
    weights = {name: torch.randn(shape) * 0.05 for name, shape in SHAPES["vgg16"].items()}
    one, two = VGG16(("relu2_2", "relu1_1")), VGG16(("conv3_1", "relu1_1", "relu2_2"))
    one.load(weights)
    two.load(weights)
    assert [name for name, _ in one.steps.named_children()][-1] == "relu2_2", "later layers are left out"
    x = pictures()
    first, second = one(x), two(x)
    assert list(first) == ["relu1_1", "relu2_2"]
    assert all(torch.equal(first[name], second[name]) for name in first)
    weights["conv1_1.weight"].zero_()
    assert torch.equal(one(x)["relu1_1"], first["relu1_1"])
    del weights["conv1_1.weight"]
    with pytest.raises(KeyError):
        one.load(weights)


def test_gradients_reach_pictures_and_not_weights() -> None:
    network, x = AlexNet(("relu2",)), pictures().requires_grad_()
    network(x)["relu2"].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())


def test_pooling() -> None:
    x = torch.tensor([[[[3.0, 0.0], [4.0, 0.0]]]])
    # Hann window 1/16 (1 2 1; 2 4 2; 1 2 1) around the first pixel, zeros outside: (4 · 9 + 2 · 16) / 16
    assert L2Pooling(1)(x).item() == pytest.approx(math.sqrt(4.25))
    assert L2Pooling(2)(torch.rand(1, 2, 7, 8)).shape == (1, 2, 4, 4)
    y = pictures()
    for pooling, layer in (("max", nn.MaxPool2d), ("average", nn.AvgPool2d), ("l2", L2Pooling)):
        network = VGG16(("relu1_2", "pool1"), pooling=pooling)  # type: ignore[arg-type]
        assert isinstance(network.steps.pool1, layer)
        assert network(y)["pool1"].shape == (2, 64, 16, 16)
    average = VGG16(("relu1_2", "pool1"), pooling="average")(y)
    torch.testing.assert_close(average["pool1"], F.avg_pool2d(average["relu1_2"], 2))


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 32, 32),
        torch.zeros(1, 1, 32, 32),
        torch.zeros(1, 3, 15, 32),
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8),
    ],
)
def test_tensors_that_are_no_pictures(x: Tensor) -> None:
    with pytest.raises(ImageError, match=r"VGG16 got a tensor of shape \(.*sides at least 16"):
        VGG16(("relu1_1",))(x)


def test_names_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="expected some of conv1_1, relu1_1, conv1_2"):
        VGG16(("relu1_1", "relu9"))
    with pytest.raises(ValueError, match="expected some of conv1, relu1"):
        AlexNet(())
    with pytest.raises(ValueError, match="pooling 'min', expected max, average, l2"):
        VGG16(pooling="min")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="net 'squeeze', expected alex or vgg"):
        load_lpips("squeeze")  # type: ignore[arg-type]


# LPIPS


def test_lpips_by_hand() -> None:
    """One pixel, features (3, 4, 0) and (0, 0, 2): unit vectors (0.6, 0.8, 0) and (0, 0, 1)."""
    identity = FeatureNetwork([("x", nn.Identity())], ("x",), 1)
    lpips = LPIPS(identity, [torch.tensor([1.0, 2.0, 3.0])])
    x, y = (torch.tensor(f).view(1, 3, 1, 1) * identity.std + identity.mean for f in ([3.0, 4, 0], [0.0, 0, 2]))
    assert lpips(x, y).item() == pytest.approx(0.36 + 2 * 0.64 + 3, rel=1e-5)
    wide = torch.cat((x, x), 3), torch.cat((y, x), 3)  # a second pixel that is the same: half the mean
    assert lpips(*wide).item() == pytest.approx(0.5 * (0.36 + 2 * 0.64 + 3), rel=1e-5)


def test_lpips_is_a_distance_of_each_picture() -> None:
    lpips = LPIPS(AlexNet(), [torch.rand(width) for width in (64, 192, 384, 256, 256)])
    x, y = pictures(3, 3, 48, 40), pictures(3, 3, 48, 40)
    d = lpips(x, y)
    assert d.shape == (3,)
    assert (d > 0).all()
    torch.testing.assert_close(d, lpips(y, x))
    torch.testing.assert_close(d[1:2], lpips(x[1:2], y[1:2]))
    assert torch.equal(lpips(x, x), torch.zeros(3))
    assert not [name for name, parameter in lpips.named_parameters() if parameter.requires_grad]
    with pytest.raises(ImageError, match="expected equal shapes"):
        lpips(x, y[:1])
    with pytest.raises(ValueError, match="2 heads for 5 layers"):
        LPIPS(AlexNet(), [torch.rand(64), torch.rand(192)])


def test_lpips_gradient() -> None:
    lpips = LPIPS(small_network(), [torch.rand(4), torch.rand(2)]).double()
    x, y = (pictures(2, 3, 5, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lpips, (x, y))


def test_lpips_gradient_is_finite_where_features_vanish() -> None:
    network = AlexNet(("relu1",))
    with torch.no_grad():
        network.steps.conv1.bias.fill_(-100.0)
    x = pictures().requires_grad_()
    LPIPS(network, [torch.ones(64)])(x, pictures()).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def example(name: str) -> Tensor:
    """A picture of the reference example of the LPIPS repository (imgs/ex_*.png), or a skip."""
    folders = [Path(os.environ["NEUROCODEC_WEIGHTS"])] if os.environ.get("NEUROCODEC_WEIGHTS") else []
    folders += [Path(folder) / "weights" for folder in (os.environ.get("NEUROCODEC_DATA"), DATA) if folder]
    for folder in folders:
        path = folder / "lpips_example" / f"ex_{name}.png"
        if path.is_file():
            array = np.array(Image.open(path).convert("RGB"))
            return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
    pytest.skip("no lpips_example/ here: set NEUROCODEC_DATA to a folder with weights/lpips_example")


def loaded(monkeypatch: pytest.MonkeyPatch, load: Any, *arguments: str) -> Any:
    """The network with its weights, from the data folder if from nowhere else, or a skip."""
    folders = [os.environ.get("NEUROCODEC_WEIGHTS"), f"{os.environ.get('NEUROCODEC_DATA')}/weights", DATA / "weights"]
    for folder in folders:
        if folder and Path(folder).is_dir():
            monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(folder))
            break
    try:
        return load(*arguments, download=False)
    except MissingWeightsError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("net", "first", "second"),
    [
        ("alex", 0.722, 0.138),  # published in the README of the LPIPS repository
        ("vgg", 0.568613, 0.421664),  # what the lpips package, 0.1.4, gives
    ],
)
def test_lpips_of_the_published_example(monkeypatch: pytest.MonkeyPatch, net: str, first: float, second: float) -> None:
    reference, p0, p1 = example("ref"), example("p0"), example("p1")
    lpips = loaded(monkeypatch, load_lpips, net)
    tolerance = 0.0005 if net == "alex" else 1e-5
    assert lpips(reference, p0).item() == pytest.approx(first, abs=tolerance)
    assert lpips(reference, p1).item() == pytest.approx(second, abs=tolerance)


# DISTS


@pytest.fixture(scope="module")
def random_dists() -> DISTS:
    torch.manual_seed(3)
    return DISTS(VGG16(pooling="l2"), torch.rand(1475), torch.rand(1475))


def test_dists_is_a_distance(random_dists: DISTS) -> None:
    x, y = pictures(2, 3, 32, 40), pictures(2, 3, 32, 40)
    d = random_dists(x, y)
    assert d.shape == (2,)
    assert (d > 0).all()
    torch.testing.assert_close(d, random_dists(y, x))
    assert torch.equal(random_dists(x, x), torch.zeros(2))
    with pytest.raises(ImageError, match="expected equal shapes"):
        random_dists(x, y[:, :, 1:])
    with pytest.raises(ValueError, match=r"beta of shape \(3,\), expected \(1475,\)"):
        DISTS(random_dists.network, torch.rand(1475), torch.rand(3))


def test_dists_by_hand_on_pixels() -> None:
    """With weights on the red channel only the features do not count. Means 1/2 and 1/4, deviations 1/2 and 1/4."""
    alpha, beta = torch.zeros(1475), torch.zeros(1475)
    alpha[0], beta[0] = 3.0, 1.0
    x = torch.zeros(1, 3, 16, 16)
    x[:, :, ::2] = 1.0
    y = 0.5 * x
    luminance, structure = 2 * 0.5 * 0.25 / (0.25 + 0.0625), 2 * 0.5 * 0.25 / (0.25 + 0.0625)
    expected = 1 - (3 * luminance + structure) / 4
    network = VGG16(pooling="l2")
    assert DISTS(network, alpha, beta)(x, y).item() == pytest.approx(expected, abs=1e-5)
    mirrored = DISTS(network, alpha, beta)(x, 1 - x)  # the same mean, covariance -1/4
    assert mirrored.item() == pytest.approx(1 - (3 - 1) / 4, abs=1e-5)


def test_dists_gradient(random_dists: DISTS) -> None:
    x = pictures(1, 3, 16, 16, dtype=torch.float64).requires_grad_()
    y = pictures(1, 3, 16, 16, dtype=torch.float64)
    dists = DISTS(VGG16(pooling="l2"), torch.rand(1475), torch.rand(1475)).double()
    dists.network.load_state_dict(random_dists.network.state_dict())
    assert torch.autograd.gradcheck(lambda x: dists(x, y), (x,), fast_mode=True, eps=1e-7, atol=1e-6)


def test_dists_as_its_authors_compute_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What DISTS-pytorch 0.1 gives on the example of LPIPS; and a texture's other sample is close."""
    reference, p0, p1 = example("ref"), example("p0"), example("p1")
    dists = loaded(monkeypatch, load_dists)
    assert dists(reference, p0).item() == pytest.approx(0.387927, abs=1e-5)
    assert dists(reference, p1).item() == pytest.approx(0.225024, abs=1e-5)
    assert dists(reference, reference).item() == 0.0
    noise = pictures(2, 3, 64, 64)
    another, smooth = noise[1:], F.avg_pool2d(noise[:1], 3, 1, 1)
    assert dists(noise[:1], another) < 0.6 * dists(noise[:1], smooth)
    assert F.mse_loss(noise[:1], another) > 1.5 * F.mse_loss(noise[:1], smooth)


# Style, content, total variation


def test_gram_matrix_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # two channels, two positions
    assert gram_matrix(features).tolist() == [[[2.5, 0.5], [0.5, 5.0]]]
    repeated = features.repeat(1, 1, 3, 2)
    torch.testing.assert_close(gram_matrix(repeated), gram_matrix(features))  # another size of the same texture
    shuffled = features.flip(3)
    torch.testing.assert_close(gram_matrix(shuffled), gram_matrix(features))
    with pytest.raises(ImageError, match=r"Gram matrix of shape \(2, 1, 2\)"):
        gram_matrix(features[0])


def test_style_loss_by_hand() -> None:
    features = {
        "a": torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]]),
        "b": torch.tensor([[[[2.0]]]]),
        "content": torch.zeros(1, 1, 1, 1),
    }
    grams = {"a": torch.zeros(1, 2, 2), "b": torch.tensor([[[1.0]]])}
    a, b = (2.5**2 + 2 * 0.5**2 + 5.0**2) / (4 * 2**2), (4.0 - 1.0) ** 2 / 4
    assert style_loss(features, grams).tolist() == pytest.approx([(a + b) / 2])
    assert style_loss(features, grams, {"a": 2.0, "b": 0.5}).tolist() == pytest.approx([2 * a + 0.5 * b])
    own = {name: gram_matrix(features[name]) for name in ("a", "b")}
    assert style_loss(features, own).tolist() == [0.0]


def test_style_loss_is_equation_4_of_gatys() -> None:
    """1 / (4 N² M²) · sum (G - A)² with plain sums in G and A, for pictures of one size."""
    f, style = torch.randn(2, 5, 4, 3), torch.randn(1, 5, 4, 3)
    g, a = (torch.einsum("bchw,bdhw->bcd", v, v) for v in (f, style))
    expected = (g - a).square().sum((1, 2)) / (4 * 5**2 * 12**2)
    torch.testing.assert_close(style_loss({"l": f}, {"l": gram_matrix(style)}), expected)


def test_style_losses_that_do_not_fit() -> None:
    features = {"a": torch.zeros(2, 3, 4, 4)}
    gram = gram_matrix(features["a"])
    for grams, weights in (({}, None), ({"b": gram}, None), ({"a": gram}, {"b": 1.0})):
        with pytest.raises(ValueError, match="expected the same layers, at least one"):
            style_loss(features, grams, weights)
    for target in (torch.zeros(1, 2, 2), torch.zeros(3, 3, 3)):
        with pytest.raises(ImageError, match="style loss of a: shapes"):
            style_loss(features, {"a": target})
    with pytest.raises(ImageError, match="content loss: shapes"):
        content_loss(features["a"], torch.zeros(1, 3, 4, 5))
    with pytest.raises(ImageError, match="feature loss: shapes"):
        feature_loss(features["a"], torch.zeros(3, 3, 4, 4))


def test_content_and_feature_loss_by_hand() -> None:
    features = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 2, 1, 2)
    both = torch.cat((features, features + 1))
    target = torch.tensor([1.0, 0.0, 3.0, 1.0]).view(1, 2, 1, 2)
    assert content_loss(both, target).tolist() == [6.5, 0.5 * (1 + 9 + 1 + 16)]
    assert feature_loss(both, target).tolist() == [13 / 4, 27 / 4]


def test_total_variation_by_hand() -> None:
    x = torch.tensor([[0.0, 3.0, 3.0], [4.0, 3.0, 0.0]]).view(1, 1, 2, 3)
    # down 4 0 3, right 3 0 | -1 -3: pairs (4, 3) (0, 0) (-3, 0) and in the last row (0, -1) (0, -3) (0, 0)
    assert total_variation_anisotropic(x).tolist() == pytest.approx([(7 + 0 + 3 + 1 + 3) / 6])
    assert total_variation_isotropic(x).tolist() == pytest.approx([(5 + 0 + 3 + 1 + 3) / 6])
    two = torch.cat((x, torch.ones_like(x)))
    assert total_variation_isotropic(two)[1] == total_variation_anisotropic(two)[1] == 0
    with pytest.raises(ImageError, match="total variation of shape"):
        total_variation_isotropic(x[0])


def test_total_variation_of_a_turned_edge() -> None:
    """A diagonal edge is √2 times cheaper than its steps for the isotropic one, and not for the other."""
    rows, columns = torch.meshgrid(torch.arange(65.0), torch.arange(65.0), indexing="ij")
    ramp = (rows + columns).view(1, 1, 65, 65)
    ratio = total_variation_anisotropic(ramp[..., :-1, :-1]) / total_variation_isotropic(ramp[..., :-1, :-1])
    assert ratio.item() == pytest.approx(math.sqrt(2), rel=0.02)


def test_gradients() -> None:
    f = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    grams = {"l": gram_matrix(target)}
    for loss in (
        gram_matrix,
        lambda f: style_loss({"l": f}, grams, {"l": 3.0}),
        lambda f: content_loss(f, target),
        lambda f: feature_loss(f, target),
        total_variation_anisotropic,  # random numbers are away from its kinks
        total_variation_isotropic,
    ):
        assert torch.autograd.gradcheck(loss, (f,))


def test_total_variation_gradient_of_flat_pictures() -> None:
    for loss in (total_variation_isotropic, total_variation_anisotropic):
        x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
        loss(x).sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_style_from_vgg_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's shuffled tiles have its style more than the blurred picture has, and its content less."""
    network = loaded(monkeypatch, load_vgg16, ("relu1_1", "relu2_1", "relu3_1", "relu4_2"))
    photo = Image.open(ROOT / "neurocodec" / "data" / "astronaut.png").convert("RGB")
    x = torch.from_numpy(np.array(photo.resize((128, 128)))).permute(2, 0, 1)[None].float() / 255
    tiles = x.unfold(2, 32, 32).unfold(3, 32, 32).flatten(2, 3)[:, :, torch.randperm(16)]  # (1, 3, 16, 32, 32)
    shuffled = tiles.unflatten(2, (4, 4)).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 128, 128)
    blurred = F.avg_pool2d(x, 5, 1, 2)
    target = network(x)
    grams = {name: gram_matrix(target[name]) for name in ("relu1_1", "relu2_1", "relu3_1")}
    style = [style_loss(network(y), grams).item() for y in (shuffled, blurred)]
    content = [content_loss(network(y)["relu4_2"], target["relu4_2"]).item() for y in (shuffled, blurred)]
    assert style[0] < 0.5 * style[1]
    assert content[0] > content[1]
