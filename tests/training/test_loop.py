"""The training loop with both objectives: resuming, signals, divergence, processes, what a run leaves behind."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from filelock import FileLock
from paths import ROOT, SMALL_MODEL
from PIL import Image
from training.runs import (
    OBJECTIVES,
    TWO_PROCESSES,
    assert_same_weights,
    edit_checkpoint,
    python,
    rows,
    succeed,
    train,
    weights,
    write_config,
)

from neurocodec import model as model_files
from neurocodec.cli.main import main
from neurocodec.errors import ConfigError, OutputError
from neurocodec.training import checkpoint, loop
from neurocodec.training.distributed import Processes, join_processes
from neurocodec.training.run import State
from neurocodec.workers import Ended

both_kinds = pytest.mark.parametrize("kind", OBJECTIVES, indirect=True)


# Resuming


def stopped(objective):
    """The objective in a run that SIGTERM ends after its third step."""

    class Stopped(objective):
        def losses(self, modules, x, quality_index, step, fraction):
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            return super().losses(modules, x, quality_index, step, fraction)

    return Stopped


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("rate-distortion", ["data.final_crop_share=0.3", "data.final_crop=128", "training.integer_share=0.7"]),
        ("rate-distortion", ["training.optimizer=soap"]),
        ("realism", ["realism.gan_start=0.3", "realism.guard_window=2"]),
        ("realism", ["realism.gan_start=0.3", "realism.joint=true"]),
    ],
    indirect=["kind"],
)
def test_n_steps_equal_half_a_resume_and_half(config_file, tmp_path, overrides):
    if "training.optimizer=soap" in overrides:
        pytest.importorskip("pytorch_optimizer", reason="pytorch-optimizer is not installed: pip install '.[train]'")
    overrides = [*overrides, "training.log_every=1"]
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(config_file, whole, overrides)
    with pytest.raises(Ended):
        train(config_file, halves, overrides, make=stopped)  # its schedule still spans all six steps
    assert weights(halves)["state"]["step"] == 3
    train(config_file, halves, overrides, resume=True)
    expected, actual = weights(whole), weights(halves)
    assert actual["state"]["step"] == 6
    assert actual["state"]["crops"] == expected["state"]["crops"]
    assert_same_weights(expected, actual)
    timed = {"seconds", "images_per_second", "waiting"}
    for one, other in zip(rows(whole), rows(halves), strict=True):
        assert {k: v for k, v in one.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}


def test_the_log_shows_the_stages_of_a_run(config_file, tmp_path):
    overrides = ["data.final_crop_share=0.3", "data.final_crop=128", "training.integer_share=0.7"]
    train(config_file, tmp_path, [*overrides, "training.log_every=1"])
    steps = rows(tmp_path)
    assert [row["crop"] for row in steps] == [64, 64, 64, 64, 64, 128]
    assert [row["crops"] for row in steps] == [4, 8, 12, 16, 20, 21]
    assert [row["fake_quantise"] for row in steps] == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "number"),
    [("rate-distortion", signal.SIGHUP), ("rate-distortion", signal.SIGINT), ("realism", signal.SIGTERM)],
    indirect=["kind"],
)
def test_a_signal_ends_a_run_after_the_step_with_a_checkpoint(config_file, tmp_path, kind, number):
    def interrupted(objective):
        class Interrupted(objective):
            def losses(self, modules, x, quality_index, step, fraction):
                if step == 3:
                    signal.raise_signal(number)
                return super().losses(modules, x, quality_index, step, fraction)

        return Interrupted

    run = tmp_path / "run"
    with pytest.raises(Ended) as caught:
        train(config_file, run, ["training.steps=1000000"], make=interrupted)
    assert caught.value.number == number
    assert weights(run)["state"]["step"] == 4
    assert (run / OBJECTIVES[kind].result).exists()
    assert not list(run.rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_tells_that_a_signal_ended_it(config_file, tmp_path, number):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "neurocodec", "train", config_file, "--run", run, "training.steps=1000000"]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (run / checkpoint.NAME).exists():
        time.sleep(0.2)
    process.send_signal(number)
    assert process.communicate(timeout=300)[0] == f"{run}: ended early; --resume {run} continues\n"
    assert process.returncode == 128 + number
    assert weights(run)["state"]["step"] >= 3
    assert (run / "model.safetensors").exists()


def test_signals_have_their_usual_meaning_after_a_run(config_file, tmp_path):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    train(config_file, tmp_path / "run", ["training.steps=1"])
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
    train(config_file, run, ["training.log_every=1"])
    undone = {"step": 10**6, "loss": 0.0}
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps(undone) + '\n{"step": 1000001, "lo')
    train(config_file, run, ["training.log_every=1", "training.steps=8"], resume=True)
    assert len(rows(run, "config")) == 1
    assert [row["step"] for row in rows(run)] == list(range(1, 9))
    for text in ("[]\n", "{\n", "[" * 100_000 + "\n"):
        (run / "log.jsonl").write_text(text)
        with pytest.raises(ConfigError, match=r"log\.jsonl is not the log of a run, or is damaged"):
            train(config_file, run, resume=True)


@both_kinds
def test_minutes_go_on_where_they_stopped(config_file, tmp_path):
    run = tmp_path / "run"
    train(config_file, run)
    edit_checkpoint(run, lambda tree: tree["state"].update(seconds=120.0))
    train(config_file, run, ["training.minutes=2.0", "training.steps=1000000"], resume=True)
    assert weights(run)["state"]["step"] == 6


def test_a_resumed_run_takes_its_learning_rate_from_the_configuration(config_file, tmp_path):
    run = tmp_path / "run"
    train(config_file, run)
    before = weights(run)["model"]
    frozen = ["training.learning_rate=0.0", "training.rows_learning_rate=0.0", "training.steps=8"]
    train(config_file, run, frozen, resume=True)
    after = weights(run)
    assert after["state"]["step"] == 8
    assert all(torch.equal(value, after["model"][name]) for name, value in before.items())


@both_kinds
def test_what_cannot_be_resumed(config_file, tmp_path, kind, pictures):
    run = tmp_path / "run"
    train(config_file, run)
    with pytest.raises(
        ConfigError, match=r"holds the checkpoint\.safetensors of another run: continue it with --resume"
    ):
        train(config_file, run)
    with pytest.raises(ConfigError, match=r"holds no checkpoint\.safetensors to resume"):
        train(config_file, tmp_path / "other", resume=True)
    with pytest.raises(ConfigError, match=r"training\.optimizer is 'soap', and the run to resume has 'adam'"):
        train(config_file, run, ["training.optimizer=soap"], resume=True)
    (another,) = set(OBJECTIVES) - {kind}
    with pytest.raises(ConfigError, match="holds a checkpoint of another kind of run"):
        train(write_config(tmp_path / "another.toml", another, pictures), run, resume=True)
    edit_checkpoint(run, lambda tree: tree["optimizers"].pop())
    with pytest.raises(ConfigError, match="does not fit the networks of this release"):
        train(config_file, run, resume=True)
    checkpoint.write(run, {"weights": {}, "config": {}})
    with pytest.raises(ConfigError, match="holds a checkpoint of another kind of run"):
        train(config_file, run, resume=True)


@pytest.mark.parametrize("name", ["model.safetensors", "realism.safetensors"])
def test_a_new_run_does_not_overwrite_the_model_of_another(config_file, tmp_path, name):
    (tmp_path / name).write_bytes(b"hours of work")
    with pytest.raises(ConfigError, match=f"holds the {name} of another run: .* or name another folder with --run"):
        train(config_file, tmp_path)
    assert (tmp_path / name).read_bytes() == b"hours of work"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.folder=nosuch"], "data.folder is 'nosuch', which is not a folder"),
        (["data.mix={nosuch = 0.5}"], "data.mix is 'nosuch', which is not a folder"),
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


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.folder=nosuch"],
        ["data.folder=empty"],
        ["data.crop=512"],
        ["training.batch=0"],
        ["training.init_from=nosuch", "data.cache=cache"],
        ["model.channels=8", "training.init_images=1", "data.cache=cache"],
    ],
)
def test_a_failed_start_leaves_no_folder(config_file, tmp_path, monkeypatch, overrides):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["train", str(config_file), *overrides]) == 1
    assert not (tmp_path / "runs").exists()
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    assert main(["train", str(config_file), *overrides]) == 1
    assert not list((tmp_path / "runs" / "tiny").iterdir())  # a folder that existed stays, as it was


def test_the_folder_of_a_run_is_a_file(config_file):
    with pytest.raises(OutputError, match=r"the folder .*tiny\.toml cannot be made"):
        train(config_file, config_file)


# As docs/training.md prints them


def test_resuming_takes_nothing_but_the_run(config_file, tmp_path, pictures, monkeypatch):
    """Its configuration file may be gone, and settings that were given on the command line are remembered."""
    monkeypatch.chdir(tmp_path)
    words = ["train", str(config_file), "--run", "runs/mine", "training.steps=2", "data.crop=128", "model.channels=16"]
    assert main(words) == 0
    config_file.unlink()
    assert main(["train", "--resume", "runs/mine", "training.steps=4"]) == 0
    assert [row["crop"] for row in rows(tmp_path / "runs" / "mine")] == [128, 128]
    assert weights(tmp_path / "runs" / "mine")["state"]["step"] == 4


def test_resuming_with_fewer_steps_freezes_the_last_checkpoint_and_leaves_it(config_file, tmp_path):
    run = tmp_path / "run"
    path = train(config_file, run)
    before, model = (run / checkpoint.NAME).read_bytes(), model_files.load(path).model_id
    path.unlink()
    assert main(["train", "--resume", str(run), "training.steps=1"]) == 0
    assert (run / checkpoint.NAME).read_bytes() == before
    assert model_files.load(path).model_id == model


def test_a_new_run_from_a_run_has_its_settings(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(config_file), "--run", "runs/mine", "training.steps=2", "model.channels=16"]) == 0
    config_file.unlink()
    words = ["--init-from", "runs/mine", "model.encoder_blocks=4", "--run", "runs/larger", "training.steps=1"]
    assert main(["train", *words]) == 0
    config = rows(tmp_path / "runs" / "larger", "config")[0]["config"]
    assert (config["model"]["channels"], config["model"]["encoder_blocks"]) == (16, 4)
    assert config["training"]["init_from"] == "runs/mine"


@pytest.mark.parametrize("kind", OBJECTIVES, indirect=True)
def test_a_configuration_that_ships_is_named(tmp_path, kind, pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *small = {
        "rate-distortion": ["base", "model.hidden_channels=8", "model.latent_channels=16", "model.latent_blocks=1"],
        "realism": [
            "realism",
            "generator.channels=16",
            "realism.discriminator_channels=4",
            f"realism.model={SMALL_MODEL}",
        ],
    }[kind]
    settings = ["training.steps=1", "training.batch=2", "data.crop=64", "data.final_crop=64", f"data.folder={pictures}"]
    assert main(["train", name, *small, *settings, "training.threads=1", "training.validate_actual=false"]) == 0
    assert (tmp_path / "runs" / name / OBJECTIVES[kind].result).is_file()


def test_the_bar_counts_minutes_when_they_end_the_run(config_file, tmp_path, capsys):
    run = tmp_path / "run"
    train(config_file, run, ["training.steps=1000000", "training.minutes=0.03"])
    steps = weights(run)["state"]["step"]
    assert 3 < steps < 1000
    bar = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert f"100%|██████████| {steps}/{steps} " in bar


def test_a_run_shorter_than_log_every_logs_its_loss(config_file, tmp_path):
    train(config_file, tmp_path, ["training.steps=3", "training.log_every=100"])
    assert [row["step"] for row in rows(tmp_path)] == [3]


def test_what_follows_the_last_step_is_announced(config_file, tmp_path, capsys):
    train(config_file, tmp_path / "run")
    err = capsys.readouterr().err
    assert err.index("freezing the model: 100%") < err.index("validating: 100%") < err.index("done: 100%")


# Two processes with one folder


def test_two_resumes_of_one_run_do_not_disturb_each_other(config_file, tmp_path, kind):
    run = tmp_path / "run"
    train(config_file, run, ["training.steps=3"])
    before = (run / checkpoint.NAME).read_bytes()
    held = FileLock(run / ".lock")
    with held, pytest.raises(ConfigError, match=r"another process trains in .*run: wait for its end, or stop it"):
        train(config_file, run, resume=True)
    assert (run / checkpoint.NAME).read_bytes() == before
    train(config_file, run, resume=True)
    assert weights(run)["state"]["step"] == 6


def test_two_starts_in_one_folder(config_file, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"), pytest.raises(ConfigError, match="another process trains in"):
        train(config_file, run)
    assert not (run / "log.jsonl").exists()


# What a run leaves behind


def test_the_first_row_of_the_log_says_where_pictures_came_from(config_file, tmp_path, pictures, photo):
    grain = tmp_path / "grain"
    grain.mkdir()
    for i in range(3):
        Image.fromarray(photo[i * 70 : i * 70 + 70, :80]).save(grain / f"{i}.png")
    run = tmp_path / "run"
    train(config_file, run, ["training.steps=1", f'data.mix={{"{grain}" = 0.25}}'])
    (first,) = rows(run, "config")
    assert first["config"]["data"]["mix"] == {str(grain): 0.25}
    assert first["pictures"] == {str(pictures): 4, str(grain): 2}  # of six pictures that can be used two are held out
    assert first["processes"] == 1


def test_the_log_has_the_speed_and_the_share_of_waiting(config_file, tmp_path):
    train(config_file, tmp_path)
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]
    assert all(row["images_per_second"] > 0 and 0 <= row["waiting"] <= 1 for row in rows(tmp_path))


def test_a_full_disk_is_one_sentence_and_leaves_the_old_checkpoint_and_no_part(config_file, tmp_path, capsys):
    """RLIMIT_FSIZE fails writes as a full disk does."""
    run = tmp_path / "run"
    train(config_file, run, ["training.steps=3"])
    before = (run / checkpoint.NAME).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        status = main(["train", "--resume", str(run), "training.steps=6", "training.checkpoint_every=1"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"neurocodec: {run / checkpoint.NAME} cannot be written: File too large"
    assert (run / checkpoint.NAME).read_bytes() == before
    assert not list(run.rglob("*.part"))


def test_a_part_of_a_checkpoint_has_no_fixed_name_that_a_link_could_stand_under(config_file, tmp_path):
    run, precious = tmp_path / "run", tmp_path / "precious"
    precious.write_text("of another user")
    run.mkdir()
    for name in (f"{checkpoint.NAME}.part", f"{checkpoint.NAME}.tmp", ".checkpoint.part"):
        (run / name).symlink_to(precious)
    train(config_file, run)
    assert precious.read_text() == "of another user"


def test_the_average_follows_what_learns_and_keeps_no_graph():
    model, ema = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5)) for _ in range(2))
    model[1].requires_grad_(False)
    ema.requires_grad_(False)
    state = State({"model": model}, ema, {"model": []}, step=10**6)
    before = [layer.weight.clone() for layer in ema]
    state.average_weights(0.75)
    assert torch.allclose(ema[0].weight, 0.75 * before[0] + 0.25 * model[0].weight)
    assert torch.equal(ema[1].weight, before[1])
    assert not any(p.requires_grad or p.grad_fn for p in ema.parameters())


def test_a_compiled_run_is_the_same_run(config_file, tmp_path, monkeypatch):
    overrides = ["data.final_crop_share=0.5", "data.final_crop=128", "training.integer_share=0.5"]
    train(config_file, tmp_path / "plain", [*overrides, "training.log_every=1"])
    calls, compile = [], torch.compile

    def without_code_generation(network, *, mode, dynamic):
        calls.append((mode, dynamic))
        return compile(network, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", without_code_generation)
    train(config_file, tmp_path / "compiled", [*overrides, "training.log_every=1", "training.compile=true"])
    assert calls == [(None, False)]
    plain, compiled = (rows(tmp_path / run) for run in ("plain", "compiled"))
    assert [row["loss"] for row in compiled] == pytest.approx([row["loss"] for row in plain], rel=1e-3)
    assert {row["crop"] for row in compiled} == {64, 128}


# Divergence


def with_factors(factors):
    """Objectives whose losses are multiplied by a factor, by step and module, where there is one."""

    def make(objective):
        class Multiplied(objective):
            def losses(self, modules, x, quality_index, step, fraction):
                for loss in super().losses(modules, x, quality_index, step, fraction):
                    yield loss._replace(value=loss.value * factors.get((step, loss.module), 1.0))

        return Multiplied

    return make


@pytest.mark.parametrize(
    ("kind", "factors", "skipped"),
    [
        ("rate-distortion", {(1, "model"): float("inf")}, [0, 1, 1, 1, 1, 1]),
        ("realism", {(1, "codec"): float("inf"), (3, "discriminator"): float("nan")}, [0, 1, 1, 2, 2, 2]),
    ],
    indirect=["kind"],
)
def test_steps_without_finite_gradients_are_skipped_and_counted(config_file, tmp_path, factors, skipped):
    run = tmp_path / "run"
    train(config_file, run, ["training.log_every=1"], make=with_factors(factors))
    assert [row["skipped"] for row in rows(run)] == skipped
    assert [row["loss"] is None for row in rows(run)] == [step in [step for step, _ in factors] for step in range(6)]
    saved = weights(run)
    assert saved["state"]["skipped"] == skipped[-1]
    assert {int(optimizer["state"][0]["step"]) for optimizer in saved["optimizers"]} == {5}
    for part in {"model", "codec", "discriminator", "ema"} & set(saved):
        assert all(value.isfinite().all() for value in saved[part].values())


@both_kinds
def test_a_run_that_diverges_ends_with_an_error(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MAX_SKIPPED", 5)
    factors = {(step, module): float("nan") for step in range(10) for module in ("model", "codec")}
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="5 steps in a row, up to step 5, were not finite"):
        train(config_file, run, make=with_factors(factors))
    assert not list(run.glob("model.safetensors"))
    saved = weights(run)
    for part in {"model", "codec", "ema"} & set(saved):
        assert all(value.isfinite().all() for value in saved[part].values())


# Several processes

QUIET = "torch.Tensor.uniform_ = lambda self, *_: self.zero_()"
"""No noise: it is drawn by each process for itself."""


def test_two_processes_do_what_one_does(config_file, tmp_path, kind):
    overrides = ["training.steps=1", "training.log_every=1", "data.final_crop_share=1.0", "data.final_crop=64"]
    one, two = tmp_path / "one", tmp_path / "two"
    succeed(
        python(tmp_path, kind, config_file, one, *overrides, before=QUIET),
        python(tmp_path, kind, config_file, two, *overrides, before=QUIET, launcher=TWO_PROCESSES),
    )
    assert rows(two, "config")[0]["processes"] == 2
    for key in ("loss", "bpp", "psnr", "gradient"):
        assert rows(two)[0][key] == pytest.approx(rows(one)[0][key], rel=1e-4)
    expected, actual = (weights(run)["optimizers"][0]["state"] for run in (one, two))
    for i, state in expected.items():  # after one step the first moment is a tenth of the gradient
        assert torch.allclose(actual[i]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6)
    assert sum(state["exp_avg"].abs().sum() for state in expected.values()) > 0.01


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("rate-distortion", ["data.final_crop_share=0.5", "data.final_crop=128", "training.integer_share=0.5"]),
        ("realism", ["realism.gan_start=0.3", "realism.matching_weight=1.0", "realism.joint=true"]),
    ],
    indirect=["kind"],
)
def test_processes_end_with_the_same_weights(config_file, tmp_path, kind, overrides):
    before = "made = []; start = loop.start\nloop.start = lambda *a: made.append(start(*a)) or made[-1]\n"
    after = (
        "modules = {**made[0].modules, 'ema': made[0].ema}\n"
        "states = {name: module.state_dict() for name, module in modules.items()}\n"
        "torch.save(states, sys.argv[2] + '/of' + os.environ['RANK'])\n"
    )
    run = tmp_path / "run"
    launched = {"before": before, "after": after, "launcher": TWO_PROCESSES}
    succeed(python(tmp_path, kind, config_file, run, *overrides, **launched))
    assert rows(run, "config")[0]["processes"] == 2
    saved = weights(run)
    assert saved["state"]["step"] == 6
    first, second = (torch.load(run / name) for name in ("of0", "of1"))
    assert_same_weights(first, second)
    assert_same_weights(saved, first)


def test_the_first_process_decodes_then_the_others():
    together, done = threading.Barrier(4, timeout=60), []

    class Threads(Processes):
        def wait(self):
            together.wait()

    def work(process):
        time.sleep(0.1 if process.first else 0.0)
        done.append(process.rank)
        return process.rank

    threads = [Threads(torch.device("cpu"), rank, 4) for rank in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda process: process.first_alone(lambda: work(process)), threads)) == [0, 1, 2, 3]
    assert done[0] == 0


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
