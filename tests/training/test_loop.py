"""Training: the loop's resume, several processes and machines, how a run starts, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from neurocodec.training.losses import rate_distortion_loss
from neurocodec.training.start import start_from
from PIL import Image

from neurocodec import codec
from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.errors import ConfigError, MissingPackageError
from neurocodec.model import HyperpriorConfig
from neurocodec.models.freeze import freeze, thaw
from neurocodec.models.hyperprior import Hyperprior
from neurocodec.models.rate import gaussian_bits, index_of_scale, scale_of_index, training_bits
from neurocodec.training import loop
from neurocodec.training.config import load_config
from neurocodec.training.distributed import Processes, join_processes
from neurocodec.training.loop import train
from neurocodec.training.optimizers import make_optimizers
from neurocodec.training.run import State, load_run

TINY = """
[model]
channels = 8
latent_channels = 16
hyper_channels = 8
hidden_channels = 8
latent_blocks = 1
[data]
folder = "{folder}"
validation_every = 4
crop = 64
final_crop = 128
[training]
steps = 6
batch = 4
init_images = 0
log_every = 2
checkpoint_every = 3
validate_every = 6
validate_actual = false
device = "cpu"
threads = 1
"""

PROGRAM = """
import sys
from neurocodec.training import loop
from neurocodec.training.config import load_config
from neurocodec.training.run import State
{before}
config = load_config(sys.argv[1], sys.argv[3:])
loop.train(config, sys.argv[2], resume="again" in sys.argv[2])
{after}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub").mkdir()
    for i in range(6):
        Image.fromarray(photo[i * 60 : i * 60 + 140, i * 50 : i * 50 + 160]).save(
            folder / ("sub" if i % 2 else ".") / f"{i}.png"
        )
    (folder / "broken.jpg").write_bytes(b"not a picture")
    Image.fromarray(photo[:10, :10]).save(folder / "small.png")
    return folder


@pytest.fixture
def config_file(tmp_path, pictures):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY.format(folder=pictures))
    return path


def rows(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def weights(run):
    return torch.load(run / "checkpoint.pt", weights_only=True)


def assert_same_weights(expected, found):
    for part in ("model", "ema"):
        for name, value in expected[part].items():
            assert torch.equal(value, found[part][name]), name


def python(tmp_path, *arguments, before="", after="", launcher=()):
    """Starts PROGRAM, with lines before and after its training, in a process of its own."""
    program = tmp_path / f"program{len(list(tmp_path.glob('program*.py')))}.py"
    program.write_text(PROGRAM.format(before=before, after=after))
    command = [sys.executable, *launcher, str(program), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def succeed(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err


# Resuming


def test_n_steps_equal_half_a_resume_and_half(config_file, tmp_path):
    overrides = ["data.final_crop_share=0.3", "training.integer_share=0.7", "training.log_every=1"]
    train(load_config(config_file, overrides), tmp_path / "whole")
    steps = [row for row in rows(tmp_path / "whole") if "loss" in row]
    assert [row["crop"] for row in steps] == [64, 64, 64, 64, 64, 128]
    assert [row["fake_quantise"] for row in steps] == [False, False, True, True, True, True]
    # The first half ends as a stopped run does: its schedule still spans all six steps.
    before = (
        "import os, signal; save = State.save\n"
        "State.save = lambda *a: (save(*a), os.kill(os.getpid(), signal.SIGTERM))\n"
    )
    halves = tmp_path / "halves"
    succeed(python(tmp_path, config_file, halves, *overrides, before=before))
    assert weights(halves)["state"]["step"] == 3
    train(load_config(config_file, overrides), halves, resume=True)
    expected, found = weights(tmp_path / "whole"), weights(halves)
    assert found["state"]["step"] == 6
    assert_same_weights(expected, found)
    resumed = [row for row in rows(halves) if "loss" in row]
    for key in ("step", "loss", "bpp", "crop", "fake_quantise"):
        assert [row[key] for row in resumed] == [row[key] for row in steps]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(config_file, tmp_path, number):
    run = tmp_path / "run"
    process = python(tmp_path, config_file, run, "training.steps=1000000")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run / "checkpoint.pt").exists():
        time.sleep(0.2)
    process.send_signal(number)
    succeed(process)
    assert weights(run)["state"]["step"] >= 3
    assert (run / "model.safetensors").exists()
    assert not list(run.glob("*.part"))


def test_signals_have_their_usual_meaning_after_a_run(config_file, tmp_path):
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    train(load_config(config_file, ["training.steps=1"]), tmp_path / "run")
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_second_ctrl_c_interrupts():
    with loop.stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_training_in_another_thread_leaves_signals_alone():
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> object:
        with loop.stop_signals() as stop:
            return signal.getsignal(signal.SIGTERM) is before and not stop.is_set()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result(timeout=60)


def test_a_run_resumed_after_a_crash_logs_each_step_once(config_file, tmp_path):
    run = tmp_path / "run"
    train(load_config(config_file, ["training.log_every=1"]), run)
    undone = {"step": 10**6, "loss": 0.0}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps(undone) + '\n{"step": 1000001, "lo')
    train(load_config(config_file, ["training.log_every=1", "training.steps=8"]), run, resume=True)
    assert "config" in rows(run)[0]
    assert [row["step"] for row in rows(run) if "loss" in row] == list(range(1, 9))


def test_minutes_go_on_where_they_stopped(config_file, tmp_path):
    run = tmp_path / "run"
    train(load_config(config_file), run)
    saved = weights(run)
    saved["state"]["seconds"] = 120.0
    torch.save(saved, run / "checkpoint.pt")
    train(load_config(config_file, ["training.minutes=2.0", "training.steps=1000000"]), run, resume=True)
    assert weights(run)["state"]["step"] == 6


def test_a_resumed_run_takes_its_learning_rate_from_the_configuration(config_file, tmp_path):
    run = tmp_path / "run"
    train(load_config(config_file), run)
    before = weights(run)["model"]
    frozen = ["training.learning_rate=0.0", "training.rows_learning_rate=0.0", "training.steps=8"]
    train(load_config(config_file, frozen), run, resume=True)
    after = weights(run)
    assert after["state"]["step"] == 8
    assert all(torch.equal(value, after["model"][name]) for name, value in before.items())


def test_what_cannot_be_resumed(config_file, tmp_path):
    run = tmp_path / "run"
    train(load_config(config_file), run)
    with pytest.raises(ConfigError, match="already holds a run"):
        train(load_config(config_file), run)
    with pytest.raises(ConfigError, match="no checkpoint"):
        train(load_config(config_file), tmp_path / "other", resume=True)
    with pytest.raises(ConfigError, match=r"model\.channels is 12, and the run to resume has 8"):
        train(load_config(config_file, ["model.channels=12"]), run, resume=True)
    with pytest.raises(ConfigError, match="muon"):
        train(load_config(config_file, ["training.optimizer=muon"]), run, resume=True)
    for other in ({"model": {}}, torch.zeros(3)):
        torch.save(other, run / "checkpoint.pt")
        with pytest.raises(ConfigError, match=r"checkpoint\.pt is (not the checkpoint|no file)"):
            train(load_config(config_file), run, resume=True)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "realism.safetensors"])
def test_a_new_run_does_not_overwrite_the_model_of_another(config_file, tmp_path, name):
    (tmp_path / name).write_bytes(b"hours of work")
    with pytest.raises(ConfigError, match=f"holds the {name} of another run: name another folder with --run"):
        train(load_config(config_file), tmp_path)
    assert (tmp_path / name).read_bytes() == b"hours of work"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folder=nosuch"], "data.folder is 'nosuch', which is no folder"),
        (["training.init_from=nosuch"], "cannot start from 'nosuch'"),
        (["data.final_crop=512", "data.final_crop_share=0.5"], "has sides of at least 512 pixels"),
    ],
)
def test_a_run_that_cannot_start_says_so_in_one_line(config_file, tmp_path, capsys, overrides, message):
    assert main(["train", str(config_file), "--run", str(tmp_path / "run"), *overrides]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("neurocodec: ")  # no progress bar before it
    assert err.count("\n") == 1


def test_the_folder_of_a_run_is_no_file(config_file):
    with pytest.raises(ConfigError, match=r"the folder .*tiny\.toml cannot be made"):
        train(load_config(config_file), config_file)


def test_the_average_is_validated_as_the_model_is_trained(config_file, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop, "validate", lambda ema, *_: seen.append(ema.fake_quantise) or [])
    overrides = ["training.integer_share=0.5", "training.validate_every=2"]
    train(load_config(config_file, overrides), tmp_path / "run")
    assert seen == [False, True, True, True]  # steps 2, 4, 6 and the end


# What a run leaves behind


def test_a_run_leaves_a_log_and_a_model_that_can_be_frozen(config_file, tmp_path, photo):
    run = tmp_path / "run"
    path = train(load_config(config_file, ["training.validate_actual=true"]), run)
    log = rows(run)
    assert log[0]["config"]["training"]["steps"] == 6
    assert log[0]["pictures"] == 5  # eight files, less two held out and a broken one
    steps = [row["step"] for row in log if "loss" in row]
    assert steps == [2, 4, 6]
    assert all(row["images_per_second"] > 0 and 0 <= row["waiting"] <= 1 for row in log if "loss" in row)
    validation = [row["validation"] for row in log if "validation" in row]
    assert {"quality_index", "bpp", "psnr", "file_bpp", "file_psnr"} <= set(validation[0])
    frozen = model_files.load(path)
    data = codec.encode(photo[:50, :50], model=path)
    assert codec.decode(data, model=frozen).size == (50, 50)
    again = freeze(load_run(run / "model.pt"), tables=frozen.tables)
    assert again.model_id == frozen.model_id


def test_the_average_ships_and_keeps_no_graph():
    config = HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8)
    model, ema = Hyperprior(config), Hyperprior(config)
    state = State(model, ema, [], step=10**6)
    before = ema.g_a.stem.weight.clone()
    state.average_weights(0.75)
    assert torch.allclose(ema.g_a.stem.weight, 0.75 * before + 0.25 * model.g_a.stem.weight)
    assert not any(p.requires_grad or p.grad_fn for p in ema.parameters())


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_learning_lowers_the_loss(config_file, tmp_path, optimizer):
    overrides = ["training.steps=60", "training.validate_every=1000", "training.log_every=10"]
    rates = ["training.learning_rate=5e-3", "training.rows_learning_rate=2e-2"]
    run = tmp_path / "run"
    train(load_config(config_file, [*overrides, *rates, f"training.optimizer={optimizer}"]), run)
    losses = [row["loss"] for row in rows(run) if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]


def test_every_parameter_has_one_optimizer(config_file):
    settings = load_config(config_file).training
    model = Hyperprior(HyperpriorConfig(channels=8, latent_channels=16, hyper_channels=8, hidden_channels=8))
    for name in ("adam", "muon"):
        optimizers = make_optimizers(model, dataclasses.replace(settings, optimizer=name))
        held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


# Divergence


def test_steps_without_finite_gradients_are_skipped_and_counted(config_file, tmp_path, monkeypatch):
    calls = []

    def second_is_infinite(output, x, lmbda):
        losses = rate_distortion_loss(output, x, lmbda)
        calls.append(1)
        return {**losses, "loss": losses["loss"] * (float("inf") if len(calls) == 2 else 1.0)}

    monkeypatch.setattr(loop, "rate_distortion_loss", second_is_infinite)
    train(load_config(config_file, ["training.log_every=1", "training.validate_every=1000"]), tmp_path / "run")
    steps = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert [row["skipped"] for row in steps] == [0, 1, 1, 1, 1, 1]
    assert [row["loss"] is None for row in steps] == [False, True, False, False, False, False]
    saved = weights(tmp_path / "run")
    assert saved["state"]["skipped"] == 1
    assert all(value.isfinite().all() for value in saved["ema"].values())
    assert saved["optimizers"][0]["state"][0]["step"] == 5


def test_a_run_that_diverges_ends_with_an_error(config_file, tmp_path, monkeypatch):
    def never_finite(output, x, lmbda):
        losses = rate_distortion_loss(output, x, lmbda)
        return {**losses, "loss": losses["loss"] * float("nan")}

    monkeypatch.setattr(loop, "rate_distortion_loss", never_finite)
    config = load_config(config_file, ["training.steps=1000", "training.checkpoint_every=50"])
    with pytest.raises(ConfigError, match="100 steps in a row, up to step 100, were not finite"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run")["model"].values())


# Several processes

QUIET = "import torch; torch.Tensor.uniform_ = lambda self, *_: self.zero_()"
"""No noise: it is drawn by each process for itself."""


def test_two_processes_do_what_one_does(config_file, tmp_path):
    overrides = ["training.steps=1", "training.log_every=1", "data.final_crop_share=1.0", "data.final_crop=64"]
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    succeed(
        python(tmp_path, config_file, one, *overrides, before=QUIET),
        python(tmp_path, config_file, two, *overrides, before=QUIET, launcher=launcher),
    )
    assert rows(two)[0]["processes"] == 2
    for key in ("loss", "bpp", "psnr", "gradient"):
        assert rows(two)[1][key] == pytest.approx(rows(one)[1][key], rel=1e-4)
    expected, found = (weights(run)["optimizers"][0]["state"] for run in (one, two))
    for i, state in expected.items():  # after one step the first moment is a tenth of the gradient
        assert torch.allclose(found[i]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)
    assert sum(state["exp_avg"].abs().sum() for state in expected.values()) > 0.01


def test_processes_end_with_the_same_weights(config_file, tmp_path):
    before = (
        "made = []; start = loop.start\nloop.start = lambda *a: made.append(start(*a)) or made[-1]\nimport os, torch\n"
    )
    after = (
        "both = {'model': made[0].model.state_dict(), 'ema': made[0].ema.state_dict()}\n"
        "torch.save(both, sys.argv[2] + '/of' + os.environ['RANK'])\n"
    )
    run, overrides = tmp_path / "run", ["data.final_crop_share=0.5", "training.integer_share=0.5"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    succeed(python(tmp_path, config_file, run, *overrides, before=before, after=after, launcher=launcher))
    assert weights(run)["state"]["step"] == 6
    assert_same_weights(*(torch.load(run / name) for name in ("of0", "of1")))


def test_two_machines_without_a_common_disk(config_file, tmp_path):
    def both(name, *overrides):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"--master-port={free.getsockname()[1]}"
        for node in range(2):
            launcher = ("-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={node}", address)
            yield python(tmp_path, config_file, tmp_path / f"{name}{node}", *overrides, launcher=launcher)

    succeed(*both("new", "training.steps=3"))
    assert weights(tmp_path / "new0")["state"]["step"] == 3
    assert len(list((tmp_path / "new1" / "cache").glob("*.u8"))) == 2
    assert [path.name for path in (tmp_path / "new1").iterdir()] == ["cache"]
    (tmp_path / "new0").rename(tmp_path / "again0")
    succeed(*both("again"))
    assert weights(tmp_path / "again0")["state"]["step"] == 6


def test_the_first_process_decodes_then_the_first_of_each_machine_then_the_others():
    together, done = threading.Barrier(4, timeout=60), []

    class Threads(Processes):
        def wait(self):
            together.wait()

    def work(process):
        time.sleep(0.1 if process.local_rank == 0 else 0.0)
        done.append(process.rank)
        return process.rank

    threads = [Threads(torch.device("cpu"), rank, rank % 2, 4) for rank in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda process: process.in_turns(lambda: work(process)), threads)) == [0, 1, 2, 3]
    assert done[:2] == [0, 2]


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_the_gpu_of_a_single_process_has_an_index(one_gpu):
    """torch.cuda.set_device, by which threads pin memory for it, takes no device without one."""
    with join_processes("auto") as processes:
        assert processes.device == torch.device("cuda", 0)


def test_more_processes_than_gpus(one_gpu, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match=r"has 1 GPU\(s\), so the process of local rank 1"), join_processes("cuda"):
        pass


# Where a run starts


def tiny_model(**shape):
    torch.manual_seed(1)
    tiny = {"channels": 8, "latent_channels": 16, "hyper_channels": 8, "hidden_channels": 8, "latent_blocks": 1}
    model = Hyperprior(HyperpriorConfig(**tiny | shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # no block is the identity any more
    return model


@pytest.mark.parametrize("kind", ["model.pt", "model.safetensors"])
def test_a_grown_model_does_what_the_smaller_one_did(config_file, tmp_path, kind):
    small, path = tiny_model(), tmp_path / kind
    if kind == "model.pt":
        State(small, small, []).save(tmp_path, load_config(config_file))
    else:
        freeze(small).save(path)
        small = thaw(model_files.load(path))
    grown = Hyperprior(dataclasses.replace(small.config, encoder_blocks=3, decoder_blocks=4, latent_blocks=2))
    start_from(grown, str(path))
    x, quality_index = torch.rand(2, 3, 64, 64), torch.tensor([3.0, 9.5])
    expected, found = small(x, quality_index), grown(x, quality_index)
    assert sum(p.numel() for p in grown.parameters()) > sum(p.numel() for p in small.parameters())
    assert torch.equal(found["x_hat"], expected["x_hat"])
    assert torch.equal(found["z_bits"], expected["z_bits"])


def test_a_run_starts_from_an_installed_model(config_file, tmp_path, monkeypatch):
    freeze(tiny_model()).save(tmp_path / "mine.safetensors")
    monkeypatch.setenv("NEUROCODEC_WEIGHTS", str(tmp_path))
    words = ["train", str(config_file), "--run", str(tmp_path / "run"), "--init-from", "mine", "training.steps=1"]
    frozen = ["training.learning_rate=0.0", "training.rows_learning_rate=0.0"]
    assert main([*words, *frozen]) == 0
    expected = thaw(model_files.load("mine")).state_dict()
    found = weights(tmp_path / "run")["model"]
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert rows(tmp_path / "run")[0]["config"]["training"]["init_from"] == "mine"


def test_another_lambda_may_be_trained_for_from_the_same_weights(tmp_path, config_file):
    model = tiny_model()
    State(model, model, []).save(tmp_path, dataclasses.replace(load_config(config_file), model=model.config))
    moved = Hyperprior(dataclasses.replace(model.config, lambda_min=0.0001, lambda_max=0.7))
    start_from(moved, str(tmp_path / "model.pt"))
    assert moved.config.lambda_min == 0.0001
    assert all(torch.equal(value, moved.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_transform_start_needs_its_channels(tmp_path, config_file):
    with pytest.raises(ConfigError, match=r"model\.channels is 8, and the transform start needs at least 192"):
        train(load_config(config_file, ["training.init_images=1"]), tmp_path / "run")


def test_models_that_cannot_be_started_from(tmp_path, config_file, capsys):
    model = tiny_model(latent_blocks=2)
    State(model, model, []).save(tmp_path, dataclasses.replace(load_config(config_file), model=model.config))
    source = str(tmp_path / "model.pt")
    for change, message in {
        ("channels", 12): r"model\.channels is 12, and the model '.*model.pt' has 8: set it to 8\.",
        ("latent_blocks", 1): r"model\.latent_blocks is 1, and .* has 2: set it to 2 or more\.",
        ("hidden_channels", 12): r"model\.hidden_channels is 12",
    }.items():
        with pytest.raises(ConfigError, match=message):
            start_from(Hyperprior(dataclasses.replace(model.config, **dict([change]))), source)
    (tmp_path / "text.pt").write_text("no model")
    torch.save({"model": {}}, tmp_path / "other.pt")
    (tmp_path / "text.safetensors").write_text("no model")
    for name, message in {
        "none.pt": "No such file",
        "text.pt": "no file that neurocodec train wrote",
        "other.pt": "does not hold a model",
        "text.safetensors": "not a readable model file",
        "nosuchmodel": "no model 'nosuchmodel'|nosuchmodel",
    }.items():
        with pytest.raises(ConfigError, match=message):
            start_from(model, str(tmp_path / name) if "." in name else name)
    words = ["train", str(config_file), "--resume", str(tmp_path), "--init-from", source]
    assert main(words) == 1
    assert "give one of them" in capsys.readouterr().err


# Compiling, TensorBoard


def test_a_compiled_run_is_the_same_run(config_file, tmp_path, monkeypatch):
    overrides = ["data.final_crop_share=0.5", "training.integer_share=0.5", "training.log_every=1"]
    train(load_config(config_file, overrides), tmp_path / "plain")
    compiled, compile = [], torch.compile

    def without_code_generation(network, *, mode, dynamic):
        compiled.append((mode, dynamic))
        return compile(network, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", without_code_generation)
    train(load_config(config_file, [*overrides, "training.compile=true"]), tmp_path / "compiled")
    assert compiled == [(None, False)]
    plain, found = ([row for row in rows(tmp_path / run) if "loss" in row] for run in ("plain", "compiled"))
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in plain], rel=1e-3)
    assert {row["crop"] for row in found} == {64, 128}


def test_tensorboard_shows_what_the_log_says(config_file, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'neurocodec[train]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(load_config(config_file, ["training.tensorboard=true"]), run)
    board = EventAccumulator(str(run / "tensorboard"))
    board.Reload()
    losses = [(row["step"], row["loss"]) for row in rows(run) if "loss" in row]
    shown = [(event.step, event.value) for event in board.Scalars("training/loss")]
    assert shown == [(step, pytest.approx(loss)) for step, loss in losses]
    assert board.Scalars("validation/row_2/psnr")[0].step == 6


def test_a_missing_tensorboard_is_named(config_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingPackageError, match=r"tensorboard, which is not installed.*neurocodec\[train\]"):
        train(load_config(config_file, ["training.tensorboard=true"]), tmp_path / "run")
    train(load_config(config_file, ["training.steps=1"]), tmp_path / "run")


# The objective


def test_bits_of_a_gaussian():
    index = torch.tensor([index_of_scale(2.0)])
    assert scale_of_index(index).item() == pytest.approx(2.0, rel=1e-5)
    from math import erf, log2, sqrt

    for k in (0, 1, 5):
        p = 0.5 * (erf((k + 0.5) / (2 * sqrt(2))) - erf((k - 0.5) / (2 * sqrt(2))))
        assert gaussian_bits(torch.tensor([float(-k)]), index).item() == pytest.approx(-log2(p), rel=1e-4)
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
