"""The generative decoder in integers: one result everywhere, near the float network that it was frozen from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from neurocodec import codec
from neurocodec.entropy.grid import UNIT
from neurocodec.integer.generator import REALISM_STEPS, realism_step
from neurocodec.integer.gpu import TorchArithmetic
from neurocodec.integer.native import NativeNetwork, kernels
from neurocodec.integer.network import LayerwiseNetwork
from neurocodec.integer.reference import NumpyArithmetic
from neurocodec.model import GeneratorConfig, find_generator
from neurocodec.models import generators
from neurocodec.models.pixels import from_tensor

STEPS = (1, 300, 1024, 1025, 1700, 2048)


@pytest.fixture(scope="module")
def with_generator(small_model):
    """The small model and a generator of random weights, and the float network that it was made from."""
    torch.manual_seed(3)
    made = generators.new(GeneratorConfig(channels=48, blocks=2, fine_blocks=2, frequencies=2), small_model).eval()
    for name, parameter in made.named_parameters():
        if name.endswith(("gain", "offset", "bias")) and not name.startswith("trunk."):
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    made.quality.weight.data.normal_()
    made.head.weight.data.normal_(0.0, 0.05)
    return dataclasses.replace(small_model, generator=generators.freeze(made, small_model)), made


def latents(height, width, seed=0):
    """int32 (height, width, 16), of the size that decoded ones have."""
    return np.random.default_rng(seed).normal(0, 150, (height, width, 16)).astype(np.int32)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
@pytest.mark.parametrize("depth", [8, 16])
def test_every_implementation_gives_the_same_pixels(with_generator, size, depth):
    model, _ = with_generator
    reference, torch_network = (LayerwiseNetwork(model, do) for do in (NumpyArithmetic(), TorchArithmetic()))
    natives = [NativeNetwork(model, kernel, threads) for kernel in kernels() for threads in (1, 3)]
    y_hat = latents(*size)
    for step in STEPS:
        expected = reference.synthesise(y_hat, 500, depth, step)
        assert expected.shape == (16 * size[0], 16 * size[1], 3)
        assert expected.dtype == (np.uint8 if depth == 8 else np.uint16)
        assert np.array_equal(torch_network.synthesise(y_hat, 500, depth, step), expected)
        for native in natives:
            assert np.array_equal(native.synthesise(y_hat, 500, depth, step), expected), (native.kernel, step)


def test_the_shipped_generator_is_the_same_everywhere(base_model, photo):
    nic = codec.encode(photo[100:180, 200:296], quality=25, model=base_model)
    assert find_generator(base_model).model_id == base_model.model_id
    shown = [
        np.asarray(codec.decode(nic, model=base_model, realism=realism, device=device))
        for realism in (0.3, 1.0)
        for device in ("auto", "cpu")
    ]
    assert np.array_equal(shown[0], shown[1])
    assert np.array_equal(shown[2], shown[3])
    native, reference = NativeNetwork(base_model), LayerwiseNetwork(base_model, NumpyArithmetic())
    y_hat = native.encode(native.analyse(photo[100:148, 200:264].copy(), 250), 250)[1].y_hat
    for step in (700, 2048):
        assert np.array_equal(native.synthesise(y_hat, 250, 8, step), reference.synthesise(y_hat, 250, 8, step))


@torch.no_grad()
def test_integers_are_near_the_float_network(with_generator):
    model, made = with_generator
    native, y_hat = NativeNetwork(model), latents(6, 6, seed=1)
    tensor = torch.from_numpy(y_hat).permute(2, 0, 1)[None].float() / UNIT
    for twin in (made, generators.thawed(model.generator, model)):
        for index in (0, 300, 960):
            base = native.synthesise(y_hat, index).astype(int)
            for realism in (0.1, 0.5, 0.8, 1.0):
                ours = native.synthesise(y_hat, index, 8, realism_step(realism)).astype(int)
                theirs = from_tensor(twin(tensor, torch.tensor([index / 64]), torch.tensor([realism])))
                detail = np.abs(theirs.astype(int) - base).mean()
                assert np.abs(ours - theirs).mean() < 0.1 + 0.05 * detail
                assert detail > 0.05 * realism


def test_16_bits_say_the_same_as_8(with_generator):
    native, y_hat = NativeNetwork(with_generator[0]), latents(3, 4)
    eight, sixteen = (native.synthesise(y_hat, 400, depth, 1500).astype(np.int64) for depth in (8, 16))
    assert np.abs(sixteen - 257 * eight).max() <= 129


def test_realism_counts_steps():
    assert [realism_step(r) for r in (0.0, 0.0002, 0.0003, 0.5, 1.0)] == [0, 0, 1, 1024, REALISM_STEPS]


@settings(max_examples=60)
@given(
    arrays.arrays(np.int16, arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)),
    st.integers(1024, 2**31 - 1),  # below, roots are clamped
)
def test_a_norm_is_that_of_floats(x, epsilon):
    wide = x.astype(np.int64)
    normal = NumpyArithmetic().normalise(wide, epsilon)
    assert np.array_equal(TorchArithmetic().normalise(torch.from_numpy(x).double(), epsilon).numpy(), normal)
    d = wide - wide.mean(-1, keepdims=True)
    exact = d / np.sqrt((d * d).sum(-1, keepdims=True) + epsilon)
    tolerance = 2.0**-12 + 1.0 / np.sqrt(np.maximum((d * d).sum(-1, keepdims=True), epsilon))
    assert (np.abs(normal / 2**15 - exact) <= tolerance).all()
