"""Every method, registered once, under the paper that introduced it.

A method is named as data, so that listing methods imports none of them. `paramem check` holds the taxonomy's
``methods`` against this list, both ways and with the papers. The property tests of each kind run over `METHODS`, and a
module of a method package that declares ``DEPARTURES`` without standing here fails the suite: a method cannot be added
untested. A new method is one row in the file of its kind or phase, beside this one.
"""

from __future__ import annotations

from paramem.errors import BadParameter
from paramem.findings import nearest
from paramem.registry.association import ASSOCIATION
from paramem.registry.detection import DETECTION
from paramem.registry.mastery import MASTERY
from paramem.registry.method import Departure, Kind, Method, Phase
from paramem.registry.recognition import RECOGNITION

__all__ = ["METHODS", "PACKAGES", "Departure", "Kind", "Method", "Phase", "method", "methods"]

PACKAGES = ("paramem.detection", "paramem.editing")
METHODS: tuple[Method, ...] = (*DETECTION, *RECOGNITION, *ASSOCIATION, *MASTERY)


def methods(kind: Kind | None = None) -> tuple[Method, ...]:
    """The registered methods, of one kind or all."""
    return tuple(method for method in METHODS if kind in (None, method.kind))


def method(name: str) -> Method:
    """The method called ``name``.

    Raises:
        BadParameter: there is none; the message lists those there are.
    """
    for each in METHODS:
        if each.name == name:
            return each
    known = [each.name for each in METHODS]
    hint = " ".join(filter(None, (nearest(name, known), f"registered: {', '.join(known)}")))
    raise BadParameter(f"no method {name!r}; {hint}")
