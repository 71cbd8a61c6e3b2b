"""Training of the base model: the objective, validation, where a run starts, optimisers."""

from __future__ import annotations

import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from training.runs import rows, train, weights

from neurocodec import codec, container
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.entropy.grid import index_of_scale
from neurocodec.errors import ConfigError, MissingPackageError
from neurocodec.image import Picture
from neurocodec.metrics import psnr
from neurocodec.model import HyperpriorConfig
from neurocodec.models.freeze import freeze, thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.rate import gaussian_bits, training_bits
from neurocodec.training import checkpoint
from neurocodec.training.config import Config, load_config
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.rate_distortion import load_weights, measure, rate_distortion_loss

TINY = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8, latent_blocks=1)


# Learning


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_learning_lowers_the_loss(config_file, tmp_path, optimizer):
    if optimizer == "soap":
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed: pip install '.[train]'")
    overrides = ["training.steps=60", "training.log_every=10", f"training.optimizer={optimizer}"]
    train(config_file, tmp_path, [*overrides, "training.learning_rate=5e-3", "training.rows_learning_rate=2e-2"])
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_every_parameter_has_one_optimizer(config_file, optimizer):
    if optimizer == "soap":
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed: pip install '.[train]'")
    model = Hyperprior(TINY)
    optimizers = make_optimizers(model, load_config(config_file, [f"training.optimizer={optimizer}"]).training)
    held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_a_missing_package_of_an_optimizer_is_named(config_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    settings = load_config(config_file, ["training.optimizer=soap"]).training
    with pytest.raises(MissingPackageError, match=r"'soap', which needs pytorch-optimizer: pip .*neurocodec\[train\]"):
        make_optimizers(Hyperprior(TINY), settings)


# What a run leaves behind


def test_a_run_leaves_a_model_that_can_be_frozen(config_file, tmp_path, photo):
    run = tmp_path / "run"
    path = train(config_file, run, ["training.steps=2", "training.validate_actual=true"])
    validation = [row["validation"] for row in rows(run, "validation")]
    assert [row["quality_index"] for row in validation] == [2.0, 5.0, 8.0, 11.0]
    assert all({"bpp", "psnr", "file_bpp", "file_psnr"} < set(row) for row in validation)
    frozen = model_files.load(path)
    data = codec.encode(photo[:50, :50], model=path)
    assert codec.decode(data, model=frozen).size == (50, 50)
    average = Hyperprior(frozen.config)
    average.load_state_dict(weights(run)["ema"])
    again = freeze(average, tables=frozen.tables, scales=frozen.part("scales."))
    assert again.model_id == frozen.model_id


def test_real_files_are_measured(small_model, photo):
    rgb = photo[100:140, 50:101]
    data = codec.encode_picture(Picture(rgb), small_model, round(64 * 7.51))
    decoded = codec.decode_picture(container.read(data), small_model).rgb
    expected = {"file_bpp": 8 * len(data) / (40 * 51), "file_psnr": psnr(rgb, decoded)}
    assert measure(small_model, rgb, 7.51) == pytest.approx(expected)


def test_the_average_is_validated_as_the_model_is_trained(config_file, tmp_path):
    modes = []

    def watched(objective):
        class Watched(objective):
            def validate(self, ema, *arguments):
                result = super().validate(ema, *arguments)
                modes.append(ema.fake_quantise)
                return result

        return Watched

    train(config_file, tmp_path / "run", ["training.integer_share=0.5", "training.validate_every=2"], make=watched)
    assert modes == [False, True, True, True]  # steps 2, 4, 6 and the end


# Where a run starts


def tiny_model(**shape):
    torch.manual_seed(1)
    model = Hyperprior(dataclasses.replace(TINY, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # no block is the identity any more
    return model


def write_run(run, model):
    """A checkpoint with these average weights."""
    run.mkdir()
    config = dataclasses.asdict(Config(model=model.config))
    checkpoint.write(run, {"weights": {"ema": model.state_dict()}, "config": config})


@pytest.mark.parametrize("name", ["run", "model.safetensors"])
def test_a_grown_model_does_what_the_smaller_one_did(tmp_path, name):
    small, path = tiny_model(), tmp_path / name
    if name == "run":
        write_run(path, small)
    else:
        freeze(small).save(path)
        small = thaw(model_files.load(path))
    grown = Hyperprior(dataclasses.replace(small.config, encoder_blocks=3, decoder_blocks=4, latent_blocks=2))
    load_weights(grown, str(path))
    x, quality_index = torch.rand(2, 3, 64, 64), torch.tensor([3.0, 9.5])
    expected, actual = small(x, quality_index), grown(x, quality_index)
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in small.parameters())
    assert torch.equal(actual["x_hat"], expected["x_hat"])
    assert torch.equal(actual["z_bits"], expected["z_bits"])


def test_a_run_starts_from_an_installed_model(config_file, tmp_path, monkeypatch):
    freeze(tiny_model()).save(tmp_path / "mine.safetensors")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    words = ["train", str(config_file), "--run", str(tmp_path / "run"), "--init-from", "mine", "training.steps=1"]
    frozen = ["training.learning_rate=0.0", "training.rows_learning_rate=0.0"]
    assert main([*words, *frozen]) == 0
    expected = thaw(model_files.load("mine")).state_dict()
    actual = weights(tmp_path / "run")["model"]
    assert all(torch.equal(value, actual[name]) for name, value in expected.items())
    assert rows(tmp_path / "run", "config")[0]["config"]["training"]["init_from"] == "mine"


def test_another_lambda_may_be_trained_for_from_the_same_weights(tmp_path):
    model = tiny_model()
    write_run(tmp_path / "run", model)
    moved = Hyperprior(dataclasses.replace(model.config, lambda_min=0.0001, lambda_max=0.7))
    load_weights(moved, str(tmp_path / "run"))
    assert moved.config.lambda_min == 0.0001
    assert all(torch.equal(value, moved.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_transform_start_needs_its_channels(tmp_path, config_file):
    with pytest.raises(ConfigError, match=r"model\.channels is 8, and the transform start needs at least 192"):
        train(config_file, tmp_path / "run", ["training.init_images=1"])


def test_a_resumed_run_has_the_same_model(config_file, tmp_path):
    train(config_file, tmp_path / "run", ["training.steps=1"])
    for override in ("model.channels=12", "model.latent_blocks=2"):
        with pytest.raises(ConfigError, match=r"model\.\w+ is \d+, and the run to resume has \d: set it to \d\."):
            train(config_file, tmp_path / "run", [override], resume=True)


def test_models_that_cannot_be_started_from(tmp_path, config_file, capsys):
    model = tiny_model(latent_blocks=2)
    source = str(tmp_path / "run")
    write_run(tmp_path / "run", model)
    for change, message in {
        ("channels", 12): r"model\.channels is 12, and the model '.*run' has 8: set it to 8\.",
        ("latent_blocks", 1): r"model\.latent_blocks is 1, and .* has 2: set it to 2 or more\.",
        ("hidden_channels", 12): r"model\.hidden_channels is 12",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_weights(Hyperprior(dataclasses.replace(model.config, **dict([change]))), source)
    for name in ("text", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / checkpoint.NAME).write_text("no checkpoint")
    checkpoint.write(tmp_path / "other", {"weights": {}, "config": {"model": {}}})
    (tmp_path / "text.safetensors").write_text("no model")
    for name, message in {
        "none.safetensors": "no model",
        "text": "is not a checkpoint that neurocodec train wrote",
        "other": "does not hold a base model",
        "text.safetensors": "not a readable model file",
        "nosuchmodel": "nosuchmodel",
    }.items():
        with pytest.raises(ConfigError, match=message):
            load_weights(model, str(tmp_path / name))
    with pytest.raises(SystemExit, match="2"):
        main(["train", str(config_file), "--resume", str(tmp_path), "--init-from", source])
    assert "give one of them" in capsys.readouterr().err


# The objective


def test_bits_of_a_gaussian():
    index = torch.tensor([index_of_scale(2.0)])
    for k in (0, 1, 5):
        p = 0.5 * (math.erf((k + 0.5) / (2 * math.sqrt(2))) - math.erf((k - 0.5) / (2 * math.sqrt(2))))
        assert gaussian_bits(torch.tensor([float(-k)]), index).item() == pytest.approx(-np.log2(p), rel=1e-4)
    assert torch.isfinite(gaussian_bits(torch.tensor([1e6]), index)).all()


def test_training_bits_are_those_of_the_rounded_residual_and_can_be_learned_from():
    residual = torch.tensor([0.3, 0.49, 1.2], requires_grad=True)
    index = torch.tensor([10.0, 10.0, 10.0], requires_grad=True)
    bits = training_bits(residual, index)
    assert torch.allclose(bits, gaussian_bits(residual.detach().round(), index.detach()), atol=1e-5)
    bits.sum().backward()
    assert residual.grad.abs().sum() > 0
    assert index.grad[2] < 0  # a larger scale makes the outlier cheaper


def test_loss_by_hand():
    x = torch.zeros(2, 3, 64, 64)
    output = {"x_hat": x + 0.1, "y_bits": torch.tensor([4096.0, 8192.0]), "z_bits": torch.tensor([0.0, 4096.0])}
    lmbda = torch.tensor([0.001, 0.01])
    losses = rate_distortion_loss(output, x, lmbda)
    assert losses["bpp"].tolist() == [1.0, 3.0]
    expected = ((1 + 0.001 * 650.25) / 1 + (3 + 0.01 * 650.25) / 10**0.5) / 2
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)


# The encoder alone


def test_the_encoder_alone_learns_and_old_files_stay_readable(config_file, tmp_path, photo):
    before = freeze(tiny_model())
    before.save(tmp_path / "before.safetensors")
    overrides = [f"training.init_from={tmp_path / 'before.safetensors'}", "training.encoder_only=true"]
    train(config_file, tmp_path / "run", [*overrides, "model.encoder_blocks=4", "training.learning_rate=1e-2"])
    after = model_files.load(tmp_path / "run" / "model.safetensors")
    assert after.model_id == before.model_id
    assert after.config.encoder_blocks == 4
    data = codec.encode(photo[:96, :128], model=before)
    assert np.array_equal(codec.decode_array(data, model=after), codec.decode_array(data, model=before))
    assert codec.encode(photo[:96, :128], model=after) != data
    codec.decode(codec.encode(photo[:96, :128], model=after), model=before)


def test_which_encoders_can_be_trained_alone(config_file, tmp_path):
    freeze(tiny_model()).save(tmp_path / "m.safetensors")
    write_run(tmp_path / "a run", tiny_model())
    model, run = f"training.init_from={tmp_path / 'm.safetensors'}", f"training.init_from={tmp_path / 'a run'}"
    for overrides, words in {
        (): r"training\.encoder_only needs training\.init_from",
        (run,): r"training\.encoder_only needs a model, and '.*' is a run: name its model\.safetensors\.",
        (model, "model.decoder_blocks=4"): r"model\.decoder_blocks is 4, and the model .* has 2: set it to 2\.",
        (model, "model.lambda_max=0.9"): r"model\.lambda_max is 0\.9",
    }.items():
        with pytest.raises(ConfigError, match=words):
            train(config_file, tmp_path / "run", ["training.encoder_only=true", *overrides])
