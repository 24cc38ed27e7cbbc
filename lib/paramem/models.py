"""Loading language models: `load("gpt2-s0")`, a local folder, or a hub id.

Names of the whole model layer can be imported from here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from paramem.arch import Architecture, Site, WeightRef, architecture_of, require_supported
from paramem.errors import BadParameter, CorruptFile, ModelNotFound
from paramem.hooks import Blocks, Patch
from paramem.lm import LM, Run, Scores, log_probs
from paramem.sources import Source, bundled_names, resolve
from paramem.tokens import Batch

__all__ = [
    "LM",
    "Architecture",
    "Batch",
    "Blocks",
    "Patch",
    "Run",
    "Scores",
    "Site",
    "WeightRef",
    "architecture_of",
    "bundled_names",
    "load",
    "log_probs",
]

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
# Below this many parameters a matrix product is too small to share: two threads were several times slower than one.
SINGLE_THREAD_BELOW = 50_000_000
_default_threads = torch.get_num_threads()


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    device_map: str | Mapping[str, Any] | None = None,
) -> LM:
    """Load a bundled testbed, a checkpoint of one (`gpt2-s0@step0100`), a local folder or a hub id.

    `device` is CUDA where there is one, else the CPU; `device_map` (as in accelerate, `"auto"` for instance) spreads a
    model over several devices instead. Only safetensors are read and no code of the model's own is run. Unless
    OMP_NUM_THREADS is set, a small model on the CPU makes torch use a single thread.

    Raises `ModelNotFound`, `HubUnavailable`, `UnsupportedArchitecture`, `BadParameter`, `CorruptFile`.
    """
    kind = _dtype(dtype)
    if device is not None and device_map is not None:
        raise BadParameter(f"give device or device_map, not both (device={device!r}, device_map={device_map!r})")
    place = usable_device(device) if device_map is None else None
    source = resolve(name, revision)
    require_supported(source.config().get("model_type"))
    model = _model(source, kind, device_map)
    if place is not None:
        model.to(place)  # type: ignore[arg-type]  # the stub's decorator hides the argument
        if place.type == "cpu":
            _set_threads(model)
    return LM.of(model, _tokenizer(source), name=source.name)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    kind = DTYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if kind is None or kind not in DTYPES.values():
        raise BadParameter(f"dtype {dtype!r} is not supported; choose from {', '.join(DTYPES)}")
    return kind


def usable_device(device: str | torch.device | None = "auto") -> torch.device:
    """CUDA where there is one, else the CPU, for "auto" or None; otherwise the one named, if it can be used.

    Raises BadParameter for a device that torch does not know or cannot reach.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise BadParameter(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]}; leave it at 'auto', or name one "
            "that torch reaches: cpu, or cuda with a GPU, its driver and a build of torch for it"
        ) from error
    return place


def _model(source: Source, dtype: torch.dtype, device_map: str | Mapping[str, Any] | None) -> PreTrainedModel:
    common: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": False,
        "local_files_only": True,
        "output_loading_info": True,
        **({} if device_map is None else {"device_map": device_map}),
    }
    try:
        with _quiet():
            model, info = _from_folder(source, common)
    except SafetensorError as error:
        raise CorruptFile(f"the weights of model {source.name!r} in {source.folder} are damaged: {error}") from error
    except OSError as error:
        raise ModelNotFound(
            f"model {source.name!r}: {source.folder} has no readable safetensors weights ({_first_line(error)}). "
            "Other formats are not read: convert the model once with save_pretrained"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise CorruptFile(
            f"the files of model {source.name!r} in {source.folder} do not fit: {_first_line(error)}"
        ) from error
    if info["missing_keys"]:
        raise CorruptFile(
            f"the weights of model {source.name!r} lack {', '.join(sorted(info['missing_keys'])[:3])} ..."
        )
    return model


def _from_folder(source: Source, common: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    if source.checkpoint is None:
        whole: Any = AutoModelForCausalLM.from_pretrained(source.folder, use_safetensors=True, **common)
        return cast(tuple[PreTrainedModel, dict[str, Any]], whole)
    config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    pair = kind.from_pretrained(None, config=config, state_dict=load_file(str(source.checkpoint)), **common)
    return cast(tuple[PreTrainedModel, dict[str, Any]], pair)


def _tokenizer(source: Source) -> PreTrainedTokenizerBase:
    try:
        # AutoTokenizer would rebuild a plain tokenizer.json as the tokenizer usual for the model's family.
        kind = PreTrainedTokenizerFast if _is_plain(source.folder) else AutoTokenizer
        return kind.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise CorruptFile(
            f"the tokenizer of model {source.name!r} in {source.folder} cannot be read: {_first_line(error)}"
        ) from error


def _is_plain(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    if not config.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    name = json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class")
    return name in ("PreTrainedTokenizerFast", "TokenizersBackend")


def _set_threads(model: PreTrainedModel) -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1 if model.num_parameters() < SINGLE_THREAD_BELOW else _default_threads)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or loading reports: they would end up in the outputs of notebooks."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
