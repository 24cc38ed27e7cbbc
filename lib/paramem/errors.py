"""Every error a user can cause, each naming the value, the likely cause and the remedy.

All derive from `ParamemError`, so a command line or a notebook catches one class and prints one message.
"""

from __future__ import annotations

from os import PathLike


class ParamemError(Exception):
    """Base of all errors that this package raises on purpose."""


class BadInput(ParamemError):
    """Something handed in cannot be used as it is."""


class BadParameter(BadInput):
    """A parameter has an unknown name, a wrong type or a value out of range."""


class BadRecord(BadInput):
    """A record of a data file does not follow its schema."""

    def __init__(self, file: str | PathLike[str], record: int | str, field: str, reason: str) -> None:
        self.file, self.record, self.field, self.reason = str(file), record, field, reason
        super().__init__(f"{self.file}, record {record}, field {field!r}: {reason}")

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, int | str, str, str]]:
        # Exception pickles by its args, which here is the one formatted message: worker processes need the four parts.
        return type(self), (self.file, self.record, self.field, self.reason)


class ModelNotFound(ParamemError):
    """The name is neither a bundled testbed, nor a folder, nor a model known to the hub."""


class HubUnavailable(ParamemError):
    """A hub id is not in the local cache and the hub cannot be reached."""


class UnsupportedArchitecture(ParamemError):
    """The model belongs to a family without an architecture map."""


class BadSite(BadParameter):
    """A site kind is unknown, does not exist in this family, or its layer is out of range."""


class SubjectNotInPrompt(BadInput):
    """The subject does not occur in the text."""


class EmptyTarget(BadInput):
    """A target has no tokens."""


class EmptyPrompt(BadInput):
    """A prompt has no tokens and the tokenizer adds no start token."""


class PromptTooLong(BadInput):
    """A prompt (with its target or the tokens to generate) exceeds the context length."""


class IncompatibleIntervention(ParamemError):
    """An intervention was made for another model: names, shapes or sites do not match."""


class CorruptFile(ParamemError):
    """A file is damaged, or not of the format it claims to be."""


class Unwritable(ParamemError):
    """A folder or file cannot be written."""


class PassportMismatch(BadInput):
    """Numbers that were measured differently were to be put side by side."""


class Interrupted(ParamemError):
    """The user stopped a batch; what was finished is kept."""
