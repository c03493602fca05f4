"""For the Python reference: functions with all of their options, as `help()` has them.

An extension of griffe's, which reads the code and does not run it: what the decorator
`takes` adds to a signature and to a docstring is looked up here.
"""

from __future__ import annotations

import inspect
from typing import Any

import griffe


class Options(griffe.Extension):
    """Takes signature and docstring of decorated functions from the functions."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Look at a function that was read."""
        del kwargs
        if not any(one.callable_path.endswith(".takes") for one in func.decorators):
            return
        running = griffe.dynamic_import(func.path)
        func.docstring = griffe.Docstring(
            inspect.getdoc(running) or "", parser="google", parent=func
        )
        func.parameters = griffe.Parameters(
            *(
                func.parameters[name]
                if name in func.parameters
                else griffe.Parameter(
                    name,
                    annotation=_written(given.annotation),
                    kind=griffe.ParameterKind.keyword_only,
                    default=repr(given.default),
                )
                for name, given in inspect.signature(running).parameters.items()
            )
        )


def _written(annotation: object) -> str:
    written = isinstance(annotation, str)
    return str(annotation) if written else inspect.formatannotation(annotation)
