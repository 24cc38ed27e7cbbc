"""Train the editors that learn to edit: `python -m paramem.editing.train METHODS [--model NAMES] [--force]`.

Without `--model`, for every testbed that networks are shipped for, and into the folder of shipped ones; for another
model into the cache, where `paramem.editing.trained.load` finds it. Nine in ten training subjects are learned from;
what is reached on edits of the tenth is printed and written on the card. Subjects for tests take no part in either:
what is reached on them is for notebooks to say. What is there with the same recipe is left alone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from paramem.editing.trained import FOLDER, Card, Trained, load_from, own_folder, read_card, recipe_hash
from paramem.errors import BadParameter, ParamemError

if TYPE_CHECKING:
    from paramem.facts import EditRequest
    from paramem.models import LM

RECALL = ("gpt2-s0", "gpt2-s1", "gpt2-s2", "llama-s0", "llama-s1", "llama-s2")
TESTBEDS = (*RECALL, "edit-gpt2-s0", "edit-gpt2-s1", "edit-llama-s0", "edit-llama-s1")
MEASURED = 48  # validation edits behind the numbers of a card, where there are so many
NEIGHBOURS = 8  # facts of other validation subjects that each of them should leave alone


class Trainer(NamedTuple):
    """How a method is trained: a function (lm, requests, settings) -> Trained and its settings, by name in a module.

    relations: of the training edits. editor: the registered method that the card's numbers are of. testbeds: those
    that it is shipped for. seeded: whether the settings' seed is derived from the model's name, for networks that
    would be the same on every model that shares a tokenizer and training edits.
    """

    module: str
    settings: str
    function: str = "train"
    values: Mapping[str, Any] = {}
    relations: str = "all"
    editor: str = ""
    testbeds: tuple[str, ...] = TESTBEDS
    seeded: bool = False


SERAC_OF: Mapping[str, Any] = {
    "module": "paramem.editing.serac_training",
    "settings": "SeracShape",
    "values": {"scopes": ("embedding",)},
    "editor": "serac",
    "testbeds": RECALL,
    "seeded": True,
}
TRAINERS: dict[str, Trainer] = {
    "mend": Trainer("paramem.editing.mend", "MendTraining"),
    "mend-people": Trainer("paramem.editing.mend", "MendTraining", relations="people", editor="mend", testbeds=RECALL),
    "mend-map": Trainer("paramem.editing.mend", "MendTraining", relations="map", editor="mend", testbeds=RECALL),
    "serac": Trainer("paramem.editing.serac_training", "SeracShape", seeded=True),
    "serac-people": Trainer(**SERAC_OF, relations="people"),
    "serac-map": Trainer(**SERAC_OF, relations="map"),
    "ke": Trainer("paramem.editing.knowledge_editor", "KnowledgeEditorTraining"),
}


def trainer_of(method: str) -> Trainer:
    """Raises BadParameter, which lists the methods there are."""
    if method not in TRAINERS:
        raise BadParameter(f"nothing is trained for {method!r}; trained are {', '.join(TRAINERS)}")
    return TRAINERS[method]


def train(
    method: str, lm: LM, requests: Sequence[EditRequest], held_out: Sequence[EditRequest] = (), settings: Any = None
) -> Trained:
    """Train a method on a model, with the settings that it ships with by default, and measure what it reaches.

    held_out: edits of other subjects, for the card's numbers. What comes back is rounded as it will be stored.
    """
    chosen = trainer_of(method)
    module = importlib.import_module(chosen.module)
    settings = settings if settings is not None else settings_of(method, lm.name)
    found: Trained = getattr(module, chosen.function)(lm, requests, settings)
    found = replace(found, card=replace(found.card, method=method, recipe=_recipe(method, lm, requests, settings)))
    return measured(method, lm, found.rounded(), held_out) if held_out else found.rounded()


def settings_of(method: str, model: str) -> Any:
    """The settings that a method's networks are trained with for a model of that name, as shipped ones were."""
    chosen = trainer_of(method)
    seed = {"seed": zlib.crc32(model.encode()) % 1000} if chosen.seeded else {}
    return getattr(importlib.import_module(chosen.module), chosen.settings)(**chosen.values, **seed)


def _recipe(method: str, lm: LM, requests: Sequence[EditRequest], settings: Any) -> str:
    return recipe_hash(method, lm.fingerprint(), requests, settings)


def measured(method: str, lm: LM, found: Trained, held_out: Sequence[EditRequest]) -> Trained:
    """The same with the scorecard of single edits that were not trained on."""
    from paramem.evaluation import baseline, evaluate
    from paramem.evaluation.scorecard import scorecard
    from paramem.registry import method as registered

    asked = [_with_neighbours(each, held_out) for each in held_out]
    before = baseline(lm, asked, generated=False, kl=False)
    edits = registered(trainer_of(method).editor or method).edit_each(lm, asked, trained=found, known="keep")
    card = scorecard({method: evaluate(lm, asked, edits, before=before)})
    measures = {str(row["metric"]): round(float(row["mean"]), 4) for row in card.to_dict("records")}
    subjects = len({each.subject for each in held_out})
    said = (
        f"subjects for validation; measured on {len(held_out)} edits of {subjects} of them, test subjects not looked at"
    )
    return replace(found, card=replace(found.card, held_out=said, measures=measures))


def _with_neighbours(request: EditRequest, held_out: Sequence[EditRequest]) -> EditRequest:
    """The edit with facts of other held-out subjects as what must stay: those it comes with speak of training subjects
    and of test subjects. Of its relation first."""
    from paramem.facts import FrozenDict, Probe

    others = [each for each in held_out if each.subject != request.subject and each.target_true is not None]
    others.sort(key=lambda each: each.relation != request.relation)
    probes = tuple(
        Probe(prompt=each.prompt, target=str(each.target_true), kind="same_relation", subject=each.subject)
        for each in others[:NEIGHBOURS]
    )
    return request.model_copy(update={"locality": FrozenDict({"relation": probes} if probes else {})})


def build(method: str, model: str, out: Path | None = None, *, dataset: str = "world", force: bool = False) -> Card:
    """Train one method on one model and store it; returns the card, of what was there if the recipe is the same."""
    from paramem.material import edits_for
    from paramem.models import load

    lm, chosen = load(model), trainer_of(method)
    relations = chosen.relations if dataset == "world" else "all"
    requests = edits_for(lm, dataset, relations=relations, part="learn")
    folder = out / lm.name if out is not None else FOLDER / lm.name if lm.name in TESTBEDS else own_folder(lm)
    if not force and _is_there(folder, method, _recipe(method, lm, requests, settings_of(method, lm.name))):
        return load_from(folder, method).card
    held_out = edits_for(lm, dataset, relations=relations, part="validation")[:MEASURED]
    return train(method, lm, requests, held_out).save(folder).card


def _is_there(folder: Path, method: str, recipe: str) -> bool:
    try:
        return read_card(folder / f"{method}.json").recipe == recipe and bool(load_from(folder, method))
    except ParamemError:
        return False


def summary(card: Card) -> str:
    """What was reached on validation edits, a line for each number."""
    lines = [
        f"{card.method} on {card.model}: {card.parameters:,} numbers, {card.size_bytes:,} bytes, {card.seconds:.0f} s"
    ]
    return "\n".join(lines + [f"  {name:<40} {value:.3f}" for name, value in card.measures.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m paramem.editing.train", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("methods", nargs="+", help=f"what to train: {', '.join(TRAINERS)}")
    parser.add_argument("--model", nargs="+", default=[], help="testbeds, folders or hub ids")
    parser.add_argument("--dataset", default="world", help="edits to learn from: the testbed's world, or a file")
    parser.add_argument("--out", type=Path, default=None, help="folder to write <model>/<method>.* into")
    parser.add_argument("--force", action="store_true", help="train also where the same recipe was already trained")
    options = parser.parse_args(arguments)
    try:
        for method in options.methods:
            for model in options.model or trainer_of(method).testbeds:
                print(
                    summary(build(method, model, options.out, dataset=options.dataset, force=options.force)), flush=True
                )
    except ParamemError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
