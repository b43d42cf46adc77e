"""What to keep and what to compute again: a minimum cut.

In: items, each with the price of keeping it, the price of computing it again, and what that needs,
and which of them are required. Out: what is kept and what is computed again, at the least total
price. The cut (Ford and Fulkerson, "Maximal flow through a network", 1956) lies between what is
required and what may not run again; the price of a run is an edge of its own, as in the selection
of projects (Picard, "Maximal closure of a graph", 1976).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True)
class Item:
    """``keep``, ``repeat``: prices, NEVER for what is impossible; ``needs``: keys of other items,
    all of which must be kept or computed again for this one to be computed again."""

    key: Hashable
    keep: float
    repeat: float
    needs: tuple[Hashable, ...] = ()


def keep_or_repeat(
    items: Iterable[Item], required: Collection[Hashable]
) -> tuple[set[Hashable], set[Hashable]]:
    """The keys of what is kept, and of what is computed again; each once, whoever needs it.

    Of choices at equal prices the one that computes least again is taken.
    """
    import networkx  # when something is to be chosen, not when something is compiled
    from networkx.algorithms.flow import boykov_kolmogorov  # the fastest on such networks

    network = networkx.DiGraph()  # from what is required back to what must be kept
    known = list(items)
    for key in required:
        network.add_edge("required", (key, "out"), capacity=NEVER)
    for item in known:
        wanted, again = (item.key, "out"), (item.key, "in")
        network.add_edge(wanted, again, capacity=item.keep)
        if item.repeat > 0:
            network.add_edge(again, "kept", capacity=item.repeat)
        if item.repeat < NEVER:
            for key in item.needs:
                network.add_edge(again, (key, "out"), capacity=NEVER)
    network.add_nodes_from(("required", "kept"))
    _, (above, _) = networkx.minimum_cut(network, "required", "kept", flow_func=boykov_kolmogorov)
    kept = {i.key for i in known if (i.key, "out") in above and (i.key, "in") not in above}
    return kept, {i.key for i in known if (i.key, "in") in above}
