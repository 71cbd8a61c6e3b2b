"""The code in README.md and docs/ works: Python blocks and commands are run; commands that take long are parsed."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
from paths import PHOTO, ROOT, SMALL_MODEL
from PIL import Image

from neurocodec import container
from neurocodec.cli.main import build_parser, main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("neurocodec", "python", "torchrun", "pip", "make", "git")

NOT_RUN = {
    "train": "takes minutes; tests/training trains",
    "synth": "takes minutes; tests/synthesis trains",
    "bench": "takes minutes; tests/bench measures",
    "doctor": "takes long; tests/test_conformance.py runs it",
    "demo": "takes long; tests/cli runs it",
    "view": "opens a window; tests/cli runs it",
    "neurocodec.interop.compressai": "needs CompressAI and downloads weights; tests/interop runs it",
    "neurocodec.interop.ray": "needs Ray; tests/interop runs it",
    "neurocodec.perceptual.lpips.load_lpips": "downloads weights; tests/perceptual runs it",
}
"""Commands and modules in the pages that are checked without being run."""

PLACEHOLDERS = {
    "IN": "photo.png",
    "IN...": "photo.png",
    "IN.nic...": "photo.nic",
    "FILE": "photo.nic",
    "FILE...": "photo.nic",
    "IN.nic": "photo.nic",
    "F": "jpg",
    "DIR": "photos",
    "OUT": "out",
    "B": "0.3",
    "--bytes N": "2000",
    "-j N": "2",
    "P": "30",
    "E": "2",
    "R": "1",
    "X": "16",
    "Y": "16",
    "W": "32",
    "H": "32",
}


class Block(NamedTuple):
    """A block of code in a page: fenced with its language, or indented."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks() -> Iterator[Block]:
    """The blocks of all pages."""
    for page in PAGES:
        text = page.read_text("utf-8")
        for match in re.finditer(r"^```(\w*)\n([\s\S]*?)^```$|(?<=\n\n)(?: {4}.*\n+)+", text, re.MULTILINE):
            line = text.count("\n", 0, match.start()) + 1
            yield Block(page, line, match[1] or "", match[2] or textwrap.dedent(match[0]))


def is_python(block: Block) -> bool:
    return block.language == "python" or bool(re.match(r"(import|from) \w+", block.text))


def commands(block: Block) -> list[list[str]]:
    """The words of each command in a block; one without options and one for each [option | alternative]."""
    lines = []
    for line in re.sub(r"\s*\\\n\s*", " ", block.text).splitlines():
        line = re.split(r"\s{2,}|\s#", line)[0]  # what follows is a description
        if not re.match(rf"([A-Z_]+=\S+ )*({'|'.join(PROGRAMS)}) ", line):
            continue
        required = re.sub(r" \[-[^\]]*\]", "", line)
        options = [option for part in re.findall(r" \[(-[^\]]*)\]", line) for option in part.split(" | ")]
        lines += [f"{required} {option}" for option in ["", *options]]
    return [fill_in(shlex.split(line)) for line in lines]


def fill_in(words: list[str]) -> list[str]:
    """Words with the files and numbers of this test in place of IN, OUT and so on."""
    pairs = zip(["", *words], words, strict=False)
    return [PLACEHOLDERS.get(f"{before} {word}", PLACEHOLDERS.get(word, word)) for before, word in pairs]


BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if is_python(block)]
SHELL = [block for block in BLOCKS if not is_python(block) and commands(block)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the pages name."""
    with Image.open(PHOTO) as im:
        small = im.convert("RGB").resize((288, 192))
    weights = ROOT / "neurocodec" / "weights"
    small.save(tmp_path / "photo.png")
    shutil.copy(ROOT / "neurocodec" / "vectors" / "photo-131x97-q480.nic", tmp_path / "photo.nic")
    (tmp_path / "photos").mkdir()
    small.crop((0, 0, 40, 30)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "out").mkdir()
    for run, model in (("mine", SMALL_MODEL), ("hific", weights / "base.safetensors")):
        (tmp_path / "runs" / run).mkdir(parents=True)
        shutil.copy(model, tmp_path / "runs" / run / "model.safetensors")
    (tmp_path / "runs" / "realism").mkdir()
    for run in ("realism", "hific"):
        shutil.copy(weights / "base-realism.safetensors", tmp_path / "runs" / run / "realism.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_block_runs(block: Block, folder: Path) -> None:
    check_names(block.text)
    if not any(name in NOT_RUN for name in imported(block.text)):
        exec(compile(block.text, block.name, "exec"), {})


def imported(source: str) -> dict[str, str]:
    """Modules of this package that a source imports, and the names that it gives them."""
    return {
        f"{node.module}.{alias.name}": alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("neurocodec")
        for alias in node.names
    }


def check_names(source: str) -> None:
    """The functions of this package that a source calls exist and have the parameters that it names."""
    modules: dict[str, Any] = {}
    for path, name in imported(source).items():
        parent, _, last = path.rpartition(".")
        try:
            modules[name] = importlib.import_module(path)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(parent), last), f"{path} does not exist"
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            module = modules.get(ast.unparse(call.func.value))
            if module is not None:
                keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(getattr(module, call.func.attr)).bind(*call.args, **keywords)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_commands_run_or_are_parsed(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for program, *words in commands(block):
        while "=" in program:  # NAME=value before the command
            monkeypatch.setenv(*program.split("="))
            program, *words = words
        {
            "neurocodec": run_or_parse,
            "torchrun": parse_torchrun,
            "python": check_script,
            "pip": check_requirements,
            "make": check_target,
            "git": lambda words: None,  # downloads
        }[program](words)


def run_or_parse(words: list[str]) -> None:
    if words[0] in NOT_RUN:
        parse(words)
        return
    overwrite = ["--force"] if words[0] in ("encode", "decode", "compare") and "--force" not in words else []
    assert main([*words, *overwrite]) == 0, shlex.join(words)


def parse_torchrun(words: list[str]) -> None:
    arguments = pytest.importorskip("torch.distributed.run").get_args_parser().parse_args(words)
    assert (arguments.module, arguments.training_script) == (True, "neurocodec")
    parse(arguments.training_script_args)


def parse(words: list[str]) -> None:
    """A command that is not run: its options are known, and its configuration exists with the settings it names."""
    args, rest = build_parser().parse_known_args(words)
    assert not [word for word in rest if word.startswith("-")], shlex.join(words)
    if words[0] == "train":
        from neurocodec.training.config import load_config

        overrides = [*args.words, *rest]
        name = overrides.pop(0) if overrides and "=" not in overrides[0] else ""
        assert name or args.resume or args.init_from, shlex.join(words)
        load_config(name or "base", overrides)
    if words[:2] == ["synth", "train"]:
        from neurocodec.synthesis import registry, system

        name = args.words[0] if args.words else args.system
        assert args.words or args.resume, shlex.join(words)
        system.load_config(registry.trained_system(args.system), name, [*args.words[1:], *rest])
    if words[:2] == ["synth", "apply"]:
        from neurocodec.synthesis import registry, system

        settings = [word for word in [*args.words, *rest] if "=" in word]
        system.options_of(registry.system(args.system), settings)
        assert len(args.words) + len(rest) - len(settings) == len(registry.SYSTEMS[args.system].inputs)


def check_script(words: list[str]) -> None:
    """A script of this checkout, which has the options that the page gives it."""
    source = (ROOT / words[0]).read_text("utf-8")
    if "neurocodec.cli.main" in source:
        return
    options = [word for word in words[1:] if word.startswith("-")]
    assert [word for word in options if f'"{word}"' not in source] == [], f"{words[0]} has no such options"


def check_requirements(words: list[str]) -> None:
    """Extras of this package are in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        for extras in re.findall(r"^neurocodec\[(.*)\]$", word):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])


def check_target(words: list[str]) -> None:
    assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {words[0]}"


def test_blocks_and_commands_are_seen() -> None:
    assert {block.page.name for block in PYTHON} >= {"README.md", "format.md", "interop.md", "perceptual.md"}
    lines = {shlex.join(words) for block in SHELL for words in commands(block)}
    assert lines >= {
        "make test",
        "neurocodec encode photo.png --bpp 0.3",
        "neurocodec decode photo.nic --region 16 16 32 32",
        "neurocodec bench speed",
    }
    block = Block(ROOT / "README.md", 1, "", "neurocodec encode IN [-q 5] --unknown  a description\n")
    ((_, *words), _) = commands(block)
    with pytest.raises(SystemExit):
        main(words)


def test_pages_agree_on_the_hours_of_training() -> None:
    readme, card = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/model-card.md"))
    hours = re.search(r"trained for ([\w ]+ hours)", readme)
    assert hours is not None
    assert re.search(rf"\b{hours[1]} in all", card, re.IGNORECASE)


def test_the_hex_dump_of_the_format_page_is_its_example() -> None:
    page = (ROOT / "docs" / "format.md").read_text("utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (dump,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    names: dict[str, bytes] = {}
    exec(snippet, names)
    spelled = b""
    for line in dump.splitlines():
        row = re.match(r" *(\d+)  ((?:[0-9A-F]{2} )+)", line)
        assert row is not None
        assert int(row[1]) == len(spelled)
        spelled += bytes.fromhex(row[2])
    assert spelled == names["data"]
    assert container.write(container.read(spelled)) == spelled


def test_links_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))]
    assert len(links) > 10
    assert not [
        f"{page.name}: {link}" for page, link in links if "://" not in link and not (page.parent / link).exists()
    ]


def test_the_site_builds_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    links = [
        (page, unquote(link))
        for page in tmp_path.rglob("*.html")
        for link in re.findall(r'(?:href|src)="([^":]+)"', page.read_text("utf-8"))
    ]
    assert len(links) > 1000
    missing = {f"{page.name}: {link}" for page, link in links if not _target_exists(page, link, tmp_path)}
    assert not missing


def _target_exists(page: Path, link: str, site: Path) -> bool:
    path, _, anchor = link.partition("#")
    target = page if not path else (site if path.startswith("/") else page.parent) / path.lstrip("/")
    if target.suffix != ".html" or not anchor:
        return target.exists()
    return bool(re.search(rf'(?:id|name)="{re.escape(anchor)}"', target.read_text("utf-8")))


def test_the_readme_names_every_environment_variable() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "neurocodec").rglob("*.py"))
    variables = set(re.findall(r"NEUROCODEC_[A-Z]+", sources))
    assert "NEUROCODEC_WEIGHTS" in variables
    assert not [name for name in variables if f"`{name}`" not in (ROOT / "README.md").read_text("utf-8")]
