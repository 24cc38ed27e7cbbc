"""Editors that merge new knowledge into the model: codebooks, added neurons, adapters."""

from __future__ import annotations

from paramem.registry.method import Method

ASSOCIATION: tuple[Method, ...] = ()
