"""Training configuration: errors that name the key, schedules, and settings that the documentation lists."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from paths import ROOT

from neurocodec.cli.main import main
from neurocodec.errors import ConfigError
from neurocodec.training.config import Config, TrainingConfig, config_from_dict, load_config
from neurocodec.training.schedule import fraction_done, in_last, learning_rate, seed_of

DOCUMENT = ROOT / "docs" / "training.md"


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[training]\nsteps = 3\n")
    return path


def test_overrides_have_the_types_of_the_settings(config_file):
    overrides = ["training.learning_rate=1", "training.optimizer=soap", "training.compile=true", "data.folder=a b"]
    config = load_config(config_file, overrides)
    assert config.training.steps == 3
    assert (config.training.learning_rate, config.training.optimizer, config.training.compile) == (1.0, "soap", True)
    assert config.data.folder == "a b"
    assert load_config(config_file, ['data.mix={"a/b" = 0.3, c = 0.2}']).data.mix == {"a/b": 0.3, "c": 0.2}
    assert config_from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepps=3", "stepps"),
        ("training.steps=3.5", "int"),
        ("steps=3", "section.key"),
        ("nosuch.key=1", "nosuch"),
        ("training.ema=high", "float"),
        ("training.compile=1", "bool"),
        ("training.batch=0", r"training.batch is .*, expected at least 1"),
        ("training.precision=half", r"training.precision is .*, expected auto"),
        ("training.integer_share=1.5", r"training.integer_share is .*, expected between 0 and 1"),
        ("data.final_crop_share=-0.1", r"data.final_crop_share is .*, expected between 0 and 1"),
        ("data.crop=100", r"data.crop is .*, expected a multiple of 64"),
        ("data.final_crop=0", r"data.final_crop is .*, expected a multiple of 64"),
        ("data.shorter_side=32", "data.shorter_side is 32, less than data.crop"),
        ("data.workers=0", r"data.workers is .*, expected at least 1"),
        ("training.optimizer=sgd", r"training.optimizer is .*, expected adam or soap"),
        ("data.mix=0.3", "data.mix is 0.3, and a value of type dict is needed"),
        ("data.mix={a = 0.6, b = 0.4}", "data.mix is .*, expected a table of other folders and their shares"),
        ("data.mix={a = 0.0}", "data.mix is .*, expected a table of other folders and their shares"),
        ('data.mix={a = "half"}', "data.mix is .*, expected a table of other folders and their shares"),
        ('data.mix={"" = 0.5}', "data.mix is .*, expected a table of other folders and their shares"),
        ("training.device=gpu", r"training.device is .*, expected auto or cpu or cuda"),
        ("training.learning_rate=-1e-3", r"training.learning_rate is .*, expected at least 0"),
        ("training.learning_rate=nan", "training.learning_rate is nan, and a finite number is needed"),
        ("training.minutes=-1", r"training.minutes is .*, expected at least 0"),
        ("training.threads=-1", r"training.threads is .*, expected at least 0"),
        ("training.init_images=-1", r"training.init_images is .*, expected at least 0"),
        ("training.ema=1.5", r"training.ema is .*, expected between 0 and 1"),
        ("training.warmup=-0.1", r"training.warmup is .*, expected between 0 and 1"),
        ("training.clip=0.0", r"training.clip is .*, expected above 0"),
        ("training.seed=9223372036854775808", r"training.seed is .*, expected at least 0 and below 2\^63"),
        ("data.validation_every=1", r"data.validation_every is .*, expected at least 2"),
    ],
)
def test_errors_name_the_key(config_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(config_file, [override])


def test_files_that_cannot_be_read(config_file, tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="no configuration 'none' ships; those that do are base, base-gpu, hific, r"):
        load_config("none")
    for text in (b"[model", b"# \xff"):
        config_file.write_bytes(text)
        with pytest.raises(ConfigError, match="is not valid TOML"):
            load_config(config_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "it has more than 32,768 bytes"),
        ("#" * 40_000, "it has more than 32,768 bytes"),
        ("a = " + "[" * 30_000, "is not valid TOML"),
        ("a = " + "1" * 30_000, "is not valid TOML"),
        ("\0", "is not valid TOML"),
    ],
)
def test_a_hostile_configuration_is_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "a.toml"
    path.symlink_to("/dev/zero") if text is None else path.write_text(text)
    assert main(["train", str(path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("neurocodec: ")
    assert message in error
    assert len(error) < 300
    assert error.count("\n") == 1


@pytest.mark.parametrize("overrides", [[], ["training.steps=5"]])
def test_a_value_in_the_place_of_a_section(config_file, overrides):
    config_file.write_text("training = 3")
    with pytest.raises(ConfigError, match=r"training is 3, and a section \[training\] is needed"):
        load_config(config_file, overrides)


def test_a_discriminator_that_climbs(config_file):
    with pytest.raises(ConfigError, match=r"realism\.discriminator_learning_rate is -0.0001, expected at least 0"):
        load_config(config_file, ["realism.discriminator_learning_rate=-1e-4"])


def test_a_run_ends_by_steps_or_by_the_clock():
    settings = TrainingConfig(steps=200, minutes=0.0)
    assert fraction_done(50, 1e6, settings) == 0.25
    assert fraction_done(50, 90.0, dataclasses.replace(settings, minutes=2.0)) == 0.75
    assert fraction_done(190, 90.0, dataclasses.replace(settings, minutes=2.0)) == 0.95


def test_the_last_share_of_a_run():
    assert [in_last(0.2, step / 10) for step in range(11)] == [False] * 8 + [True] * 3
    assert not in_last(0.0, 1.0)
    assert in_last(1.0, 0.0)


def test_the_learning_rate_warms_up_and_falls():
    settings = TrainingConfig(warmup=0.1, final_learning_rate=0.01)
    rates = [learning_rate(fraction, settings) for fraction in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert rates[0] < 0.01
    assert rates[1] == pytest.approx(0.5, abs=0.01)
    assert rates[2] > 0.97
    assert rates[3] == pytest.approx(0.505)
    assert rates[4] == pytest.approx(0.01)


def test_the_learning_rate_can_stay_flat():
    settings = TrainingConfig(warmup=0.1, final_learning_rate=1.0)
    assert [learning_rate(fraction, settings) for fraction in (0.1, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert learning_rate(0.05, settings) == pytest.approx(0.5, abs=0.01)


def test_seeds_differ_by_step_member_and_stream():
    seeds = {
        seed_of(seed, step, member, stream)
        for seed in (0, 1)
        for step in (0, 1)
        for member in (0, 1)
        for stream in ("crop", "noise", "quality")
    }
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_documentation_lists_every_setting_with_its_default():
    """Rows of the tables: | `name` | `default` | meaning |, below a heading that names the section."""
    sections = re.split(r"^### \[(\w+)\]$", DOCUMENT.read_text(), flags=re.M)[1:]
    documented = {
        name: dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \| \S", text, flags=re.M))
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }
    expected = {
        name: {key: json.dumps(value) for key, value in section.items()}
        for name, section in dataclasses.asdict(Config()).items()
    }
    assert documented == expected
