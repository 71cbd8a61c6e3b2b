"""The generative decoder: realism 0 is the base model, cost, tiles."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import safetensors.numpy
import torch

from neurocodec import codec, container, model, tiles, tiling
from neurocodec import model as model_files
from neurocodec.bench.quality import lpips
from neurocodec.bench.rivals import Nic
from neurocodec.errors import MissingWeightsError, ModelMismatchError, ModelNotFoundError
from neurocodec.integer.network import Latents
from neurocodec.metrics import psnr
from neurocodec.model import GeneratorConfig, HyperpriorConfig
from neurocodec.models import generators
from neurocodec.models.complexity import count_generator_macs
from neurocodec.models.hific import ChannelNorm, Generator, RealismGain
from neurocodec.models.hyperprior import Synthesis

BASE = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8)
SMALL = GeneratorConfig(channels=32, blocks=3, fine_blocks=2)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    generator = Generator(SMALL, BASE)
    generator.head.weight.data.normal_(0.0, 0.5)
    return generator.eval()


@torch.no_grad()
def test_realism_0_is_the_base_decoder(generator):
    base = Synthesis(BASE).eval()
    base.load_state_dict(generator.trunk.state_dict())
    y_hat, quality_index = torch.randn(2, 16, 4, 5), torch.tensor([1.0, 7.5])
    x_hat = generator(y_hat, quality_index, torch.zeros(2))
    assert x_hat.shape == (2, 3, 64, 80)
    assert torch.equal(x_hat, base(y_hat, quality_index))
    assert not torch.allclose(generator(y_hat, quality_index, torch.ones(2)), x_hat, atol=1e-2)


@torch.no_grad()
def test_below_one_half_the_detail_of_one_half_fades(generator):
    y_hat, quality_index = torch.randn(1, 16, 4, 5), torch.tensor([7.5])
    base, low, half = (generator(y_hat, quality_index, torch.tensor([beta])) for beta in (0.0, 0.2, 0.5))
    assert (half - base).abs().max() > 0.1
    assert torch.allclose(low - base, 0.4 * (half - base), atol=1e-5)


@torch.no_grad()
def test_each_picture_of_a_batch_has_its_own_realism(generator):
    y_hat, quality_index = torch.randn(2, 16, 4, 4), torch.tensor([3.0, 12.0])
    both = generator(y_hat, quality_index, torch.tensor([0.3, 1.0]))
    for i, beta in enumerate((0.3, 1.0)):
        alone = generator(y_hat[i : i + 1], quality_index[i : i + 1], torch.tensor([beta]))
        assert torch.allclose(both[i : i + 1], alone, atol=1e-5)


def test_the_trunk_is_not_trained_and_everything_else_is(generator):
    generator(torch.randn(1, 16, 4, 4), torch.tensor([3.0]), torch.tensor([0.7])).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert (parameter.grad is None) == name.startswith("trunk."), name
    trained = [p for n, p in generator.named_parameters() if not n.startswith("trunk.")]
    assert all(p.grad.abs().sum() > 0 for p in trained)


@torch.no_grad()
def test_pixels_depend_only_on_latents_within_the_halo(generator):
    y_hat, quality_index, beta = torch.randn(1, 16, 3, 24), torch.tensor([4.0]), torch.tensor([1.0])
    whole = generator(y_hat, quality_index, beta)
    halo = generator.halo
    left = generator(y_hat[..., : 8 + halo], quality_index, beta)
    assert torch.allclose(left[..., : 8 * 16], whole[..., : 8 * 16], atol=1e-5)
    closer = generator(y_hat[..., : 8 + 1], quality_index, beta)
    assert not torch.allclose(closer[..., : 8 * 16], whole[..., : 8 * 16], atol=1e-5)


@pytest.fixture
def with_generator(small_model):
    """The small model with a generator of random weights that changes pixels by some levels."""
    torch.manual_seed(1)
    made = generators.new(SMALL, small_model)
    made.head.weight.data.normal_(0.0, 0.02)
    return dataclasses.replace(small_model, generator=generators.freeze(made.eval(), small_model))


def levels(a, b):
    return int(np.abs(np.asarray(a).astype(int) - np.asarray(b)).max())


def test_benchmarks_name_the_generator(with_generator, small_model):
    described = Nic(with_generator, "nic@1", realism=1.0).describe()
    assert described["settings"].endswith("decoded with realism 1")
    assert len(described["generator"]) == 16
    other = generators.new(SMALL, small_model).eval()
    changed = Nic(
        dataclasses.replace(small_model, generator=generators.freeze(other, small_model)), "nic@1", realism=1.0
    ).describe()
    assert {key for key in described if described[key] != changed[key]} == {"generator"}
    assert "generator" not in Nic(with_generator).describe()


def test_decoding_with_realism(with_generator, small_model, photo):
    nic = container.read(codec.encode(photo[:90, :200], model=small_model))
    chunks = {name: payload for name, payload in nic.chunks.items() if name == container.Z_STREAMS}
    data = container.write(dataclasses.replace(nic, chunks=chunks))  # a filter would hide how little realism adds
    plain = codec.decode(data, model=small_model)
    assert levels(codec.decode(data, model=with_generator, realism=0.0), plain) == 0
    half, full = (codec.decode(data, model=with_generator, realism=r) for r in (0.5, 1.0))
    assert full.size == plain.size
    assert levels(full, plain) > levels(half, plain) > 1
    part = codec.decode(data, model=with_generator, realism=1.0, region=(50, 20, 70, 40))
    assert np.array_equal(part, np.asarray(full)[20:60, 50:120])


HOST_STATES = {
    "float64": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    "bfloat16": (lambda: torch.set_default_dtype(torch.bfloat16), lambda: torch.set_default_dtype(torch.float32)),
    "device": (lambda: torch.set_default_device("meta"), lambda: torch.set_default_device(None)),
    "gradients": (lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True)),
}


@pytest.mark.parametrize("state", sorted(HOST_STATES))
@pytest.mark.parametrize("first", [True, False])
def test_the_torch_state_of_the_host_program_does_not_matter(with_generator, photo, state, first):
    """Also in the first use, which loads the generator: nothing broken may stay in the cache."""
    enter, leave = HOST_STATES[state]
    expected = codec.decode(codec.encode(photo[:40, :50], model=with_generator), model=with_generator, realism=1.0)
    if first:
        codec.network_of.cache_clear()
    enter()
    try:
        data = codec.encode(photo[:40, :50], model=with_generator)
        shown = codec.decode(data, model=with_generator, realism=1.0)
    finally:
        leave()
    assert shown.tobytes() == expected.tobytes()
    assert codec.decode(data, model=with_generator, realism=1.0).tobytes() == expected.tobytes()


def test_coding_leaves_the_torch_state_of_the_host_program_alone(with_generator, photo):
    codec.network_of.cache_clear()
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    codec.decode(codec.encode(photo[:40, :50], model=with_generator), model=with_generator, realism=1.0)
    after = torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_tiles_meet_without_a_seam(with_generator, photo, monkeypatch):
    """The same latents, as two tiles and as one."""
    everything = np.random.default_rng(0).integers(-200, 200, (16, 32, 16)).astype(np.int32)

    def cut(tile, window, *_):
        return Latents(None, (), everything[window.top : window.bottom, window.left : window.right])

    monkeypatch.setattr(tiles, "decode_tile", cut)
    monkeypatch.setattr(tiling, "EDGE", 256)
    pictures = []
    for whole in (512, 256):
        monkeypatch.setattr(tiling, "WHOLE", whole)
        nic = container.read(codec.encode(photo[:256, :512], model=with_generator))
        assert len(nic.tiles) == 512 // whole
        pictures.append(codec.decode_picture(nic, with_generator, realism=1.0).rgb)
    assert np.array_equal(*pictures)


def test_a_generator_file_is_found_by_its_model(with_generator, small_model, photo, tmp_path, monkeypatch):
    data = codec.encode(photo[:64, :64], model=small_model)
    with pytest.raises(ModelNotFoundError, match="realism above 0 needs a generative decoder"):
        codec.decode(data, model=dataclasses.replace(small_model), realism=0.5)
    path = tmp_path / "small-realism.safetensors"
    with_generator.generator.save(path)
    assert not any(name.startswith("trunk.") for name in safetensors.numpy.load_file(path))
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    fresh = dataclasses.replace(small_model)
    expected = codec.decode(data, model=with_generator, realism=0.5)
    assert levels(codec.decode(data, model=fresh, realism=0.5), expected) == 0


def test_a_generator_of_ones_own_comes_before_the_one_that_ships(small_model, tmp_path, monkeypatch):
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    files = []
    for folder, value in ((shipped, 1.0), (own, 2.0)):
        folder.mkdir()
        generator = generators.new(SMALL, small_model)
        generator.head.bias.data.fill_(value)
        files.append(generators.freeze(generator, small_model))
        files[-1].save(folder / "realism.safetensors")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(own))
    monkeypatch.setattr(model, "PACKAGED", shipped)
    found = model_files.find_generator(dataclasses.replace(small_model))
    assert not np.array_equal(files[0].arrays["head.bias"], files[1].arrays["head.bias"])
    assert np.array_equal(found.arrays["head.bias"], files[1].arrays["head.bias"])


@pytest.mark.parametrize("quality", [20, 38, 56])
def test_the_shipped_generator_trades_psnr_for_lpips(base_model, photo, quality):
    """The bundled photograph: steps of the slider lower PSNR, by little, and LPIPS, to a hundredth on one picture."""
    data = codec.encode(photo, quality=quality, model=base_model)
    slider = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
    pictures = [np.asarray(codec.decode(data, model=base_model, realism=r)) for r in slider]
    distortions = [psnr(photo, picture) for picture in pictures]
    assert all(later < earlier + 0.01 for earlier, later in itertools.pairwise(distortions))
    assert distortions[0] - 2.0 < distortions[-1] < distortions[3] < distortions[0] - 0.05
    try:
        distances = [lpips(photo, picture) for picture in pictures]
    except MissingWeightsError as error:
        pytest.skip(f"PSNR is tested, LPIPS is not: {error}")
    assert all(later < 1.01 * earlier for earlier, later in itertools.pairwise(distances))
    assert distances[:4] == sorted(distances[:4], reverse=True)
    assert distances[3] < 0.8 * distances[0]
    assert distances[-1] < 0.99 * distances[3]


def test_generator_files_that_do_not_fit(with_generator, small_model, base_model, tmp_path):
    path = tmp_path / "g.safetensors"
    with_generator.generator.save(path)
    with pytest.raises(ModelMismatchError, match="not of this one"):
        generators.load(path, base_model)
    small_model.save(tmp_path / "model.safetensors")
    with pytest.raises(ModelMismatchError, match="not a generative decoder"):
        generators.load(tmp_path / "model.safetensors", small_model)
    with pytest.raises(ModelMismatchError, match="model file"):
        model_files.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ModelMismatchError, match="not a readable model file"):
        generators.load(path, small_model)
    stored = with_generator.generator.arrays
    for name, array, words in (
        ("trunk.head.bias", np.zeros(3, np.int32), "holds 'trunk.head.bias', expected other names or types"),
        ("extra", np.zeros(1, np.float32), "holds 'extra', expected other names or types"),
        ("head.weight", np.full_like(stored["head.weight"], 32767), "sums of layer head could leave the range"),
        ("gain", np.full_like(stored["gain"], 1 << 24), "a gain of the detail is out of range"),
        ("blocks.1.gain", np.full_like(stored["blocks.1.gain"], -40000), r"a gain of blocks\.1 is out of range"),
        ("norm_in.shift", np.full_like(stored["norm_in.shift"], -1), "a norm that is out of range"),
        ("norm_in.epsilon", np.zeros(1, np.int32), "a norm that is out of range"),
        ("sigmoid_table", np.full_like(stored["sigmoid_table"], -1), "a malformed sigmoid_table"),
        ("head.bias", stored["head.bias"][:-1], "expected int32"),
        ("gain", stored["gain"].astype(np.int16), "expected int32"),
    ):
        dataclasses.replace(with_generator.generator, arrays={**stored, name: array}).save(path)
        with pytest.raises(ModelMismatchError, match=words):
            generators.load(path, small_model)
    dataclasses.replace(with_generator.generator, config=dataclasses.replace(SMALL, blocks=4)).save(path)
    with pytest.raises(ModelMismatchError, match=r"holds nothing as blocks\.3"):
        generators.load(path, small_model)


@pytest.mark.parametrize(
    ("name", "value"), [("head.weight", 32767), ("gain", 1 << 24), ("blocks.1.gain", -40000), ("sigmoid_table", -1)]
)
def test_decoding_with_a_damaged_generator_ends_in_a_typed_error(with_generator, photo, name, value):
    data = codec.encode(photo[:40, :50], model=with_generator)
    arrays = {**with_generator.generator.arrays, name: np.full_like(with_generator.generator.arrays[name], value)}
    damaged = dataclasses.replace(
        with_generator, generator=dataclasses.replace(with_generator.generator, arrays=arrays)
    )
    with pytest.raises(ModelMismatchError):
        codec.decode(data, model=damaged, realism=1.0)


def test_channel_norm_by_hand():
    norm = ChannelNorm(2)
    y = norm(torch.tensor([[[[3.0]], [[1.0]]]]))  # mean 2, variance 1
    assert y.flatten().tolist() == pytest.approx([1 / (1 + 1e-3) ** 0.5, -1 / (1 + 1e-3) ** 0.5])


def test_realism_gain_starts_as_beta_and_is_zero_at_zero():
    gain = RealismGain(4, 3)
    assert gain(torch.tensor([0.0, 0.25, 1.0]))[:, 0, 0, 0].tolist() == pytest.approx([0.0, 0.25, 1.0])
    gain.weight.data.normal_()
    assert (gain(torch.zeros(1)) == 0).all()


def test_complexity_of_the_default():
    macs = count_generator_macs(Generator(GeneratorConfig(), HyperpriorConfig()))
    assert 40_000 < macs["generator"] <= 100_000  # MAC a pixel, trunk included: the design's limit
    for channels in (100, 0, -16, 2048):
        with pytest.raises(ValueError, match="multiple of 16"):
            GeneratorConfig(channels=channels)
    with pytest.raises(ValueError, match="fine_width is 0; it must be from 1 to 16"):
        GeneratorConfig(fine_width=0)
