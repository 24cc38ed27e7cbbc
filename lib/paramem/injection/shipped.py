"""The models that the notebook on storage and extraction asks: where their weights are, and how they are trained again.

    study, models = load("fresh-gpt2-s0")
    asked = load_tuned("fresh-gpt2-s0", study, models)    # the same after fine-tuning on questions
    python -m paramem.injection.shipped [DRAW ...]     # trains all models of a draw in one stack, and stores them

One file a draw, ``trained/<draw>.safetensors``: float16, "flat" after the biographies and "tuned" after the questions,
with one row for each of `storage.CORPORA`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from paramem.capacity.stacked import Stack
from paramem.errors import BadParameter, CorruptFile
from paramem.files import write_atomically
from paramem.fresh import fresh
from paramem.injection.storage import CORPORA, Study, trained, tuned
from paramem.world import world

FOLDER = Path(__file__).parent / "trained"
DRAWS = ("fresh-gpt2-s0", "fresh-gpt2-s1", "fresh-llama-s0", "fresh-llama-s1")


def prepared(draw: str) -> Study:
    """People, texts and shape of a draw. Raises BadParameter for one without an architecture."""
    found = fresh(draw)
    if found.architecture not in ("gpt2", "llama"):
        raise BadParameter(f"{draw!r} names no architecture; write fresh-gpt2-s0 or fresh-llama-s0")
    return Study.prepared(world("read"), "gpt2" if found.architecture == "gpt2" else "llama", found.seed)


def load(draw: str) -> tuple[Study, Stack]:
    """A draw and its models as they are after training on biographies; a draw that is not shipped is trained now.

    Raises CorruptFile when the file is not what was written.
    """
    study = prepared(draw)
    return study, _stored(draw, "flat", study) or trained(study)


def load_tuned(draw: str, study: Study, models: Stack) -> Stack:
    """The draw's models after fine-tuning on the questions: stored ones, or tuned now where there are none or where the
    study differs from its draw in anything: its people, who of them is taught, its seed, its models or its sizes."""
    kept = _stored(draw, "tuned", study) if _decided_by(study) == _decided_by(prepared(draw)) else None
    return kept or tuned(models, study)


def _decided_by(study: Study) -> tuple[object, ...]:
    """All that decides what a study's models are."""
    people = study.people
    found = (people.relations, people.values, people.taught, people.held_out)
    return (*found, study.architecture, study.seed, study.sizes)


def _stored(draw: str, stage: str, study: Study) -> Stack | None:
    """A stage of a draw, or None where it is not shipped."""
    path = FOLDER / f"{draw}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if stage not in file.keys():  # noqa: SIM118 - not a mapping
                return None
            flat = file.get_tensor(stage)
    except SafetensorError as error:
        raise CorruptFile(f"{path.name} is no safetensors file ({error}): {_again(draw)}") from error
    if flat.shape != (len(CORPORA), study.shape.parameters()):
        raise CorruptFile(f"{path.name} holds numbers of shape {tuple(flat.shape)}, of another recipe: {_again(draw)}")
    return Stack(study.shape, flat.float())


def _again(draw: str) -> str:
    return f"restore it, or train it again by python -m paramem.injection.shipped {draw}"


def write(draw: str, folder: Path = FOLDER) -> float:
    """Train a draw's models and store them; returns the CPU seconds it took."""
    start, study = time.process_time(), prepared(draw)
    flat = trained(study).flat.half()
    after = tuned(Stack(study.shape, flat.float()), study).flat.half()
    seconds = time.process_time() - start
    note = {"draw": draw, "corpora": list(CORPORA), "seconds": f"{seconds:.0f}", "torch": torch.__version__}
    folder.mkdir(exist_ok=True)
    weights = save({"flat": flat, "tuned": after}, metadata={"paramem": json.dumps(note)})
    write_atomically(folder / f"{draw}.safetensors", weights)
    return seconds


def main() -> None:
    """Train the draws named on the command line, or all that are shipped."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("draws", nargs="*", help="names such as fresh-gpt2-s0")
    torch.set_num_threads(1)
    for draw in parser.parse_args().draws or DRAWS:
        print(f"{draw}: {write(draw):.0f} s", flush=True)


if __name__ == "__main__":
    main()
