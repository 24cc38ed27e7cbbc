"""The project around the code: installs, pins, the README's commands in a fresh clone, no trace of one machine."""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT
from paramem.project import Project

LIMIT_INSTALL_AND_RUN = 360.0  # a fresh clone to `make run` finished, on two cores
LIMIT_SECOND_RUN = 15.0

TESTBEDS = "lib/paramem/world/testbeds"
MAX_FILE = 2_000_000  # bytes, of all but a testbed's checkpoint
# Bytes of weights that a clone may carry, by what they are for: testbeds, and what default runs do not train again.
MAX_WEIGHTS = {
    TESTBEDS: 96_000_000,
    "lib/paramem/bounds/trained": 400_000,
    "lib/paramem/capacity/trained": 1_000_000,
    "lib/paramem/editing": 14_000_000,
    "lib/paramem/fusion/trained": 22_000_000,
    "lib/paramem/injection/trained": 4_000_000,
    "tests/golden": 2_000_000,
}
UNSAFE = {".pt", ".pth", ".bin", ".pkl", ".pickle"}


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def makefile_extras() -> list[str]:
    return re.findall(r"^EXTRAS \?= (.*)$", (ROOT / "Makefile").read_text(), re.M)[0].split(",")


def normal(name: str) -> str:
    return re.split(r"[\s<>=!~;\[]", name.strip())[0].lower().replace("_", "-")


def test_constraints_pin_every_requirement_and_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    for banned in ("+cpu", "file:", "://", "nvidia", "cuda", "triton", "--find-links", "--index", "paramem"):
        assert banned not in text, f"constraints.txt holds {banned!r}; make it with: make constraints"
    assert not re.search(r"(^|\s)/\w", text), "a path of one machine"
    lines = text.splitlines()
    assert all(re.match(r"[A-Za-z0-9._-]+==\S+( ; .+)?$", line) for line in lines)
    pinned = {normal(line) for line in lines}
    project = pyproject()["project"]
    required = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    assert {normal(each) for each in required} <= pinned
    assert "torch==2.13.0" in lines


def test_everything_the_library_imports_is_declared() -> None:
    """With the distributions that bring what the `run` extra's own packages are built on."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    declared = {normal(each) for each in [*project["dependencies"], *extras["run"], *extras["st"]]}
    names = {
        "sentence-transformers": "sentence_transformers",
        "pyyaml": "yaml",
        "huggingface-hub": "huggingface_hub",
        "scikit-learn": "sklearn",
    }
    allowed = {names.get(each, each) for each in declared} | sys.stdlib_module_names | {"paramem"}
    allowed |= {"traitlets", "IPython", "latexcodec"}  # of nbclient, ipykernel and pybtex
    for path in sorted((ROOT / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            for module in modules:
                assert module.split(".")[0] in allowed, f"{path.relative_to(ROOT)} imports {module}: declare it"


def test_torch_has_an_upper_bound() -> None:
    [torch] = [each for each in pyproject()["project"]["dependencies"] if normal(each) == "torch"]
    assert re.fullmatch(r"torch>=\d+\.\d+,<\d+\.\d+", torch)


def test_conda_installs_what_make_installs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [pip] = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    assert pip == ["-c constraints.txt", f"-e .[{','.join(makefile_extras())}]"]
    assert "not exercised" in (ROOT / "environment.yml").read_text()


def test_the_extras_that_make_names_exist() -> None:
    extras = pyproject()["project"]["optional-dependencies"]
    assert set(makefile_extras()) <= set(extras)
    assert {"run", "test", "dev", "site", "cluster", "st"} <= set(extras)


def test_the_library_is_not_ignored_by_git() -> None:
    for name in (
        "lib/paramem/__init__.py",
        "lib/paramem/world/testbeds/x/model.safetensors",
        "results/editing/rome.json",
    ):
        ignored = subprocess.run(["git", "check-ignore", "-v", name], cwd=ROOT, capture_output=True, text=True)
        assert ignored.returncode == 1, ignored.stdout
    control = subprocess.run(["git", "check-ignore", "-q", "runs/x"], cwd=ROOT)
    assert control.returncode == 0, "the control: what runs write is ignored"


def test_import_is_cheap_and_pulls_in_nothing_heavy() -> None:
    code = (
        "import time; start = time.perf_counter(); import paramem, sys; seconds = time.perf_counter() - start;"
        "assert not {'torch', 'transformers', 'numpy', 'pandas', 'pydantic'} & set(sys.modules); print(seconds)"
    )
    best = min(float(subprocess.check_output([sys.executable, "-c", code], text=True)) for _ in range(3))
    assert best < 0.3


def test_every_public_name_resolves() -> None:
    import paramem

    for name in paramem.__all__:
        assert getattr(paramem, name) is not None
    assert set(paramem._HOMES) | {"__version__"} == set(paramem.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        paramem.nothing  # type: ignore[attr-defined]


# A folder of one machine and something in it, whatever stands before it but a longer path or an address.
PLACE = re.compile(r"(?:(?<![\w./~-])|(?<=\\n)|(?<=file://))/(?:home|root|tmp|work|Users)/[\w.{<$-]+")
TEXTS = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".cfg", ".json", ".cff", ".bib", ".ipynb", ".csv", ".lock", ""}
MADE_UP = {
    "tests/test_notebooks.py": "home/me",  # what the check of notebooks has to find
    "tests/nbval.cfg": "tmp/ipykernel_",  # what kernels write, which nbval is told to ignore
}


def places(name: str, text: str) -> list[str]:
    return [place for place in PLACE.findall(text) if not place[1:].startswith(MADE_UP.get(name, "/"))]


def test_no_tracked_text_names_a_place_of_one_machine() -> None:
    for path in tracked():
        if path.suffix in TEXTS:
            name = path.relative_to(ROOT).as_posix()
            assert places(name, path.read_text(encoding="utf-8", errors="replace")) == [], name


@pytest.mark.parametrize("before", ["", " ", '"', "'", "`", "(", "=", "\\n", ": ", "[", "file://"])
@pytest.mark.parametrize("folder", ["home", "root", "tmp", "work", "Users"])
def test_a_place_of_one_machine_would_be_found(before: str, folder: str) -> None:
    """The control: assembled here, so that this file does not name such a place itself."""
    place = "/".join(["", folder, "someone", "notes.txt"])
    assert places("README.md", f"x{before or ' '}{place}") != []
    for harmless in (f"https://example.org{place}", f"results{place}", f"..{place}", f"/{folder}", f"lib/{folder}/x"):
        assert places("README.md", harmless) == [], harmless


def heavy(sizes: dict[str, int]) -> list[str]:
    """What is wrong with tracked files of these sizes in bytes, by their place in the project."""
    faults = [
        f"{name} has {size:,} bytes: only a testbed's checkpoint may have more than {MAX_FILE:,}"
        for name, size in sizes.items()
        if size > MAX_FILE and not name.startswith(TESTBEDS)
    ]
    faults += [f"{name} is not safetensors" for name in sizes if Path(name).suffix in UNSAFE]
    weights = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    faults += [f"{name}: no folder for weights" for name in weights if not name.startswith(tuple(MAX_WEIGHTS))]
    for folder, most in MAX_WEIGHTS.items():
        total = sum(size for name, size in weights.items() if name.startswith(folder))
        if total > most:
            faults.append(f"{folder} holds {total:,} bytes of weights, more than the {most:,} a clone is to carry")
    return faults


def test_tracked_files_are_small_and_weights_are_safetensors() -> None:
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in tracked()}
    assert heavy(sizes) == []
    for folder in MAX_WEIGHTS:  # the control: every place has its own limit, and it is not far above what lies there
        held = sum(size for name, size in sizes.items() if name.startswith(folder) and name.endswith(".safetensors"))
        assert held > MAX_WEIGHTS[folder] / 2, folder
        assert heavy({f"{folder}/{i}.safetensors": MAX_FILE for i in range(MAX_WEIGHTS[folder] // MAX_FILE + 1)}) != []
    assert heavy({"lib/paramem/stray.safetensors": 1}) != [] != heavy({f"{TESTBEDS}/a/model.bin": 1})
    assert heavy({"results/all.json": MAX_FILE + 1}) != [] == heavy({f"{TESTBEDS}/a/model.safetensors": MAX_FILE + 1})


def test_pre_commit_and_make_check_run_the_same_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    tools = {
        " ".join(hook["entry"].removeprefix(".venv/bin/").split()[:2]).replace(" --force-exclude", "") for hook in hooks
    }
    assert tools == {"ruff check", "ruff format", "mypy", "paramem check"}
    for tool in tools:
        assert f"$(BIN)/{tool}" in recipe


def test_notebooks_are_executed_again_longest_first(tmp_path: Path) -> None:
    """Else two workers wait for one; xdist's own order, by number of cells, has to be off for it."""
    from runpy import run_path

    longest_first = run_path(str(ROOT / "scripts/longest_first.py"))["longest_first"]
    shown = {path.relative_to(ROOT).as_posix() for path in tracked() if path.suffix == ".ipynb"}
    assert shown <= set(longest_first(ROOT))
    for name, seconds in {"a/short": 5, "b/long": 90, "middle": 40}.items():
        for folder, suffix in (("notebooks", "ipynb"), ("results", "json")):
            path = tmp_path / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"seconds": {"default": seconds, "other": 100 - seconds}}))
    (tmp_path / "notebooks/index.ipynb").write_text("{}")
    assert longest_first(tmp_path) == [f"notebooks/{name}.ipynb" for name in ("b/long", "middle", "a/short", "index")]
    recipe = (ROOT / "Makefile").read_text().split("\ntest-notebooks:")[1].split("\n\n")[0]
    assert "--no-loadscope-reorder" in recipe
    assert "scripts/longest_first.py" in recipe


def test_every_make_target_that_texts_name_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in ("README.md", "CONTRIBUTING.md", ".ci/run", ".github/workflows/ci.yml", "docs/decisions.md"):
        named = set(re.findall(r"(?:^|[`\s])make ([a-z-]+)(?=[`\s]|$)", (ROOT / name).read_text(), re.M))
        assert named <= targets, f"{name}: {named - targets}"
    for target in ("run", "test", "lab", "check", "notebooks", "testbeds", "bench", "clean", "test-browser"):
        assert target in targets


def test_every_path_that_the_readme_names_exists() -> None:
    text = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    named = re.findall(r"`((?:notebooks|docs|lib|taxonomy|results)/[\w./-]*)`", text)
    for name in {*linked, *named}:
        assert (ROOT / name).exists(), name


def test_the_readme_s_parameters_are_parameters(repository: Project) -> None:
    """Every `paramem run` line of the README is accepted as far as planning goes."""
    from paramem.cli import _pairs, _seeds
    from paramem.plan import Request, plan

    lines = re.findall(r"^\.venv/bin/paramem run (.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.M)
    assert lines
    for line in lines:
        words = line.split()
        value = {flag: words[words.index(flag) + 1] for flag in ("--profile", "--model", "--seeds") if flag in words}
        names = tuple(word for word in words[:1] if not word.startswith("-"))
        pairs = _pairs([words[i + 1] for i, word in enumerate(words) if word == "-p"])
        request = Request(
            notebooks=names,
            profile=value.get("--profile", "default"),  # type: ignore[arg-type]
            parameters=pairs,
            seeds=_seeds(value.get("--seeds", "")),
            model=value.get("--model"),
        )
        assert plan(request, repository)


def test_the_readme_s_python_runs_and_uses_what_it_imports(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    tree = ast.parse(code)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == imported & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    exec(compile(tree, "README.md", "exec"), {})
    assert "gpt2-s0 says [' Rome.']" in capsys.readouterr().out


def test_make_refuses_other_pythons_than_pyproject_names(tmp_path: Path) -> None:
    """The recipe's own condition, on versions at and beyond both ends."""
    condition = re.findall(r"sys\.exit\(not (.*?)\)'", (ROOT / "Makefile").read_text())
    assert pyproject()["project"]["requires-python"] == ">=3.11,<3.14"
    for version, fits in {(3, 10): False, (3, 11): True, (3, 13): True, (3, 14): False}.items():
        fake = type("sys", (), {"version_info": (*version, 0)})
        assert eval(condition[0], {"sys": fake}) is fits, version
    assert "Python 3.11 to 3.13" in (ROOT / "README.md").read_text()


@pytest.mark.clone
@pytest.mark.skipif("PARAMEM_IN_CLONE" in os.environ, reason="this is the clone's own suite")
def test_the_readme_s_commands_in_a_fresh_clone(tmp_path: Path) -> None:
    """`git clone`, `make run`: environment, the tour, the scoreboard; and a second time in seconds."""
    clone = tmp_path / "paramem"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("VIRTUAL_ENV", "PYTHON", "PARAMEM", "PYTEST", "COV_"))
    }
    environment |= {"PARAMEM_IN_CLONE": "1", "PYTHON": sys._base_executable}  # type: ignore[attr-defined]

    def make(*arguments: str) -> tuple[str, float]:
        started = time.monotonic()
        done = subprocess.run(["make", *arguments], cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout, time.monotonic() - started

    first, seconds = make("run")
    assert "all as committed" in first
    assert seconds < LIMIT_INSTALL_AND_RUN
    board = json.loads((clone / "runs/scoreboard.json").read_text())
    assert board["claims"]
    assert not board["changes"]
    second, seconds = make("run")
    assert "cached" in second
    assert seconds < LIMIT_SECOND_RUN
    make("lab", "ARGS=-- --version")
    status = subprocess.check_output(["git", "status", "--porcelain"], cwd=clone, text=True)
    assert status == "", f"the README's commands leave the clone as it was: {status}"
    shutil.rmtree(clone)
