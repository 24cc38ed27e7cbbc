"""What a bundled testbed is and what it was measured to know: the model card beside its weights (`card.json`)."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paramem.errors import BadRecord

FOLDER = Path(__file__).parent / "testbeds"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a card: a share of `n` items (or a plain value, n = 0), and the target if there is one.

    `wanted` is a lower bound, an upper bound where `at_most` is set.
    """

    name: str
    value: float
    n: int = 0
    wanted: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.wanted is None:
            return None
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted


@dataclass(frozen=True, kw_only=True)
class TestbedCard:
    """Data, training and accuracies of one testbed. `recipe` is the hash that `paramem.world.build` compares."""

    __test__ = False  # pytest: not a test class

    name: str
    kind: str
    description: str
    recipe: str
    architecture: str
    config: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    seed: int
    vocabulary: int
    parameters: int
    size_bytes: int
    sha256: str
    steps: int
    tokens: int
    seconds: float
    measures: tuple[Measure, ...]
    losses: tuple[tuple[int, float], ...] = ()
    curve: tuple[dict[str, Any], ...] = ()
    checkpoints: tuple[str, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[Measure, ...]:
        """The measures whose target was not reached."""
        return tuple(m for m in self.measures if m.met is False)

    def __getitem__(self, name: str) -> Measure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(f"{self.name} has no measure {name!r}; it has {', '.join(m.name for m in self.measures)}")


def write_card(card: TestbedCard, folder: Path) -> None:
    from paramem.files import write_atomically

    record = {"schema": SCHEMA, **asdict(card), "versions": _versions()}
    for item, measure in zip(record["measures"], card.measures, strict=True):
        item["value"] = round(item["value"], 4)
        item["met"] = measure.met
    write_atomically(folder / "card.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def read_card(folder: Path) -> TestbedCard:
    """The card in `folder`; BadRecord names the field that is missing or unknown."""
    path = folder / "card.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise BadRecord(path, 0, "-", f"no readable card: {error}") from error
    if record.pop("schema", None) != SCHEMA:
        raise BadRecord(path, 0, "schema", f"only schema {SCHEMA} is known: rebuild the testbed")
    record.pop("versions", None)
    try:
        measures = tuple(Measure(**{k: v for k, v in m.items() if k != "met"}) for m in record.pop("measures"))
        for name in ("stages", "curve", "checkpoints", "notes"):
            record[name] = tuple(record[name])
        record["losses"] = tuple((step, loss) for step, loss in record["losses"])
        return TestbedCard(measures=measures, **record)
    except (KeyError, TypeError, ValueError) as error:
        raise BadRecord(path, 0, "-", f"not a testbed card: {error}") from error


def cards(kind: str | None = None, folder: Path = FOLDER) -> list[TestbedCard]:
    """The cards of all testbeds in `folder`, in order of name, or of those of one kind."""
    found = [read_card(path.parent) for path in sorted(folder.glob("*/card.json"))]
    return [card for card in found if kind is None or card.kind == kind]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
    # "2.13.0+cpu" and "2.13.0" compute the same here: the local part says only which wheel was installed
    return {"python": platform.python_version(), **{name: version(name).split("+")[0] for name in names}}
