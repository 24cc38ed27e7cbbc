"""Bounds on what is not seen: risk on new documents, from risk on old ones and the bits of a model."""
