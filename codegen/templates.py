"""Templates filled with text, the same way for all back ends."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


@cache
def _environment(package: str) -> jinja2.Environment:
    import jinja2

    loader = jinja2.PackageLoader(package, "templates")
    return jinja2.Environment(
        loader=loader,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,  # else each use of a template asks for its file
    )


def filled(package: str, template: str, holes: dict[str, Any]) -> str:
    """A template of a package; lines that holes left empty are dropped."""
    text = _environment(package).get_template(template).render(holes)
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"
