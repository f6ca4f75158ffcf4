"""Values of options, whoever gave them: strings become what the settings hold, or one sentence says why not.

Imported when the first settings are made: pydantic takes longer to load than ``--help`` may take.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from safemt_api.errors import UsageError
from safemt_api.runs.options import OptionField

SENTENCES = {
    "bool_parsing": ": give true or false",
    "bool_type": ": give true or false",
    "finite_number": "is not a finite number",
    "float_parsing": "is not a number",
    "float_type": "is not a number",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_parsing_size": "is too large",
    "int_type": "is not a whole number",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": ": choose {expected}",
    "path_type": "is not a path",
    "string_type": "is not text",
    "too_short": "holds nothing",
}
"""What pydantic finds wrong, in the words of a command line."""

SHOWN_CHARACTERS = 60
_PASSWORD = re.compile(r"(?<=:)[^/@:']+(?=@)|(?<=password=)[^&']+")


class Values:
    """Checks the values of some options; made once, since every check is compiled."""

    def __init__(self, options: tuple[OptionField, ...]) -> None:
        self._options = options
        # Of a NaN every comparison is false, and an infinity passes any bound from below: neither is a value of any option.
        config = ConfigDict(allow_inf_nan=False, arbitrary_types_allowed=True)
        self._adapters = {one.name: TypeAdapter[Any](one.annotation, config=config) for one in options}

    def checked(self, given: object) -> dict[str, Any]:
        """The fields of a settings value as their types say.

        Raises:
            UsageError: One does not fit; the sentence names its option.
        """
        return {one.name: self._value(one, getattr(given, one.name)) for one in self._options}

    def _value(self, option: OptionField, given: object) -> object:
        counted = Counter(map(str, given)) if option.several and isinstance(given, (tuple, list)) else Counter[str]()
        twice = next((one for one, count in counted.items() if count > 1), None)
        if twice is not None:
            raise UsageError(f"{option.flags[-1]} {_shown(twice)} was given twice")
        try:
            value = given
            if isinstance(given, str) and option.option.read is not None:
                value = option.option.read(given)
            elif isinstance(given, str) and option.several:
                value = (given,)
            return self._adapters[option.name].validate_python(value)
        except UsageError as error:
            raise UsageError(f"{option.flags[-1]} {_shown(given)}: {error}") from None
        except ValidationError as error:
            raise UsageError(f"{option.flags[-1]} {_explained(error, given)}") from None


def _explained(error: ValidationError, given: object) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    sentence = SENTENCES.get(first["type"], f": {first['msg']}").format(**first.get("ctx", {})).replace("'", "")
    # A number that was read, and is out of range, stands as it was typed.
    shown = str(given)[:SHOWN_CHARACTERS] if {"gt", "ge", "lt", "le"} & first.get("ctx", {}).keys() else _shown(given)
    return f"{shown}{sentence}" if sentence.startswith(":") else f"{shown} {sentence}"


def _shown(given: object) -> str:
    return _PASSWORD.sub("***", repr(given))[:SHOWN_CHARACTERS]
