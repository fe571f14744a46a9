"""A form made from the options of a plugin: a field for each, its rule and its meaning beside it."""

import json
from collections.abc import Callable
from typing import Any

from nicegui import ui

from ..options import Field, changed


class Form:
    """The fields as a person fills them in."""

    def __init__(self, fields: list[Field], on_edit: Callable[[], None]) -> None:
        """
        Args:
            on_edit: called whenever something is written into a field.
        """
        self._fields = fields
        self._on_edit = on_edit
        self._inputs: dict[str, Any] = {}
        for field in fields:
            self._build(field)
        self._as_built = self._written()

    def _build(self, field: Field) -> None:
        with ui.element("div").classes("field"):
            box = self._inputs[field.name] = self._input(field)
            rule = f"set by {field.fixed_by}" if field.fixed_by else field.rule
            words = [field.description, f"({rule})"]
            ui.label(" ".join(filter(None, words))).classes("plugin-detail")
            if field.fixed_by:
                box.disable()

    def _input(self, field: Field) -> Any:
        def edited() -> None:
            self._on_edit()

        if field.look == "switch":
            return ui.switch(field.name, value=bool(field.value), on_change=edited).props("dense")
        if field.look == "choice":
            choice = ui.select(field.choices, label=field.name, value=field.value, on_change=edited)
            return choice.props("dense outlined options-dense")
        text = "" if field.value is None else field.show(field.value)
        if field.look == "json" and len(text) > 40:
            return ui.textarea(field.name, value=text, on_change=edited).props("dense outlined autogrow")
        box = ui.input(field.name, value=text, on_change=edited).props("dense outlined")
        return box.props('inputmode="decimal"') if field.look in ("integer", "number") else box

    def _written(self) -> str:
        return json.dumps({name: box.value for name, box in self._inputs.items()})

    @property
    def is_edited(self) -> bool:
        """Whether something else is written in it than at first."""
        return self._written() != self._as_built

    def changed(self) -> dict[str, Any]:
        """
        Return the options that were changed; None for one that shall have its default again.

        Raises: ValueError: something is against the rule of its field.
        """
        return changed(self._fields, {name: box.value for name, box in self._inputs.items()})

    def reset(self) -> None:
        """Write into each field what it began with."""
        for name, value in json.loads(self._as_built).items():
            self._inputs[name].set_value(value)
