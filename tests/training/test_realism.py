"""Training of the generative decoder: who learns what from whom, collapse, what a run leaves behind."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from paths import ROOT, SMALL_MODEL
from torch import nn
from training.runs import rows, tiny_lpips, train, weights

from neurocodec import codec
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.errors import ConfigError
from neurocodec.model import GeneratorConfig, HyperpriorConfig
from neurocodec.models import generators
from neurocodec.models.complexity import count_generator_macs
from neurocodec.models.freeze import freeze, thaw
from neurocodec.models.hific import Generator
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.perceptual.adversarial import HificDiscriminator, feature_matching_loss, generator_loss
from neurocodec.training import checkpoint, realism
from neurocodec.training.config import GenerativeConfig, RealismConfig, config_from_dict, load_config
from neurocodec.training.distributed import Processes
from neurocodec.training.guard import Guard
from neurocodec.training.realism import Realism, draw_realism
from neurocodec.training.realism_losses import (
    adversarial_terms,
    generator_objective,
    left_to_invent,
    picture_terms,
    probability,
    repeated_energy,
    two_sided_lambda,
)

HERE = Processes(torch.device("cpu"))


@pytest.fixture
def kind():
    """The configuration is that of a generative decoder."""
    return "realism"


@torch.no_grad()
def assert_alike(one, other):
    """Two generators with one trunk make the same of the same latents, up to the rounding of their weights."""
    torch.manual_seed(0)
    y_hat, index = torch.randn(2, 16, 4, 4), torch.tensor([3.0, 12.0])
    for beta in (0.5, 0.8, 1.0):
        (_, detail), (_, theirs) = (g.parts(y_hat, index, torch.full((2,), beta)) for g in (one, other))
        assert torch.allclose(detail, theirs, atol=0.01 * float(theirs.abs().max()))


def assert_ships(generator, average):
    """The generator of a file is that of a run's average."""
    own = {name.removeprefix("generator."): value for name, value in average.items() if name.startswith("generator.")}
    averaged = copy.deepcopy(generator)
    averaged.load_state_dict(own | averaged.trunk.state_dict(prefix="trunk."))
    assert_alike(generator, averaged)


# Decoder only


def test_only_the_generator_learns_and_realism_0_stays_the_base_decoder(config_file, tmp_path, small_model, photo):
    run = tmp_path / "run"
    path = train(config_file, run)
    saved, before = weights(run), thaw(small_model).state_dict()
    start = Realism(load_config(config_file), HERE)
    for part in ("codec", "ema"):
        for name, value in before.items():
            assert torch.equal(saved[part]["base." + name], value), name
            if name.startswith("g_s."):
                assert torch.equal(saved[part][name.replace("g_s.", "generator.trunk.")], value)
        for name, value in start.codec.generator.state_dict().items():
            assert torch.equal(saved[part]["generator." + name], value) == name.startswith("trunk."), name

    trained = dataclasses.replace(small_model, generator=model_files.load_generator(path, small_model))
    data = codec.encode(photo[:80, :90], model=small_model)
    plain = np.asarray(codec.decode(data, model=small_model))
    assert np.array_equal(codec.decode(data, model=trained, realism=0.0), plain)
    assert not np.array_equal(codec.decode(data, model=trained, realism=1.0), plain)


def test_the_average_ships_and_decode_finds_it(config_file, tmp_path, small_model, photo, monkeypatch):
    run = tmp_path / "run"
    path = train(config_file, run)
    assert path == run / "realism.safetensors"
    assert_ships(generators.load(path, small_model), weights(run)["ema"])
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(run))
    fresh = dataclasses.replace(small_model, generator=None)
    data = codec.encode(photo[:64, :64], model=small_model)
    assert codec.decode(data, model=fresh, realism=1.0).size == (64, 64)


def test_learning_lowers_the_losses(config_file, tmp_path):
    run = tmp_path / "run"
    rates = ["training.learning_rate=1e-2", "training.rows_learning_rate=1e-2"]
    steps = ["training.steps=60", "training.log_every=10", "realism.gan_start=0.5", "training.ema=0.8"]
    train(config_file, run, [*steps, *rates])
    log = rows(run)
    for key in ("loss", "lpips"):
        assert log[-1][key] < 0.7 * log[0][key]
    assert log[-1]["psnr"] > log[0]["psnr"] + 2
    validation = {
        (row["validation"]["quality_index"], row["validation"]["realism"]): row["validation"]
        for row in rows(run, "validation")
    }
    assert set(validation) == {(index, beta) for index in (2.0, 5.0, 8.0) for beta in (0.0, 0.5, 1.0)}
    for index in (2.0, 5.0, 8.0):
        plain, _, real = (validation[index, beta] for beta in (0.0, 0.5, 1.0))
        assert real["lpips"] < plain["lpips"]
        assert real["psnr"] > plain["psnr"]  # the small model's own decoder is poor
        assert real["bpp"] == plain["bpp"] > 0


def test_one_step_of_each_side_and_none_of_the_discriminator_before_its_start(config_file, tmp_path):
    run = tmp_path / "run"
    train(config_file, run, ["realism.gan_start=0.5", "training.log_every=1"])
    saved, log = weights(run), rows(run)
    assert {int(state["step"]) for state in saved["optimizers"][0]["state"].values()} == {6}
    assert {int(state["step"]) for state in saved["optimizers"][-1]["state"].values()} == {3}
    for i, row in enumerate(log):
        assert ("real" in row) == ("gan" in row) == ("discriminator_gradient" in row) == (i >= 3)
        assert row["gradient"] > 0
    assert all(0.4 < row[key] < 0.6 for row in log[3:] for key in ("real", "fake"))  # hardly trained


def test_the_discriminator_learns_from_pictures_of_realism_1_only(config_file, tmp_path, monkeypatch):
    seen = []

    class Watched(HificDiscriminator):
        def features(self, x, y_hat):
            seen.append((next(self.parameters()).requires_grad, x.detach(), y_hat))
            return super().features(x, y_hat)

    monkeypatch.setattr(realism, "HificDiscriminator", Watched)
    drawn = torch.tensor([1.0, 0.2, 1.0, 0.7])
    monkeypatch.setattr(realism, "draw_realism", lambda *_, least: drawn)
    train(config_file, tmp_path / "run", ["training.steps=1"])
    (learns, both, conditions), (scores, fake, condition) = seen
    assert (learns, scores) == (True, False)
    assert both.shape[0] == fake.shape[0] == 4
    assert torch.equal(both[2:], fake[::2])
    assert torch.equal(conditions, condition[::2].repeat(2, 1, 1, 1))
    assert 0 <= both[:2].min() <= both[:2].max() <= 1  # originals


def test_realism_of_a_batch():
    first, second = (draw_realism(0, step, 5, HERE, least=0.5) for step in (0, 1))
    assert (first == 1).tolist() == [True, False, True, False, True]
    assert (second == 1).tolist() == [False, True, False, True, False]
    for least in (0.0, 0.5):
        others = torch.cat([draw_realism(0, step, 8, HERE, least=least) for step in range(200)])
        others = others[others < 1]
        assert len(others) == 800
        assert (others.mean(), others.min(), others.max()) == pytest.approx(((1 + least) / 2, least, 1.0), abs=0.03)
    halves = [draw_realism(0, 3, 4, Processes(torch.device("cpu"), rank, 2), least=0.5) for rank in (0, 1)]
    assert [(half == 1).sum() for half in halves] == [2, 2]
    whole = draw_realism(0, 3, 8, HERE, least=0.5)
    assert {b.item() for half in halves for b in half if b < 1} & {b.item() for b in whole}


# The objective


def test_objective_by_hand():
    settings = RealismConfig(matching_weight=2.0, style_weight=3.0, pattern_weight=4.0)
    terms = {
        "mse": torch.tensor([0.001, 0.002, 0.004]),
        "lpips": torch.tensor([0.5, 0.4, 0.3]),
        "gan": torch.tensor([1.0, 2.0, 3.0]),
        "matching": torch.tensor([0.1, 0.2, 0.3]),
        "style": torch.tensor([0.01, 0.02, 0.03]),
        "pattern": torch.tensor([0.04, 0.05, 0.06]),
        "rate_loss": torch.tensor([0.7, 0.8, 0.9]),
    }
    expected = [
        152.40234375 * 0.001 + 0.7,  # 0.075 / 32 · 255²
        152.40234375 * 0.002 + 0.125 * (0.4 + 0.15 * 2 + 2 * 0.2 + 3 * 0.02 + 4 * 0.05) + 0.8,
        152.40234375 * 0.004 + 1.0 * (0.3 + 0.15 * 3 + 2 * 0.3 + 3 * 0.03 + 4 * 0.06) + 0.9,
    ]
    assert generator_objective(terms, torch.tensor([0.0, 0.5, 1.0]), settings).tolist() == pytest.approx(expected)
    only = generator_objective({k: terms[k] for k in ("mse", "lpips")}, torch.tensor([0.0, 0.5, 1.0]), settings)
    assert only[1].item() == pytest.approx(152.40234375 * 0.002 + 0.125 * 0.4)


@pytest.mark.parametrize("kind", ["minimax", "non-saturating", "least-squares", "hinge"])
def test_adversarial_terms_are_those_of_each_picture_and_spare_the_discriminator(kind):
    settings = RealismConfig(gan=kind, matching_weight=1.0)
    discriminator = HificDiscriminator(16, channels=4).eval()
    x, condition = torch.rand(3, 3, 64, 64), torch.randn(3, 16, 4, 4)
    x_hat = torch.rand(3, 3, 64, 64, requires_grad=True)
    terms = adversarial_terms(discriminator, x, x_hat, condition, settings)
    for i in range(3):
        fake = discriminator.features(x_hat[i : i + 1], condition[i : i + 1])
        real = discriminator.features(x[i : i + 1], condition[i : i + 1])
        torch.testing.assert_close(terms["gan"][i], generator_loss(fake[-1], kind))
        torch.testing.assert_close(terms["matching"][i], feature_matching_loss(real[:-1], fake[:-1]))
    (torch.tensor([0.0, 1.0, 1.0]) * (terms["gan"] + terms["matching"])).sum().backward()
    assert [x_hat.grad[i].abs().sum() > 0 for i in range(3)] == [False, True, True]
    assert all(p.grad is None and p.requires_grad for p in discriminator.parameters())


def test_picture_terms():
    x = torch.rand(2, 3, 64, 64)
    x_hat = x.clone()
    x_hat[1] += 0.1 * torch.rand(3, 64, 64)
    detail = torch.zeros(2, 3, 64, 64)
    detail[1, :, ::8] = 2 / 255  # lines of two levels
    settings = RealismConfig(style_weight=1.0, pattern_weight=1.0)
    terms = picture_terms(x, x_hat, detail, tiny_lpips(), settings)
    assert set(terms) == {"mse", "lpips", "style", "pattern"}
    for term in terms.values():
        assert term.shape == (2,)
        assert term[0].item() == 0 < term[1].item()
    assert terms["mse"][1].item() == pytest.approx((x_hat[1] - x[1]).square().mean().item())
    assert terms["pattern"][1].item() == pytest.approx(4 * (1 / 8 - 1 / 64), rel=1e-5)
    assert set(picture_terms(x, x_hat, detail, tiny_lpips(), RealismConfig())) == {"mse", "lpips"}


@pytest.mark.parametrize("period", [2, 4, 8])
def test_only_what_repeats_is_a_pattern(period):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3, 128, 192, generator=generator)
    cell = torch.randn(3, period, period, generator=generator)
    cell -= cell.mean((1, 2), keepdim=True)
    pattern = cell.repeat(2, 1, 128 // period, 192 // period)
    energy = cell.square().mean().item()
    assert repeated_energy(pattern).tolist() == pytest.approx([energy, energy])
    assert repeated_energy(noise + pattern).tolist() == pytest.approx([energy, energy], rel=0.05)
    assert repeated_energy(noise).max() < 0.003  # of 1, and a 64th of that would be chance
    assert repeated_energy(torch.full((1, 3, 64, 64), 0.3)).item() == pytest.approx(0.0, abs=1e-12)


def test_what_repeats_after_more_pixels_is_texture():
    cells = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    chessboard = torch.cat([torch.cat([cells, -cells], 2), torch.cat([-cells, cells], 2)], 1)
    assert repeated_energy(chessboard.repeat(1, 1, 8, 8)).item() == 0.0


def test_a_pattern_is_unlearned_and_texture_is_not():
    cell = torch.nn.Parameter(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)))
    texture = torch.nn.Parameter(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
    optimizer = torch.optim.SGD([cell, texture], 20.0)
    energies = []
    for _ in range(60):
        energy = repeated_energy(cell.repeat(1, 1, 8, 8) + texture).sum()
        energies.append(energy.item())
        optimizer.zero_grad()
        energy.backward()
        optimizer.step()
    assert energies[0] > 0.5
    assert energies[-1] < 0.01
    assert texture.detach().square().mean() > 0.9


def test_there_is_nothing_to_invent_at_the_highest_quality():
    share = left_to_invent(torch.tensor([0.0, 7.5, 15.0]), 16)
    assert share.tolist() == pytest.approx([1.0, 0.25, 0.001])


def test_two_sided_lambda_by_hand():
    settings = RealismConfig(mse_weight=0.002, lambda_above=2.0, lambda_below=0.125)
    bpp = torch.tensor([0.31, 0.29, 0.31], requires_grad=True)
    weight = two_sided_lambda(bpp, torch.tensor([0.3, 0.3, 0.4]), torch.tensor([0.001, 0.001, 0.01]), settings)
    assert weight.tolist() == pytest.approx([2 * 0.002 / 0.001, 0.125 * 0.002 / 0.001, 0.125 * 0.002 / 0.01])
    assert not weight.requires_grad


def test_probabilities():
    logits = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    assert probability(logits, "non-saturating").tolist() == pytest.approx([1 / (1 + math.exp(-t)) for t in logits])
    assert probability(logits, "least-squares").tolist() == [0, 0, 0.5, 1]
    assert probability(logits, "hinge").tolist() == [0, 0.5, 0.75, 1]


# Encoder, prior and generator together


def test_the_joint_objective_makes_a_new_model_and_its_generator(config_file, tmp_path, small_model, photo):
    run = tmp_path / "run"
    path = train(config_file, run, ["realism.joint=true"])
    saved, before = weights(run), thaw(small_model).state_dict()
    moved = {name for name, value in before.items() if not torch.equal(saved["codec"]["base." + name], value)}
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in before}
    for name in before:
        if name.startswith("g_s."):
            trunk = saved["codec"][name.replace("g_s.", "generator.trunk.")]
            assert torch.equal(saved["codec"]["base." + name], trunk)
    assert rows(run)[-1]["target_bpp"] > 0
    assert rows(run)[-1]["rate_loss"] > 0

    model = model_files.load(run / "model.safetensors")
    assert model.model_id != small_model.model_id
    trained = dataclasses.replace(model, generator=model_files.load_generator(path, model))
    generator = generators.load(path, model)
    for name, value in thaw(model).g_s.state_dict().items():
        assert torch.equal(value, generator.trunk.state_dict()[name]), name
    assert_ships(generator, saved["ema"])
    data = codec.encode(photo[:64, :64], model=trained)
    assert np.array_equal(codec.decode(data, model=trained, realism=0.0), codec.decode(data, model=model))


def test_rates_follow_their_targets(config_file, tmp_path, monkeypatch):
    """Far above the target bits are dear, far below it they are cheap."""
    rate = {}
    rates = ["training.learning_rate=5e-3", "training.rows_learning_rate=2e-2", "training.ema=0.5"]
    weigh = ["realism.joint=true", "realism.lambda_above=2000.0", "realism.lambda_below=0.0", "training.steps=20"]
    for target in (0.0, 100.0):
        monkeypatch.setattr(realism, "bits_per_pixel", lambda *_, target=target: torch.full((4,), target))
        run = tmp_path / f"to{target:g}"
        train(config_file, run, [*rates, *weigh, "realism.gan_start=1.0"])
        rate[target] = rows(run)[-1]["bpp"]
        assert (rows(run)[0]["rate_loss"] > 0) == (target == 0)
    assert rate[0.0] < 0.7 * rate[100.0]


# Where a run starts and what it can continue


def test_a_resumed_run_has_the_same_networks_and_model(config_file, tmp_path, base_model):
    run = tmp_path / "run"
    train(config_file, run, ["training.steps=1"])
    for override, message in {
        "generator.blocks=2": r"generator\.blocks is 2, and the run to resume has 1",
        "realism.joint=true": r"realism\.joint is True, and the run to resume has False",
        "realism.discriminator_channels=8": r"realism\.discriminator_channels is 8",
        "realism.model=base": f"the model_id is {base_model.model_id.hex()}, and the run to resume has",
    }.items():
        with pytest.raises(ConfigError, match=message):
            train(config_file, run, [override], resume=True)


def test_a_run_starts_from_a_generator(config_file, tmp_path, small_model):
    path = train(config_file, tmp_path / "first")
    again = ["training.learning_rate=0.0", "training.rows_learning_rate=0.0", f"training.init_from={path}"]
    second = train(config_file, tmp_path / "second", again)
    one, other = (generators.load(p, small_model) for p in (path, second))
    assert_alike(one, other)
    with pytest.raises(ConfigError, match=r"generator\.blocks is 2, and the generator '.*' has 1: set it to 1"):
        train(config_file, tmp_path / "third", [*again, "generator.blocks=2"])
    with pytest.raises(ConfigError, match=r"cannot start from .* not of this one"):
        train(config_file, tmp_path / "fourth", [*again, "realism.model=base"])
    with pytest.raises(ConfigError, match="cannot start from 'base'"):
        train(config_file, tmp_path / "fifth", ["training.init_from=base"])


def test_a_run_starts_from_the_checkpoint_of_a_run_with_another_model(config_file, tmp_path, small_model):
    first = train(config_file, tmp_path / "first").parent
    state = thaw(small_model).state_dict()
    state["g_s.head.bias"] += 0.25
    moved = Hyperprior(small_model.config)
    moved.load_state_dict(state)
    freeze(moved).save(tmp_path / "other.safetensors")
    saved = weights(first)

    def started(*overrides):
        config = load_config(config_file, [f"realism.model={tmp_path / 'other.safetensors'}", *overrides])
        objective = Realism(config, HERE)
        objective.initialise(None)
        return objective

    objective = started(f"training.init_from={first}")
    generator, discriminator = objective.codec.generator.state_dict(), objective.discriminator.state_dict()
    assert all(torch.equal(v, saved["discriminator"][name]) for name, v in discriminator.items())
    own = {name: v for name, v in generator.items() if not name.startswith("trunk.")}
    assert all(torch.equal(v, saved["ema"]["generator." + name]) for name, v in own.items())
    assert torch.equal(generator["trunk.head.bias"], state["g_s.head.bias"])

    (tmp_path / "base").mkdir()
    checkpoint.write(tmp_path / "base", {"weights": {"model": {}}, "config": {"model": {}}})
    for overrides, message in {
        (f"training.init_from={first}", "realism.discriminator_channels=8"): r"channels is 8, and the run '.*' has",
        (f"training.init_from={tmp_path / 'base'}",): "is not a run that trains a generative decoder",
    }.items():
        with pytest.raises(ConfigError, match=message):
            started(*overrides)


# Collapse


class Doctored(nn.Module):
    """A discriminator that gives originals one logit and generated pictures another, whatever they look like."""

    real, fake = 0.0, 0.0

    def __init__(self, latent_channels, *, channels, spectral):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, y_hat):
        half = len(x) // 2
        logits = torch.tensor([self.real] * half + [self.fake] * (len(x) - half))
        return logits[:, None, None, None] + self.weight * x.mean() * 0.0

    def features(self, x, y_hat):
        return [torch.full((len(x), 1, 8, 8), self.fake) + x.mean() * 0.0]


GUARDED = ["training.steps=14", "realism.guard_window=5", "training.log_every=2"]


@pytest.mark.parametrize(
    ("real", "fake", "message"), [(6.0, -6.0, "always tells them apart"), (0.0, 0.0, "it learns nothing")]
)
def test_doctored_discriminators_are_reported_once(config_file, tmp_path, monkeypatch, capsys, real, fake, message):
    monkeypatch.setattr(realism, "HificDiscriminator", Doctored)
    monkeypatch.setattr(Doctored, "real", real)
    monkeypatch.setattr(Doctored, "fake", fake)
    run = tmp_path / "run"
    train(config_file, run, [*GUARDED, "realism.gan_start=0.2"])
    (warning,) = rows(run, "warning")
    assert message in warning["warning"]
    assert warning["step"] == 8  # the GAN starts after three steps, and the window has five
    err = [line for line in capsys.readouterr().err.splitlines() if "warning at step" in line]
    assert err == [f"warning at step 8: {warning['warning']}"]
    train(config_file, run, [*GUARDED, "training.steps=24"], resume=True)
    assert len(rows(run, "warning")) == 1


def test_a_constant_picture_is_reported(config_file, tmp_path, monkeypatch):
    parts = Generator.parts

    def constant(self, *arguments):
        picture, detail = parts(self, *arguments)
        return 0.4 + 1e-6 * picture, 1e-6 * detail

    monkeypatch.setattr(Generator, "parts", constant)
    monkeypatch.setattr(Doctored, "real", 1.0)
    monkeypatch.setattr(realism, "HificDiscriminator", Doctored)
    run = tmp_path / "run"
    train(config_file, run, GUARDED)
    (warning,) = rows(run, "warning")
    assert "the generator has collapsed" in warning["warning"]
    assert weights(run)["state"]["warned"] == ["constant"]


def test_a_run_without_collapse_has_no_warning(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(realism, "HificDiscriminator", Doctored)
    monkeypatch.setattr(Doctored, "real", 1.5)
    monkeypatch.setattr(Doctored, "fake", -1.0)
    run = tmp_path / "run"
    train(config_file, run, GUARDED)
    assert not rows(run, "warning")


def test_guard_by_hand():
    def judge(real_score, fake_score, fake, steps=3):
        guard = Guard(3)
        for _ in range(steps):
            guard.add(original, fake, torch.tensor(real_score), torch.tensor(fake_score))
        return [re.search(r"apart|nothing|collapsed", text).group() for text in guard.warnings(HERE).values()]

    original = torch.rand(2, 3, 16, 16)
    other, flat = torch.rand(2, 3, 16, 16), torch.full((2, 3, 16, 16), 0.5)
    assert judge(0.98, 0.02, other) == ["apart"]
    assert judge(0.98, 0.04, other) == judge(0.96, 0.02, other) == []
    assert judge(0.51, 0.49, other) == ["nothing"]
    assert judge(0.53, 0.5, other) == judge(0.5, 0.47, other) == []
    assert judge(0.5, 0.5, original) == []  # nothing to tell apart
    assert judge(0.6, 0.4, flat) == ["collapsed"]
    assert judge(0.6, 0.4, other[:1].repeat(2, 1, 1, 1)) == ["collapsed"]  # one picture, whatever is asked for
    assert judge(0.98, 0.02, other, steps=2) == []  # too early to say
    assert judge(0.98, 0.02, other * float("nan")) == []  # steps that are no numbers do not count


# Configuration and command


def test_the_command_decides_by_the_section(config_file, tmp_path, capsys, pictures):
    run = tmp_path / "run"
    assert main(["train", str(config_file), "--run", str(run), "training.steps=2", "training.precision=bfloat16"]) == 0
    assert capsys.readouterr().out == f"{run / 'realism.safetensors'}: the trained generative decoder\n"
    assert all(math.isfinite(row["loss"]) for row in rows(run))
    saved = config_from_dict(rows(run, "config")[0]["config"])
    assert isinstance(saved, GenerativeConfig)
    assert saved.model == model_files.load(SMALL_MODEL).config
    assert rows(run, "config")[0]["pictures"] == {str(pictures): 4}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "realism.gan=wasserstein",
            "realism.gan is 'wasserstein', expected minimax or non-saturating or least-squares or hinge",
        ),
        ("realism.lpips=squeeze", "realism.lpips is 'squeeze', expected alex or vgg"),
        ("realism.gan_start=1.5", "realism.gan_start is 1.5, expected between 0 and 1"),
        ("realism.style_weight=-1.0", "realism.style_weight is -?[0-9.]+, expected at least 0"),
        ("realism.pattern_weight=-1.0", "realism.pattern_weight is -?[0-9.]+, expected at least 0"),
        ("realism.guard_window=0", "realism.guard_window is -?[0-9.]+, expected at least 1"),
        ("realism.lambda_below=3.0", "realism.lambda_below is above realism.lambda_above"),
        ("realism.nosuch=1", "nosuch"),
        ("generator.channels=100", r"\[generator\]: channels is 100; it must be a multiple of 16"),
        ("generator.blocks=0.5", "int"),
        ("model.channels=8", r"\[model\] cannot stand beside \[realism\]"),
        ("realism.model=nosuchmodel", "realism.model is 'nosuchmodel': no model 'nosuchmodel' is installed"),
        ("training.batch=1", "training.batch is 1, which at crops of 64 gives a process 1 picture a step"),
    ],
)
def test_settings_that_do_not_fit(config_file, tmp_path, capsys, override, message):
    assert main(["train", str(config_file), "--run", str(tmp_path / "run"), override]) == 1
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert err.count("\n") == 1


def test_a_generator_alone_is_no_section(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[generator]\nblocks = 3\n")
    with pytest.raises(ConfigError, match=r"unknown section \[generator\].*\[generator\] and \[realism\]"):
        load_config(path)


@pytest.mark.parametrize(("name", "joint"), [("realism", False), ("hific", True)])
def test_the_configurations_that_come_along(name, joint):
    config = load_config(name)
    assert isinstance(config, GenerativeConfig)
    assert config.realism.joint == joint
    if joint:  # crops as they were taken, as it says
        assert config.data.magnified_share == config.data.recoloured_share == 0
    assert config_from_dict(dataclasses.asdict(config)) == config


def test_the_documentation_says_what_the_generator_costs():
    macs = count_generator_macs(Generator(GeneratorConfig(), HyperpriorConfig()))["generator"]
    assert f"takes {macs / 1000:.0f} kMAC per pixel" in " ".join((ROOT / "docs" / "realism.md").read_text().split())


def test_the_documentation_lists_every_setting_with_its_default():
    """Rows of the tables: | `name` | `default` | meaning |, below a heading that names the section."""
    text = (ROOT / "docs" / "realism.md").read_text()
    sections = re.split(r"^### \[(\w+)\]$", text, flags=re.M)[1:]
    documented = {
        name: dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \| \S", part, flags=re.M))
        for name, part in zip(sections[::2], sections[1::2], strict=True)
    }
    expected = {
        name: {key: json.dumps(value) for key, value in dataclasses.asdict(section).items()}
        for name, section in {"generator": GeneratorConfig(), "realism": RealismConfig()}.items()
    }
    assert documented == expected
