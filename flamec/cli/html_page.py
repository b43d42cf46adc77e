"""The page of ``flamec dump --html``: data, code and styles in one file that needs no network.

In: the data of ``page_data``. Out: HTML. The parts are in the folder ``page``; the libraries in
``page/vendor`` are put in as they are, with their licences (``page/vendor.mjs`` fetches them).
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flamec.cli.example_inputs import Example
from flamec.cli.target import Target, user_code
from flamec.profiler import profile
from flamec.profiler.events import Event

_FOLDER = Path(__file__).with_name("page")
_LIBRARIES = (
    "vendor/cytoscape.min.js",
    "vendor/dagre.min.js",
    "vendor/prism-core.min.js",
    "vendor/prism-clike.min.js",
    "vendor/prism-c.min.js",
    "vendor/prism-python.min.js",
)
_SCRIPTS = ("graph.js", "blocks.js", "page.js")
_RUNS = 3


def html_page(data: Mapping[str, Any]) -> str:
    """The whole page."""
    scripts = "\n".join(_script(_read(name)) for name in (*_LIBRARIES, *_SCRIPTS))
    parts = {
        "%TITLE%": html.escape(f"flamec: {data['function']}"),
        "%STYLE%": _read("page.css"),
        "%DATA%": json.dumps(data, separators=(",", ":"), default=str).replace("</", "<\\/"),
        "%LICENCES%": _read("vendor/THIRD_PARTY.md").replace("</", "<\\/"),
        "%SCRIPTS%": scripts,
    }
    pieces = re.split(f"({'|'.join(parts)})", _read("index.html"))
    return "".join(parts.get(piece, piece) for piece in pieces)


def profiled_run(target: Target, example: Example) -> list[Event]:
    """The events of some calls with the example's arguments, after one that compiles."""
    function = target.fresh()
    with user_code(f"running {target.name}"):
        function(*example.args, **example.kwargs)
        with profile():  # compiles what is only needed for a profile
            function(*example.args, **example.kwargs)
        with profile() as recorded:
            for _ in range(_RUNS):
                function(*example.args, **example.kwargs)
    return recorded.events()


def _script(text: str) -> str:
    escaped = text.replace("</script", "<\\/script")
    return f"<script>\n{escaped}\n</script>"


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
