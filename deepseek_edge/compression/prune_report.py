"""What pruning took out of a model, and what it could not."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deepseek_edge.compression.counting import count_macs, count_parameters, lengths, shape_of
from deepseek_edge.compression.planning import Plan, explain_stuck


@dataclass(frozen=True)
class PrunedLayer:
    """A layer before and after: channels, and multiply-accumulates of all its calls."""

    name: str
    op: str
    in_before: int
    in_after: int
    out_before: int
    out_after: int
    macs_before: int
    macs_after: int


@dataclass(frozen=True)
class Unpruned:
    """A layer whose outputs all stay, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class PruneReport:
    """What was removed.

    Attributes:
        layers: in the order in which they run.
        unpruned: layers that can't lose outputs; those that could but didn't aren't here.
        predicted_ms_before, predicted_ms_after: what the cost function says; None without one.
    """

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    layers: tuple[PrunedLayer, ...]
    unpruned: tuple[Unpruned, ...]
    predicted_ms_before: float | None = None
    predicted_ms_after: float | None = None

    @property
    def parameters_share(self) -> float:
        """Of the parameters, the share that was removed."""
        return 1.0 - self.parameters_after / self.parameters_before

    @property
    def macs_share(self) -> float:
        """Of the multiply-accumulates, the share that was removed."""
        return 1.0 - self.macs_after / self.macs_before if self.macs_before else 0.0


def make_report(plan: Plan) -> PruneReport:
    """Describe what a plan takes out."""
    graph, ranking = plan.graph, plan.ranked.ranking
    reasons = explain_stuck(plan.ranked)
    before = lengths(ranking, [0] * len(graph.groups))
    after = lengths(ranking, plan.gone)
    rows: dict[str, PrunedLayer] = {}
    for layer in graph.layers:
        old, new = shape_of(layer, graph, before), shape_of(layer, graph, after)
        earlier = rows.get(layer.name)
        rows[layer.name] = PrunedLayer(
            name=layer.name,
            op=layer.op,
            in_before=old.in_channels if old else before[layer.weight, layer.in_axis],
            in_after=new.in_channels if new else after[layer.weight, layer.in_axis],
            out_before=old.out_channels if old else before[layer.out],
            out_after=new.out_channels if new else after[layer.out],
            macs_before=(old.macs if old else 0) + (earlier.macs_before if earlier else 0),
            macs_after=(new.macs if new else 0) + (earlier.macs_after if earlier else 0),
        )
    return PruneReport(
        parameters_before=count_parameters(ranking, before),
        parameters_after=count_parameters(ranking, after),
        macs_before=count_macs(ranking, before),
        macs_after=count_macs(ranking, after),
        layers=tuple(rows.values()),
        unpruned=tuple(Unpruned(name, reasons[name]) for name in rows if name in reasons),
    )


def merge_reports(first: PruneReport, last: PruneReport) -> PruneReport:
    """Of several rounds: before the first, after the last."""
    befores = {layer.name: layer for layer in first.layers}
    layers = tuple(
        replace(
            layer,
            in_before=befores[layer.name].in_before,
            out_before=befores[layer.name].out_before,
            macs_before=befores[layer.name].macs_before,
        )
        for layer in last.layers
    )
    return replace(
        last,
        parameters_before=first.parameters_before,
        macs_before=first.macs_before,
        predicted_ms_before=first.predicted_ms_before,
        layers=layers,
        unpruned=first.unpruned,
    )
