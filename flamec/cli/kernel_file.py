"""A kernel as a Python file that compiles and runs it (``flamec/standalone.py`` does the work).

In: a program and the number of one of its kernels. Out: the file's text: what the kernel computes,
its source, and the plan of a program that has this kernel alone.
"""

from __future__ import annotations

import json

from flamec.cli.fusion_text import count_operations
from flamec.cli.kernel_rows import Program
from flamec.cli.source_lines import describe_place
from flamec.ir.kernel_printer import print_kernel
from flamec.ir.plan import ExecutionPlan
from flamec.ir.shape import evaluate_dim

_ANY_INDEX = 1 << 10


def kernel_file(program: Program, number: int, function: str, saved: bool = False) -> str:
    """The text; CommandFailed for a step that is no kernel of its own.

    ``saved``: the inputs are in a file beside it.
    """
    alone = program.alone(number)
    plan = alone.plan
    sources = [k.text for k in plan.kernels] if program.target != "c" else [plan.source]
    sizes = {name: program.sizes[name] for name in plan.symbols}
    bound = min([_ANY_INDEX, *(evaluate_dim(s, program.sizes) for s in alone.index_sizes)])
    names = [f"SOURCE_{n}" for n in range(len(sources))] if len(sources) > 1 else ["SOURCE"]
    more = _more(program, saved)
    blocks = [
        _docstring(program, number, function, saved),
        *(["from pathlib import Path\n"] if saved else []),
        "from flamec.standalone import run\n",
        *(f"{name} = {_literal(text)}\n" for name, text in zip(names, sources, strict=True)),
        f"# The buffers and the launch, without the source.\nPLAN = {_literal(_plan_text(plan))}\n",
        f"SIZES = {sizes!r}  # of symbolic dimensions",
        f"WRITTEN = {alone.written!r}  # buffers that the kernel writes",
        f"INDEX_BOUND = {max(1, bound)}  # integers in the inputs are below it\n",
        'if __name__ == "__main__":',
        f"    run(PLAN, [{', '.join(names)}], SIZES, WRITTEN, INDEX_BOUND{more})\n",
    ]
    return "\n".join(blocks)


def _more(program: Program, saved: bool) -> str:
    if saved:
        return ', values=Path(__file__).with_suffix(".npz")'
    return "" if program.target == "c" else f", {program.target!r}"


def _docstring(program: Program, number: int, function: str, saved: bool) -> str:
    step = program.compiled.plan.steps[number]
    kernel = program.compiled.kernels[number]
    moved = (
        evaluate_dim(step.bytes_read, program.sizes),
        evaluate_dim(step.bytes_written, program.sizes),
    )
    inputs = "those of a run of the function, the same" if saved else "random and the same"
    needs = "a C compiler" if program.target == "c" else "Triton and an NVIDIA GPU"
    lines = [
        f"{step.name} ({step.kind}) of {function}: {count_operations(step.operations)}",
        "",
        *(f"    {describe_place(place)}" for place in step.locations),
        "",
        f"It reads {moved[0]:,} bytes, writes {moved[1]:,} and does "
        f"{evaluate_dim(step.flops, program.sizes):,} operations.",
        f"Run this file to compile and time it; it needs flamec and {needs}. The inputs are",
        f"{inputs} in every run; a sum and a checksum of each result are printed.",
        "",
        *print_kernel(kernel).splitlines(),
    ]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n'


def _plan_text(plan: ExecutionPlan) -> str:
    data = json.loads(plan.to_json())
    data["source"] = ""
    for kernel in data["kernels"]:
        kernel["text"] = ""
    return json.dumps(data, indent=1)


def _literal(text: str) -> str:
    """A raw string literal where that is possible, so that it can be read and changed."""
    if "'''" in text or text.endswith(("\\", "'")):
        return repr(text)
    return f"r'''{text}'''"
