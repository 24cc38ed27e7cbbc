"""Loading: bundled testbeds, folders, hub ids, the errors of each, and what is never done (network, code, pickle)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import FAMILIES, make_lm, tokenizer
from paramem import hub, models, sources
from paramem.errors import (
    BadParameter,
    CorruptFile,
    HubUnavailable,
    IncompatibleIntervention,
    ModelNotFound,
    ParamemError,
    UnsupportedArchitecture,
)
from paramem.interventions import Dense, WeightDelta
from paramem.lm import LM
from paramem.models import bundled_names, load

PROMPTS, TARGETS = ["The capital of France is", "Anna"], ["Paris", "works"]


def saved(lm: LM, folder: Path) -> Path:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(make_lm("gpt2", dtype=torch.float32), tmp_path / "model")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to look up or reach a host fails, and is noted."""
    attempts: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        attempts.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return attempts


@pytest.fixture
def testbeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundled testbeds as they are shipped: fp16 weights, tied ones once, and a checkpoint."""
    root = tmp_path / "testbeds"
    for name, family in (("gpt2-s0", "gpt2"), ("llama-s0", "llama")):
        lm = make_lm(family, dtype=torch.float32, tie_word_embeddings=True)
        saved(lm, root / name)
        for step, factor in (("model", 1.0), ("step0100", 0.5)):
            halves = {name: (factor * p.detach()).half() for name, p in lm.model.named_parameters()}
            save_file(halves, root / name / f"{step}.safetensors", metadata={"format": "pt"})
    monkeypatch.setattr(sources, "TESTBEDS", root)
    return root


# --- what is loaded -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_comes_back_the_same_without_network(
    family: str, tied: bool, tmp_path: Path, no_network: list[object]
) -> None:
    lm = make_lm(family, dtype=torch.float32, tie_word_embeddings=tied)
    back = load(saved(lm, tmp_path / "model"))
    assert back.fingerprint() == lm.fingerprint()
    assert (back.arch.head.weight is back.arch.tokens.weight) == tied
    assert torch.equal(back.encode(PROMPTS).input_ids, lm.encode(PROMPTS).input_ids)
    torch.testing.assert_close(back.score(PROMPTS, TARGETS).logprob, lm.score(PROMPTS, TARGETS).logprob)
    assert not any(parameter.requires_grad for parameter in back.model.parameters())
    assert not back.model.training
    assert no_network == []


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", torch.float64, "torch.float16"])
def test_weights_come_in_the_type_asked_for(folder: Path, dtype: str | torch.dtype) -> None:
    kind = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    lm = load(folder, dtype=dtype)
    assert lm.dtype == kind
    assert {parameter.dtype for parameter in lm.model.parameters()} == {kind}
    exact = load(folder, dtype="float64").score(PROMPTS, TARGETS).logprob
    assert lm.score(PROMPTS, TARGETS).logprob.dtype == torch.promote_types(kind, torch.float32)
    bound = {torch.float64: 0, torch.float32: 1e-5}.get(kind, 0.5)
    assert float((lm.score(PROMPTS, TARGETS).logprob - exact).abs().max()) <= bound
    assert len(lm.generate(PROMPTS, max_new_tokens=3)) == 2


def test_bundled_testbeds_and_checkpoints_are_loaded_by_name(testbeds: Path, no_network: list[object]) -> None:
    names = ("gpt2-s0", "gpt2-s0@step0100", "llama-s0", "llama-s0@step0100")
    assert bundled_names() == names
    for name in names:
        lm = load(name)
        stem, _, step = name.partition("@")
        stored = load_file(testbeds / stem / f"{step or 'model'}.safetensors")
        assert lm.dtype == torch.float32
        for parameter, value in stored.items():
            assert torch.equal(lm.model.get_parameter(parameter), value.float())
        assert lm.arch.head.weight is lm.arch.tokens.weight
        assert lm.name == name
    assert load("gpt2-s0").fingerprint() != load("gpt2-s0@step0100").fingerprint()
    assert no_network == []


def test_a_testbed_is_shadowed_by_no_folder_of_its_name(
    testbeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2-s0").mkdir()
    assert load("gpt2-s0").name == "gpt2-s0"
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load("./gpt2-s0")


def test_a_plain_tokenizer_is_not_rebuilt_as_its_family_usually_has_it(tmp_path: Path) -> None:
    lm = load(saved(make_lm("qwen2", dtype=torch.float32), tmp_path / "model"))
    text = "Ann Berg  was {born} in Łódź!\n"
    assert lm.tokenizer(text)["input_ids"] == tokenizer()(text)["input_ids"]


def test_device_map_spreads_the_layers(folder: Path) -> None:
    whole = load(folder)
    parts = ("wte", "wpe", "drop", "h.0", "h.1", "h.2", "ln_f")
    places = {f"transformer.{part}": "disk" if part == "h.1" else "cpu" for part in parts} | {"lm_head": "cpu"}
    spread = load(folder, device_map={"": "cpu"})
    offloaded = load(folder, device_map=places)
    batch = whole.encode(PROMPTS, TARGETS)
    for lm in (spread, offloaded):
        torch.testing.assert_close(lm.score(PROMPTS, TARGETS).logprob, whole.score(PROMPTS, TARGETS).logprob)
        assert lm.generate(PROMPTS, max_new_tokens=4) == whole.generate(PROMPTS, max_new_tokens=4)
        blocks = lm.blocks(batch)
        torch.testing.assert_close(lm.unembed(blocks.forward(blocks.resid_pre[1], 1)), whole.logits(batch))
    name, weight, _ = offloaded.weight(1, "down")
    assert weight.is_meta, "control: the layer is really elsewhere"
    delta = WeightDelta({name: Dense(torch.ones(weight.shape))})
    with pytest.raises(IncompatibleIntervention, match="offloaded"), delta.applied(offloaded):
        pytest.fail("must not be applied")
    with pytest.raises(BadParameter, match="not both"):
        load(folder, device="cpu", device_map="auto")


# --- what is not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2-xxl", "EleutherAI/nothing-7b", "gpt2-s1"])
def test_unknown_ids_fail_at_once_without_network(name: str, testbeds: Path, no_network: list[object]) -> None:
    start = time.perf_counter()
    with pytest.raises(HubUnavailable, match=rf"{name}.*hf download.*gpt2-s0, gpt2-s0@step0100, llama-s0"):
        load(name)
    assert time.perf_counter() - start < 2
    assert no_network, "control: the network was asked"


def test_near_names_are_suggested(testbeds: Path, no_network: list[object]) -> None:
    with pytest.raises(HubUnavailable, match="Did you mean 'llama-s0'"):
        load("lama-s0")
    with pytest.raises(ModelNotFound, match=r"no checkpoint 'step9'.*gpt2-s0@step0100"):
        load("gpt2-s0@step9")


def test_a_hanging_name_server_does_not_hang_us(testbeds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: object, **kwargs: object) -> None:
        time.sleep(4)
        raise OSError("timed out at last")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "getproxies", dict)
    start = time.perf_counter()
    with pytest.raises(HubUnavailable):
        load("gpt2-xxl")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", "what ever", ""])
def test_what_can_be_no_id_is_not_looked_up(name: str, testbeds: Path, no_network: list[object]) -> None:
    with pytest.raises(ModelNotFound, match="gpt2-s0"):
        load(name)
    assert no_network == []


def test_a_file_or_an_empty_folder_is_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="is a file"):
        load(folder / "config.json")
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        load(tmp_path)


# --- what does not fit ----------------------------------------------------------------------------------------


def test_bad_parameters_are_named(folder: Path) -> None:
    for wrong, reason in [
        ({"dtype": "int8"}, r"int8.*float32"),
        ({"dtype": torch.int64}, "int64"),
        ({"device": "warp:9"}, "warp:9"),
        ({"device": "cuda:99"}, "cuda:99"),
    ]:
        with pytest.raises(BadParameter, match=reason):
            load(folder, **wrong)  # type: ignore[arg-type]


def test_other_families_are_refused_before_anything_is_read(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedArchitecture, match="bert"):
        load(folder)


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    trap = folder / "ran"
    code = f"import pathlib\npathlib.Path({str(trap)!r}).touch()\nclass Trap: pass\n"
    (folder / "trap.py").write_text(code)
    auto = {"AutoConfig": "trap.Trap", "AutoModelForCausalLM": "trap.Trap", "AutoTokenizer": ["trap.Trap", None]}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto}))
    load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto, "model_type": "trap"}))
    with pytest.raises(UnsupportedArchitecture):
        load(folder)
    assert not trap.exists()


def test_pickled_weights_are_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert load(folder).n_layers == 3, "control: safetensors beside it are"
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="safetensors"):
        load(folder)


def test_damaged_files_are_named(folder: Path, testbeds: Path) -> None:
    for name, content in [
        ("model.safetensors", b"not at all"),
        ("model.safetensors", (folder / "model.safetensors").read_bytes()[:-50]),
        ("tokenizer.json", b"{"),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"\xff\xfe"),
    ]:
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ParamemError, match=r"model"):
            load(folder)
        (folder / name).write_bytes(good)
    load(folder)
    (testbeds / "gpt2-s0" / "step0100.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptFile, match="gpt2-s0@step0100"):
        load("gpt2-s0@step0100")


def test_weights_that_do_not_fit_the_configuration_are_refused(folder: Path, testbeds: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = dict(list(weights.items())[1:])
    save_file(lost, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptFile, match=r"lack lm_head\.weight"):
        load(folder)
    other = {name: tensor[:-1].clone() if tensor.ndim == 2 else tensor for name, tensor in weights.items()}
    save_file(other, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CorruptFile):
        load(folder)
    shutil.copy(folder / "model.safetensors", testbeds / "llama-s0" / "step0100.safetensors")
    with pytest.raises(CorruptFile, match="llama-s0@step0100"):
        load("llama-s0@step0100")


# --- threads --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_models_use_one_thread_unless_the_environment_says_otherwise(
    folder: Path, two_threads: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    load(folder)
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    load(folder)
    assert torch.get_num_threads() == 1
    monkeypatch.setattr(models, "SINGLE_THREAD_BELOW", 0)
    load(folder)
    assert torch.get_num_threads() == models._default_threads, "large models get torch's default back"
    assert "".join(capfd.readouterr()) == "", "loading says nothing"


def test_resolving_a_name_needs_no_torch() -> None:
    code = "import sys; from paramem.sources import bundled_names; bundled_names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
