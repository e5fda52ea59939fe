"""What is installed: the package list, the wheel's content, and the bare command from the wheel in an empty folder."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from unifashion_pl.version import __version__

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
WORKFLOWS = ROOT / ".github/workflows"


def test_the_package_list_names_every_folder() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(ROOT / "src").parts) for p in (ROOT / "src").rglob("__init__.py")}
    assert listed == found | {"unifashion_pl.datamodules", "unifashion_pl.checkpoints"}


def test_every_dependency_has_a_floor_and_a_reason_and_no_cap() -> None:
    lines = [line.strip() for line in (ROOT / "setup.cfg").read_text().splitlines()]
    start, end = lines.index("install_requires ="), lines.index("[options.extras_require]")
    block = [line for line in lines[start + 1 : end] if line]
    for number, line in enumerate(block):
        if not line.startswith("#"):
            assert ">=" in line
            assert "<" not in line
            assert block[number - 1].startswith("#"), f"{line} lacks the line with its reason"


def declared() -> list[Requirement]:
    """What setup.cfg asks for: the library's and the developers' packages."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    blocks = [config["options"]["install_requires"], config["options.extras_require"]["dev"]]
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [Requirement(line) for line in lines if line]


def locked(python: str, system: str) -> dict[str, str]:
    """Package -> version of the lock on a Python and a system."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.4",
        "sys_platform": system,
        "platform_system": system.capitalize(),
        "platform_machine": "x86_64",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    assert all([s.operator for s in pin.specifier] == ["=="] and pin.url is None for pin in pins)
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    names = [pin.name.lower() for pin in here]
    assert sorted(set(names)) == sorted(names)
    return {pin.name.lower(): next(iter(pin.specifier)).version for pin in here}


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_lock_has_a_version_of_everything_that_setup_cfg_asks_for(python: str, system: str) -> None:
    pins = locked(python, system)
    for requirement in declared():
        version = pins[requirement.name.lower()]
        assert requirement.specifier.contains(version), f"{requirement}, locked is {version}: make lock"


def test_every_python_that_is_named_is_tried() -> None:
    """By classifiers, by CI, and by a release before it is published."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    named = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    assert named == PYTHONS
    assert config["options"]["python_requires"] == f">={PYTHONS[0]}"
    for name, job in (("ci", "test"), ("release", "try")):
        assert yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS


def test_a_release_is_trusted_and_says_what_it_is() -> None:
    """No token: the index knows the workflow. The version has its section in the changelog, as the workflow asks for."""
    jobs = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]
    publish = jobs["publish"]
    assert (publish["needs"], jobs["try"]["needs"]) == ("try", "build")
    assert publish["permissions"] == {"id-token": "write"}
    assert [step.get("with", {}).keys() & {"password", "user", "repository-url"} for step in publish["steps"]] == [set(), set()]
    script = next(step["run"] for step in jobs["build"]["steps"] if "agree" in step.get("name", ""))
    for version, right in ((__version__, True), ("0.0.9", False)):
        done = subprocess.run(
            ["bash", "-e", "-c", script], cwd=ROOT, env={**os.environ, "GITHUB_REF_NAME": f"v{version}"}, check=False
        )
        assert (done.returncode == 0) == right, version
    assert os.access(ROOT / ".ci/try-wheel", os.X_OK)


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_malicious_releases_are_excluded(name: str) -> None:
    asked = next(requirement for requirement in declared() if requirement.name == name)
    assert [asked.specifier.contains(version) for version in ("2.6.1", "2.6.2", "2.6.3", "2.6.6")] == [True, False, False, True]


def test_security_md_names_tests_and_targets_that_exist() -> None:
    from fuzz.targets import TARGETS

    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 5
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text()
    targets = {target.name for target in TARGETS}
    for line in re.findall(r"fuzz: (`.+)\|", text):
        for name in re.findall(r"`([\w*-]+)`", line):
            assert any(fnmatch(target, name) for target in targets), name


def test_import_is_light() -> None:
    code = "import sys, unifashion_pl; print('torch' in sys.modules, 'transformers' in sys.modules)"
    start = time.monotonic()
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
    assert time.monotonic() - start < 3


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-q",
        "-w",
        str(out),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_the_wheel_holds_code_configs_and_the_tiny_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "cli/main.py",
        "datamodules/wardrobe.py",
        "configs/phase1.yaml",
        "configs/phase2.yaml",
        "configs/tiny.yaml",
        "configs/tiny_vocab.txt",
        "configs/tiny_llm_tokenizer.json",
        "configs/tiny_sd/vae/config.json",
        "configs/tiny_sd/vae/diffusion_pytorch_model.safetensors",
        "configs/tiny_sd/unet/diffusion_pytorch_model.safetensors",
        "configs/tiny_sd/text_encoder/model.safetensors",
        "checkpoints/tiny/config.json",
        "checkpoints/tiny/model.safetensors",
        "report/published.json",
        "py.typed",
    ):
        assert f"unifashion_pl/{name}" in names
    templates = {path.name for path in (ROOT / "src/unifashion_pl/report/templates").iterdir()}
    assert {"page.html.j2", "style.css"} <= templates
    assert {f"unifashion_pl/report/templates/{name}" for name in templates} <= names
    assert not any(name.startswith(("tests/", "datamodules/")) for name in names)
    scripts = next(n for n in names if n.endswith("entry_points.txt"))
    assert "lightning = unifashion_pl.cli:main" in zipfile.ZipFile(wheel).read(scripts).decode()


def test_bare_fit_from_the_wheel_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(site), "UNIFASHION_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    code = "import unifashion_pl, sys; assert unifashion_pl.__file__.startswith(sys.argv.pop(1)); from unifashion_pl.cli import main; main()"
    quick = [
        "--data.size",
        "tiny",
        "--data.batch_size",
        "8",
        "--data.triplet_batch_size",
        "8",
        "--trainer.max_steps",
        "1",
        "--trainer.accelerator",
        "cpu",
    ]
    command = [sys.executable, "-c", code, str(site), "fit", "--config", "phase2.yaml", *quick]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    assert "trying 'tiny'" in done.stdout
    assert (folder / "runs/phase2/checkpoints/last.ckpt").is_file()
