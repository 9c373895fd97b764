"""Which experts a job needs: the one asked for and all that it can delegate to, checked before anything starts."""

import difflib
import itertools
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from perstackd.domain.errors import Kind, PerstackError
from perstackd.domain.expert import Definition, Expert
from perstackd.domain.tool_names import without_version
from perstackd.domain.version_range import parse_range, parse_version

MAX_DEPTH: Final = 8
MAX_CYCLES: Final = 20

_Graph: TypeAlias = "dict[str, tuple[str, ...]]"
_NO_REGISTRY: Final = "No registry is configured, so only experts of the file can be used."


def resolve(definition: Definition, key: str) -> tuple[Expert, ...]:
    """The asked expert first, then everyone it can reach, depth first in the order of `delegates`, each once.

    Raises:
        PerstackError: NOT_FOUND `expert_not_found`; INVALID `delegate_missing`, `delegation_cycle`,
            `delegation_too_deep` (more than 8 levels below the asked expert).
    """
    experts = {expert.key: expert for expert in definition.experts}
    asked = find(experts, key)
    if asked is None:
        raise _expert_not_found(definition, key)
    graph = _reachable(definition.source, experts, asked)
    for loop in _cycles(graph):
        raise _cycle(definition.source, loop)
    _check_depth(graph, asked.key)
    return tuple(experts[reached] for reached in graph)


def delegate_of(definition: Definition, reference: str) -> Expert | None:
    """The expert of the file that a reference means: `name`, `name@1.2.0`, `name@latest`, or `name@` and a range such
    as `^1.2.0`. None when there is none, or when its version is another."""
    return find({expert.key: expert for expert in definition.experts}, reference)


def cycles(definition: Definition) -> tuple[tuple[str, ...], ...]:
    """The delegation cycles of a whole file as paths `(a, b, a)`; the first 20 are enough to begin with."""
    return tuple(itertools.islice(_cycles(_graph(definition)), MAX_CYCLES))


def too_deep(definition: Definition) -> tuple[tuple[str, ...], ...]:
    """Chains of delegation that no job can follow from their first expert, for experts that nobody delegates to; the
    first 20. The definition has no cycle."""
    graph = _graph(definition)
    delegates = {child for children in graph.values() for child in children}
    levels = _levels(graph)
    starts = (key for key in graph if key not in delegates and levels[key] > MAX_DEPTH)
    return tuple(_longest(graph, levels, key) for key in itertools.islice(starts, MAX_CYCLES))


def _graph(definition: Definition) -> _Graph:
    experts = {expert.key: expert for expert in definition.experts}
    return {
        expert.key: tuple(child.key for reference in expert.delegates if (child := find(experts, reference)))
        for expert in definition.experts
    }


def _levels(graph: _Graph) -> dict[str, int]:
    """How many levels there are below each expert, children before their parents."""
    levels: dict[str, int] = {}
    for start in graph:
        pending = [start]
        while pending:
            key = pending[-1]
            missing = () if key in levels else [child for child in graph[key] if child not in levels]
            if missing:
                pending.extend(missing)
            elif pending.pop() not in levels:
                levels[key] = max((levels[child] + 1 for child in graph[key]), default=0)
    return levels


def _longest(graph: _Graph, levels: dict[str, int], start: str) -> tuple[str, ...]:
    """The longest way down, one level past the limit at most."""
    path = [start]
    while len(path) < MAX_DEPTH + 2:
        path.append(max(graph[path[-1]], key=levels.__getitem__))
    return tuple(path)


def _reachable(source: str, experts: dict[str, Expert], asked: Expert) -> _Graph:
    """Who delegates to whom, below `asked`, in order of discovery."""
    graph: _Graph = {}
    pending = [asked]
    while pending:
        expert = pending.pop()
        if expert.key in graph:
            continue
        children = [_delegate(source, experts, expert, reference) for reference in expert.delegates]
        graph[expert.key] = tuple(child.key for child in children)
        pending.extend(reversed(children))
    return graph


def _delegate(source: str, experts: dict[str, Expert], owner: Expert, reference: str) -> Expert:
    child = find(experts, reference)
    if child is None:
        raise _delegate_missing(source, experts, owner.key, reference)
    return child


def _cycles(graph: _Graph) -> Iterator[tuple[str, ...]]:
    """Depth first with a stack of its own: a file may hold more experts than Python has frames."""
    done: set[str] = set()
    for start in graph:
        path, on_path, pending = [start], {start}, [iter(graph[start])]
        while pending and start not in done:
            child = next(pending[-1], None)
            if child is None:
                pending.pop()
                on_path.discard(path[-1])
                done.add(path.pop())
            elif child in on_path:
                yield (*path[path.index(child) :], child)
            elif child not in done:
                path.append(child)
                on_path.add(child)
                pending.append(iter(graph[child]))


def _check_depth(graph: _Graph, asked: str) -> None:
    """Level by level; the graph has no cycle by now, so a level past the limit is a real chain."""
    level: dict[str, tuple[str, ...]] = {asked: (asked,)}
    for _ in range(MAX_DEPTH + 1):
        level = {child: (*path, child) for key, path in level.items() for child in graph[key]}
    for path in level.values():
        raise PerstackError(
            Kind.INVALID,
            "delegation_too_deep",
            f"Delegation goes {MAX_DEPTH} levels deep at most, this goes deeper: {' -> '.join(path)}. "
            "Let an expert further up delegate directly.",
            fields={"path": " -> ".join(path)},
        )


def find(experts: Mapping[str, Expert], reference: str) -> Expert | None:
    """As `delegate_of`, for experts by their keys."""
    if reference in experts:
        return experts[reference]
    name = without_version(reference)
    expert = experts.get(name)
    if expert is None or name == reference:
        return None
    return expert if _satisfies(expert.version, reference[len(name) + 1 :]) else None


def _satisfies(version: str, wanted: str) -> bool:
    """A version, or a range with npm's meaning; tags other than latest live in a registry only."""
    if wanted in ("latest", version):
        return True
    have, ranged = parse_version(version), parse_range(wanted)
    return have is not None and ranged is not None and ranged.has(have)


def _near(experts: dict[str, Expert], key: str) -> str:
    matches = difflib.get_close_matches(key, list(experts), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _expert_not_found(definition: Definition, key: str) -> PerstackError:
    experts = {expert.key: expert for expert in definition.experts}
    return PerstackError(
        Kind.NOT_FOUND,
        "expert_not_found",
        f"{definition.source} has no expert {key!r}; {_has(experts)}.{_near(experts, key)} {_NO_REGISTRY}",
        fields={"expert": key, "source": definition.source},
    )


def _delegate_missing(source: str, experts: dict[str, Expert], owner: str, reference: str) -> PerstackError:
    local = experts.get(without_version(reference))
    why = f"the file's is version {local.version}" if local else _has(experts)
    return PerstackError(
        Kind.INVALID,
        "delegate_missing",
        f"The expert {owner!r} delegates to {reference!r}, which {source} does not have: {why}."
        f"{'' if local else _near(experts, reference)} {_NO_REGISTRY}",
        fields={"expert": owner, "delegate": reference, "source": source},
    )


def _cycle(source: str, path: tuple[str, ...]) -> PerstackError:
    return PerstackError(
        Kind.INVALID,
        "delegation_cycle",
        f"Delegation in {source} goes round in a circle: {' -> '.join(path)}. Take one of these delegates away.",
        fields={"path": " -> ".join(path), "source": source},
    )


def _has(experts: dict[str, Expert]) -> str:
    names = sorted(experts)
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    return f"it has {shown}" if names else "it has no experts"
