"""Every registered method keeps the contract of its kind; a method cannot be added without passing here."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

from edits import request
from paramem.bibliography import load_papers
from paramem.errors import BadParameter
from paramem.project import Project
from paramem.registry import METHODS, PACKAGES, Departure, Method, method
from parity import tiny

by_name = pytest.mark.parametrize("each", METHODS, ids=lambda each: each.name)


def test_every_method_module_is_registered() -> None:
    """The gate itself: a module of a method package that declares departures must stand in the registry."""
    declaring = set()
    for package in PACKAGES:
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            if hasattr(importlib.import_module(info.name), "DEPARTURES"):
                declaring.add(info.name)
    assert declaring == {each.module for each in METHODS}


def test_variants_name_a_method_of_their_own_module_and_differ_from_it() -> None:
    known = {each.name: each for each in METHODS}
    for each in METHODS:
        if each.variant_of is None:
            assert not each.sequel
            continue
        main = known[each.variant_of]
        assert main.variant_of is None
        assert (main.module, main.function) == (each.module, each.function)
        assert dict(main.variant) != dict(each.variant)


def test_names_and_variants_are_unique() -> None:
    assert len({each.name for each in METHODS}) == len(METHODS)
    assert len({(each.module, each.function, tuple(sorted(each.variant.items()))) for each in METHODS}) == len(METHODS)


@by_name
def test_a_method_declares_what_it_is(each: Method, repository: Project) -> None:
    assert each.paper in load_papers(repository)
    assert inspect.getdoc(each.resolve())
    module = inspect.getdoc(importlib.import_module(each.module)) or ""
    assert each.paper in module, f"{each.module}: its docstring names the bib key"
    assert (each.phase is None) == (each.kind == "detector")


@by_name
def test_departures_say_what_the_paper_says_what_we_do_and_why(each: Method) -> None:
    for topic, departure in each.departures().items():
        assert isinstance(departure, Departure), topic
        assert all(len(text) > 10 for text in departure), f"{each.name}: {topic}"


@by_name
def test_settings_are_frozen_keyword_only_and_have_no_mutable_defaults(each: Method) -> None:
    settings = each.settings_class()
    assert dataclasses.is_dataclass(settings)
    assert settings.__dataclass_params__.frozen  # type: ignore[attr-defined]
    for field in dataclasses.fields(settings):
        assert field.kw_only, field.name
    assert all(name in {field.name for field in dataclasses.fields(settings)} for name in each.variant)


@by_name
def test_a_method_has_tests_of_its_own(each: Method) -> None:
    assert (Path(__file__).parent / f"test_{each.module.rsplit('.', 1)[1]}.py").is_file()


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    with pytest.raises(BadParameter, match=r"no method 'roma'; did you mean rome.* registered: causal-tracing, .*rome"):
        method("roma")
    with pytest.raises(BadParameter, match="not an editor"):
        method("causal-tracing").edit(tiny(), request(0), layer=0)
