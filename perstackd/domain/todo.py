"""A run's todo list: kept by the daemon, because completion depends on it."""

from dataclasses import replace

from perstackd.domain.events import TodoItem
from perstackd.domain.messages import JsonObject

MAX_ITEMS = 200
MAX_TITLE = 1000


def updated(todos: tuple[TodoItem, ...], arguments: JsonObject) -> tuple[TodoItem, ...]:
    """The list after `todo {newTodos?: [title], completedTodos?: [id]}`.

    Raises:
        ValueError: with a sentence for the model; the list is unchanged.
    """
    titles, ids = arguments.get("newTodos") or [], arguments.get("completedTodos") or []
    if not isinstance(titles, list) or not all(isinstance(title, str) and len(title) <= MAX_TITLE for title in titles):
        raise ValueError(f"newTodos must be a list of texts of at most {MAX_TITLE} characters")
    if not isinstance(ids, list) or not all(type(item) is int for item in ids):
        raise ValueError("completedTodos must be a list of ids")
    first = max((todo.id for todo in todos), default=-1) + 1
    added = tuple(TodoItem(first + place, str(title)) for place, title in enumerate(titles))
    everything = (*todos, *added)
    if len(everything) > MAX_ITEMS:
        raise ValueError(f"the list has room for {MAX_ITEMS} items; clear it with clearTodo")
    unknown = [item for item in ids if item not in {todo.id for todo in everything}]
    if unknown:
        raise ValueError(f"no todo has the id {unknown[0]}")
    return tuple(replace(todo, completed=True) if todo.id in ids else todo for todo in everything)


def unfinished(todos: tuple[TodoItem, ...]) -> tuple[TodoItem, ...]:
    """Those that keep a run from completing."""
    return tuple(todo for todo in todos if not todo.completed)


def rendered(todos: tuple[TodoItem, ...]) -> JsonObject:
    """The list as the model sees it."""
    return {"todos": [{"id": todo.id, "title": todo.title, "completed": todo.completed} for todo in todos]}
