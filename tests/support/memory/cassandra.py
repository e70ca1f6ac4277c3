"""A Cassandra session in memory: the statements of the product run on rows of the real schema."""

import threading
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Self

from cassandra import DriverException
from cassandra.query import BatchStatement

from tests.support.memory.cql import Rows, Statement
from tests.support.memory.tables import MemoryTables


class Future:
    """An answer as the driver's ResponseFuture; it is there at once, or after `delay_s`."""

    has_more_pages, _col_names, _col_types, _paging_state = False, (), (), None

    def __init__(self, answer: Callable[[], list[Any]], delay_s: float = 0.0):
        self._answer, self._delay_s = answer, delay_s

    def add_callbacks(
        self,
        callback: Callable[..., Any],
        errback: Callable[..., Any],
        callback_args: Sequence[Any] = (),
        errback_args: Sequence[Any] = (),
    ) -> None:
        def settle() -> None:
            try:
                rows = self._answer()
            except DriverException as error:
                errback(error, *errback_args)
            else:
                callback(rows, *callback_args)

        if self._delay_s:
            timer = threading.Timer(self._delay_s, settle)
            timer.daemon = True
            timer.start()
        else:
            settle()

    def clear_callbacks(self) -> None: ...


class Text(str):
    """The text of a statement, which a batch keeps, with its values."""

    values: Sequence[Any] = ()


class Prepared:
    custom_payload, keyspace, routing_key = None, None, None

    def __init__(self, query: str):
        self.query_string = Text(query)

    def bind(self, values: Sequence[Any]) -> Self:
        bound = Prepared(self.query_string)
        bound.query_string.values = tuple(values)
        return bound


class MemoryCassandra(MemoryTables):
    """`fail`: raised by every statement if set. `delay_s`: of what is read on the event loop."""

    keyspace = "liveprofile"

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[str] = []
        self.fail: Exception | None = None
        self.delay_s = 0.0

    def stop_answering(self) -> None:
        self.fail = DriverException("no node answers")

    def prepare(self, query: str) -> Prepared:
        self.prepared.append(query)
        return Prepared(query)

    def execution_profile_clone_update(self, *_: Any, **__: Any) -> str:
        return "tuples"

    def execute_async(self, query: Any, values: Any = None, **_: Any) -> Future:
        return Future(lambda: self.execute(query, values), self.delay_s)

    def execute(self, query: Any, values: Any = None, **_: Any) -> Rows:
        if self.fail is not None:
            raise self.fail
        # The driver would write a list of an unprepared statement's enum.
        if isinstance(query, str) and any(isinstance(value, Enum) for value in values or ()):
            raise TypeError(f"an enum in {values}")
        with self._lock:
            if isinstance(query, BatchStatement):
                texts = [text for _, text, _ in query._statements_and_parameters]
            else:
                texts = [query if isinstance(query, str) else query.query_string]
            statements = [
                Statement(self, text, values or getattr(text, "values", ())) for text in texts
            ]
            if statements[0].words[0] == "SELECT":
                return statements[0].select()
            writes = [statement.write() for statement in statements]
            applied = Rows()
            applied.was_applied = all(holds for holds, _ in writes)
            if applied.was_applied:
                for _, write in writes:
                    write()
            return applied
