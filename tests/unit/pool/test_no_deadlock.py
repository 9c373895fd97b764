"""Jobs that delegate at random, over several pools, played out against the planner in random order: all finish."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from perstackd.domain.pool import MAX_DEPTH
from perstackd.domain.sandbox import Template
from tests.unit.pool.pool_world import Mishaps, Task, World, play, world

POOLS = "abc"


def template(name: str, maximum: int, idle: int = 2) -> Template:
    return Template(name, "image", min_idle=min(idle, maximum), max=maximum)


def chain(*needs: str) -> Task:
    """Each delegates to the next."""
    task = Task(needs[-1])
    for each in reversed(needs[:-1]):
        task = Task(each, (task,))
    return task


def test_with_two_places_ten_jobs_that_each_delegate_all_finish() -> None:
    made = play(world([template("a", 2)], [chain("a", "a")] * 10))
    assert made.open_jobs == 0
    assert made.peak["a"] == 3


def test_with_one_place_a_chain_of_the_greatest_depth_finishes_in_max_and_the_levels() -> None:
    made = play(world([template("a", 1)], [chain(*"a" * (MAX_DEPTH + 1))] * 3))
    assert made.open_jobs == 0
    assert made.peak["a"] == 1 + MAX_DEPTH


def test_two_jobs_that_need_each_others_pool_both_finish() -> None:
    made = play(world([template("a", 1), template("b", 1)], [chain("a", "b", "a"), chain("b", "a", "b")]))
    assert made.open_jobs == 0


def test_failed_starts_delay_but_do_not_lock() -> None:
    made = play(world([template("a", 1)], [chain("a", "a")] * 2, Mishaps(failures=9)))
    assert made.open_jobs == 0


def test_a_chain_of_groups_that_each_need_the_whole_pool_finishes_in_one_group_for_each_level() -> None:
    made = play(world([template("a", 2), template("b", 1)], [chain(*["aab"] * (MAX_DEPTH + 1))] * 2))
    assert made.open_jobs == 0
    assert (made.peak["a"], made.peak["b"]) == (2 + 2 * MAX_DEPTH, 1 + MAX_DEPTH)


def test_children_behind_a_group_that_waits_for_their_parents_finish() -> None:
    """What is idle of b is kept for the group, the group waits for the parent in a, the parent for its child in b."""
    jobs = [chain("a", "bb"), Task("a", (Task("ab"), Task("b")))]
    made = play(world([template("a", 2), template("b", 2)], jobs))
    assert made.open_jobs == 0


def fitting(task: Task, sizes: dict[str, int]) -> Task:
    """Without what its pools could never give at once."""
    needs = [name for name in sizes for _ in range(min(task.needs.count(name), sizes[name]))]
    return Task(needs, tuple(fitting(child, sizes) for child in task.children), task.parallel)


def trees(depth: int, needs: st.SearchStrategy[list[str]]) -> st.SearchStrategy[Task]:
    children = st.just(()) if depth == 0 else st.lists(trees(depth - 1, needs), max_size=2).map(tuple)
    return st.builds(Task, needs, children, st.booleans())


def choice(data: st.DataObject) -> Callable[[int], int]:
    return lambda count: data.draw(st.integers(0, count - 1))


def finishes(made: World, data: st.DataObject, widest: int) -> None:
    play(made, choice(data))
    assert (made.open_jobs, made.waiting, made.running) == (0, [], [])
    assert all(made.peak[each.name] <= each.max + MAX_DEPTH * min(widest, each.max) for each in made.templates.values())


MISHAPS = st.builds(Mishaps, st.integers(0, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2))
ALONE = st.sampled_from("ab").map(list)
TOGETHER = st.lists(st.sampled_from(POOLS), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(trees(3, ALONE), min_size=1, max_size=6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    idle=st.integers(0, 2),
    mishaps=MISHAPS,
    data=st.data(),
)
def test_whatever_the_order_all_jobs_finish_within_max_and_the_levels(
    jobs: list[Task], sizes: tuple[int, int], idle: int, mishaps: Mishaps, data: st.DataObject
) -> None:
    templates = [template(name, size, idle) for name, size in zip("ab", sizes, strict=True)]
    finishes(world(templates, jobs, mishaps), data, widest=1)


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(trees(3, TOGETHER), min_size=1, max_size=6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    idle=st.integers(0, 2),
    mishaps=MISHAPS,
    data=st.data(),
)
def test_groups_over_several_pools_all_finish_too(
    jobs: list[Task], sizes: tuple[int, int, int], idle: int, mishaps: Mishaps, data: st.DataObject
) -> None:
    size_of = dict(zip(POOLS, sizes, strict=True))
    templates = [template(name, size, idle) for name, size in size_of.items()]
    finishes(world(templates, [fitting(job, size_of) for job in jobs], mishaps), data, widest=4)
