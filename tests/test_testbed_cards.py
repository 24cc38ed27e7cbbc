"""The bundled testbeds: whole, small, made by the recipes as they are, and honest about what was measured."""

from __future__ import annotations

import hashlib

import pytest

from paramem.world import testbeds as bundled
from paramem.world.build import SOURCES, is_built, recipe_of, summary
from paramem.world.cards import FOLDER, TestbedCard
from paramem.world.recipe import recipe_hash

MEGABYTE = 2**20
CARDS = bundled()


def each_card() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", CARDS, ids=[card.name for card in CARDS])


def test_every_recipe_has_its_testbed() -> None:
    assert {card.name for card in CARDS} == set(SOURCES)


def test_all_together_are_small() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file() and ".training" not in path.parts]
    assert max(path.stat().st_size for path in files) <= 16 * MEGABYTE
    assert sum(path.stat().st_size for path in files) <= 96 * MEGABYTE


@each_card()
def test_the_weights_are_those_of_the_card(card: TestbedCard) -> None:
    data = (FOLDER / card.name / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == card.sha256
    assert len(data) == card.size_bytes
    assert hashlib.sha256(data + b" ").hexdigest() != card.sha256


@each_card()
def test_the_recipe_is_still_the_one_that_made_it(card: TestbedCard) -> None:
    """Else the world that the code describes is not the one that the model learned."""
    recipe = recipe_of(card.name)
    assert recipe_hash(recipe) == card.recipe
    assert is_built(FOLDER / card.name, card.recipe)
    assert not is_built(FOLDER / card.name, card.recipe[::-1])
    assert (recipe.name, recipe.kind, recipe.steps) == (card.name, card.kind, card.steps)


@each_card()
def test_a_missed_target_is_said_with_what_was_tried(card: TestbedCard) -> None:
    assert card.measures
    text, notes = summary(card), " ".join(card.notes)
    for measure in card.missed:
        assert "MISSED" in text
        assert measure.note or notes, f"{card.name}: {measure.name} misses its target and no note says what was tried"
