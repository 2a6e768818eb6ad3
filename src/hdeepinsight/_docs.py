"""Docstring text that stands in three places or more, written once.

A docstring names a snippet as ``%(adata)s``; the decorator `fill` puts the text there and keeps the
indentation. A name that is not in `SNIPPETS` fails at import, so no placeholder reaches a reader.
"""

import re
from collections.abc import Callable
from textwrap import dedent, indent
from typing import Final, TypeVar

__all__ = ["SNIPPETS", "fill"]

Documented = TypeVar("Documented", bound=Callable[..., object] | type)

SNIPPETS: Final[dict[str, str]] = {
    "adata": """
        adata
            Annotated data, ``(n_cells, n_genes)``. It is read only: nothing in it changes.
        """,
    "layer": """
        layer
            Layer that holds the raw counts; ``None`` stands for ``X``.
        """,
    "seed": """
        seed
            Seed of the random numbers; the same seed gives the same result.
        """,
}

_PLACEHOLDER: Final = re.compile(r"^(?P<margin>[ \t]*)%\((?P<name>\w+)\)s", re.MULTILINE)


def fill(documented: Documented) -> Documented:
    """Replace every ``%(name)s`` in a docstring by the snippet of that name.

    Parameters
    ----------
    documented
        Function or class whose docstring names snippets.

    Returns
    -------
    The same object, with its docstring completed.

    Raises
    ------
    KeyError
        If the docstring names a snippet that does not exist.

    Examples
    --------
    >>> from hdeepinsight._docs import fill
    >>> @fill
    ... def shuffle(seed: int) -> None:
    ...     '''Shuffle.
    ...
    ...     Parameters
    ...     ----------
    ...     %(seed)s
    ...     '''
    >>> "%(" in shuffle.__doc__, "same seed" in shuffle.__doc__
    (False, True)
    """
    documented.__doc__ = _PLACEHOLDER.sub(_snippet, documented.__doc__ or "")
    return documented


def _snippet(match: re.Match[str]) -> str:
    """Give the text of one placeholder, indented as the placeholder was."""
    name = match["name"]
    if name not in SNIPPETS:
        msg = f"Unknown snippet {name!r}. Valid: {sorted(SNIPPETS)}. Add it to `SNIPPETS`."
        raise KeyError(msg)
    return indent(dedent(SNIPPETS[name]).strip(), match["margin"])
