"""``requires_grad`` that a traced function leaves changed: each call changes it at its end.

In: a finished trace whose tensors have the flags that the function gave them. Out: an act of the
call for each that is another than before, and the flags as they were before the trace; acts for
the leaves that the function made and that leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flamec.host_actions import Act
from flamec.host_state import HostState
from flamec.tape import set_leaf
from flamec.tensor import Tensor
from flamec.traced_results import Outputs, Result

if TYPE_CHECKING:
    from flamec.trace import Trace


def leave_to_the_call(trace: Trace, host: HostState, leaves: Sequence[Any]) -> None:
    """``leaves``: the arguments of the call, which the program finds by position."""
    positions = {id(leaf): i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    reads, arguments = trace.requires_grad_reads, trace.gradients.flags
    for tensor in reads.keys() & arguments.keys():
        reads[tensor] = arguments[tensor]  # of one that the function knew first as an argument
    for tensor, before in {**reads, **arguments}.items():
        after = tensor._requires_grad
        if after is before:
            continue
        position = positions.get(id(tensor))
        target = Result("tensor", value=tensor)
        if position is not None:
            target = Result("argument", position)
        host.steps.append(Act(set_leaf, (target, Result("constant", value=after))))
        set_leaf(tensor, before)


def leaves_made(outputs: Outputs, gradients: Mapping[Tensor, Tensor | None]) -> Iterator[Act]:
    """What makes leaves of results that are some in the trace, and gives them their gradients."""
    for leaf, result in list(outputs.leaves()):
        yield Act(set_leaf, (result, Result("constant", value=True)))
        gradient = gradients.get(leaf)
        if gradient is not None:
            yield Act(_set_gradient, (result, outputs.classify(gradient)))


def _set_gradient(leaf: Tensor, gradient: Tensor) -> None:
    leaf._grad = gradient
