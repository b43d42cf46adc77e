"""``flamec dump``: every stage, every way of giving arguments, every way of asking wrongly."""

from __future__ import annotations

import pytest

import flamec
from flamec.ir.parser import parse_graph

ESCAPE = "\x1b["
STAGES = ("trace", "grad", "autocast", "optimized", "fused", "kernel", "plan", "source", "asm")


@pytest.fixture(scope="module")
def everything(run):
    return run("dump", "program.py:step", "--stage", "all", "--json").json


def test_all_stages_are_there_and_have_text(everything) -> None:
    assert tuple(everything["stages"]) == STAGES
    for parts in everything["stages"].values():
        for part in parts:
            assert part["text"].strip()
            assert part["title"]


def test_the_trace_hides_the_gradient_and_grad_shows_it(everything) -> None:
    (trace,) = everything["stages"]["trace"]
    (grad,) = everything["stages"]["grad"]
    (hidden,) = trace["left_out"]
    assert "loss.backward()" in hidden["comment"]
    assert hidden["comment"] in trace["text"]
    assert len(grad["nodes"]) == len(trace["nodes"]) + hidden["nodes"]


def test_nodes_carry_the_users_lines(everything) -> None:
    (trace,) = everything["stages"]["trace"]
    assert {"loss = criterion(model(x), y)", "optimizer.step()"} <= {
        node["location"]["source"] for node in trace["nodes"] if "location" in node
    }


def test_kernels_carry_the_users_lines(everything) -> None:
    (kernel,) = everything["stages"]["kernel"]
    assert "loss = criterion(model(x), y)" in kernel["text"]
    assert kernel["kernels"]
    assert all(k["operations"] for k in kernel["kernels"])


def test_passes_are_listed_with_their_effect(everything) -> None:
    passes, graph = everything["stages"]["optimized"]
    names = [record["pass"] for record in passes["passes"]]
    assert "simplify" in names
    assert passes["passes"][-1]["nodes_after"] == len(graph["nodes"])
    assert "unchanged" in passes["text"]


def test_casts_of_mixed_precision_are_shown(run) -> None:
    stages = run("dump", "program.py:mixed", "-i", "float32[3,10]", "--stage", "all", "--json").json
    (trace,), (autocast,) = (stages["stages"][name] for name in ("trace", "autocast"))
    assert "autocast='lower_precision'" in trace["text"]
    assert "autocast=" not in autocast["text"]
    assert "bfloat16[5, 10] = convert" in autocast["text"]


def test_kernels_for_a_gpu(run) -> None:
    """No GPU and no Triton is needed for their source."""
    data = run("dump", "program.py:step", "--stage", "triton", "--json").json
    (part,) = data["stages"]["triton"]
    assert "@triton.jit" in part["text"] and part["kernels"]


def test_precision_on_a_gpu_is_what_the_program_sets(run, program) -> None:
    """Products as on a GPU: float32 by three TF32 ones, or TF32 where the user asks for it."""
    text = program.read_text()
    for setting, precision in (("", "tf32x3"), ("set_float32_matmul_precision('high')", "tf32")):
        path = program.with_name("precise.py")
        path.write_text(f"{text}\n{setting and 'flamec.' + setting}\n")
        dumped = run("dump", "precise.py:step", "--stage", "triton").out
        assert f'input_precision="{precision}"' in dumped


def test_the_plan_adds_up(everything) -> None:
    (plan,) = everything["stages"]["plan"]
    assert plan["kernels"] == len(plan["steps"])
    moved = sum(s["bytes_read"] + s["bytes_written"] for s in plan["steps"])
    assert plan["bytes_moved"] == moved
    temporaries = [b for b in plan["buffers"] if b["kind"] == "temporary"]
    assert len(plan["arena_offsets"]) == len(temporaries)


def test_the_source_has_the_entry_point_and_the_assembly_too(everything) -> None:
    assert "flamec_program" in everything["stages"]["source"][0]["source"]
    assert "flamec_program" in everything["stages"]["asm"][0]["assembly"]


def test_output_in_a_pipe_is_plain_text_alone(run) -> None:
    done = run("dump", "program.py:decorated", "--stage", "all")
    assert ESCAPE not in done.out
    assert "importing the file prints" not in done.out
    assert "importing the file prints" in done.err


def test_color_can_be_asked_for(run) -> None:
    assert ESCAPE in run("dump", "program.py:decorated", "--color").out


def test_a_graph_in_a_dump_is_the_text_form_of_the_ir(run) -> None:
    graph = parse_graph(run("dump", "program.py:decorated", "--stage", "trace").out)
    assert [str(v.type) for v in graph.outputs] == ["float32[3]"]
    graph = parse_graph(run("dump", "program.py:step", "--stage", "grad").out)
    assert "0.weight" in {v.name for v in graph.inputs}


def test_diff_keeps_the_numbers_of_what_did_not_change(run) -> None:
    out = run("dump", "program.py:decorated", "--diff", "trace", "optimized").out
    assert out.startswith("--- trace\n+++ optimized\n")
    removed = [line for line in out.splitlines() if line.startswith("-  ")]
    assert sum("mul(" in line for line in removed) == 1  # of x * 2.0 * 1.0


def test_diff_of_a_stage_with_itself_is_empty(run) -> None:
    out = run("dump", "program.py:decorated", "--diff", "trace", "trace").out
    assert "are the same" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("program.py:plain",), "input %0 x: float32[2, 3]"),
        (("program.py:plain", "-i", "float64[7]"), "input %0 x: float64[7]"),
        (("program.py:plain", "-i", "x=bfloat16[2,2]"), "input %0 x: bfloat16[2, 2]"),
        (("program.py:plain", "-i", "int64[3]<2", "-i", "scale=4"), "input %0 x: int64[3]"),
        (("program.py:plain", "-i", "float32[]"), "input %0 x: float32[]"),
        (("program.py:plain", "-i", "float32[4,5]", "--dynamic"), "x: float32[s0, s1]"),
        (("program.py:decorated",), "input %0 x: float32[3, 4]"),
        (("program.py:nothing",), "return"),
        (("program.py:scaler.apply", "-i", "float32[4]"), "input %0 x: float32[4]"),
        (("program.py:Scaler.apply", "-i", "float32[4]"), "input %0 x: float32[4]"),
        (("program.py:model", "-i", "float32[8,10]"), "float32[8, 10]"),
        (("program.py:model.forward", "-i", "float32[8,10]"), "float32[8, 10]"),
    ],
)
def test_functions_and_arguments(run, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in run("dump", *arguments, "--stage", "trace").out


def test_a_gradient_that_flows_outside_makes_two_programs(run) -> None:
    stages = run(
        "dump", "program.py:plain", "-i", "float32[3] grad", "--stage", "all", "--json"
    ).json["stages"]
    assert [p["title"] for p in stages["source"]] == ["source (forward)", "source (backward)"]
    assert len(stages["grad"][0]["nodes"]) > len(stages["trace"][0]["nodes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.py:step",), "no file"),
        (("program.py:stepp",), "did you mean step"),
        (("program.py",), "say which function"),
        (("program.py:PROGRAM",), "no function"),
        (("program.py:Needy.apply",), "needs arguments"),
        (("program.py:step", "--stage", "everything"), "no stage"),
        (("program.py:step", "--diff", "trace", "nowhere"), "no stage"),
        (("program.py:scaler.apply", "-i", "float31[2]"), "unknown dtype"),
        (("program.py:scaler.apply", "-i", "float32(2)"), "neither a tensor"),
        (("program.py:plain", "-i", "int64[2] grad"), "floating-point"),
        (("program.py:hopeless.x",), "no function"),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(run, arguments, message: str) -> None:
    done = run("dump", *arguments, code=2, COLUMNS="200")
    assert message in done.err
    assert not done.out


def test_missing_arguments_are_explained(run, program) -> None:
    other = program.with_name("bare.py")
    other.write_text("def f(x, y):\n    return x\n")
    err = run("dump", "bare.py:f", code=2, COLUMNS="200").err
    for way in ("--input", "inputs=lambda", "flamec_inputs()"):
        assert way in err


def test_a_function_that_cannot_be_traced_ends_with_1_and_the_users_line(run) -> None:
    done = run("dump", "program.py:hopeless", "-i", "float32[3]", code=1)
    assert "if x.sum() > 0:" in done.err
    assert "flamec.cond" in done.err and "flamec.while_loop" in done.err
    assert "/flamec/trace.py" not in done.err


def test_a_file_that_fails_ends_with_1_and_the_users_line(run, program) -> None:
    program.with_name("broken.py").write_text("value = 1\nraise RuntimeError('no luck')\n")
    done = run("dump", "broken.py:f", code=1)
    assert "no luck" in done.err
    assert "broken.py" in done.err


def test_wrong_shapes_end_with_1(run) -> None:
    done = run("dump", "program.py:model", "-i", "float32[8,11]", code=1)
    assert "11" in done.err


def test_bodies_of_loops_stand_before_them() -> None:
    from flamec.cli.graph_text import graph_data, graph_lines

    compiled = flamec.compile(
        lambda xs: flamec.scan(lambda c, x: (c + x, c * x), flamec.zeros(3), xs)
    )
    compiled(flamec.ones(4, 3))
    graph = compiled.programs[0].captured.graph
    text = "\n".join(graph_lines(graph))
    assert text.index("body 0") < text.index("= mul(%0, %1)") < text.index("body=body(0)")
    node = graph_data(graph)["nodes"][-1]
    assert [n["op"] for n in node["attributes"]["body"]["nodes"]] == ["add", "mul"]
