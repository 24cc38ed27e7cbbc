"""Editors that resort to external knowledge: the model reads the edit, no weight changes."""

from __future__ import annotations

from paramem.registry.method import Method

RECOGNITION: tuple[Method, ...] = ()
