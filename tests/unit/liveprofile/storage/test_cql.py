"""Statements are sent again while Cassandra does not answer in time, and no other ones."""

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra import InvalidRequest, OperationTimedOut

from liveprofile.errors import ServiceError, ServiceUnavailableError
from liveprofile.retry import default_deadline
from liveprofile.storage.cql import execute_per_key, prepare, read_pages, write_all
from tests.support.memory.cassandra import Future

QUERY = "SELECT time FROM user_consent WHERE user_id = ?"


class FlakySession:
    """Answers with the parameters of a statement; `error` may give an exception instead.

    error: called with what is sent (a query, or the values of a statement) and how often it was.
    """

    keyspace = "liveprofile"

    def __init__(self, error: Callable[[Any, int], Exception | None]):
        self._error, self.sent = error, Counter()

    def _fails(self, what: Any) -> Exception | None:
        self.sent[what] += 1
        return self._error(what, self.sent[what])

    def prepare(self, query: str) -> Any:
        if error := self._fails(query):
            raise error
        return SimpleNamespace(query=query)

    def execute(self, statement: Any, values: Any, **options: Any) -> Any:
        if error := self._fails(options["paging_state"]):
            raise error
        page = int(options["paging_state"] or b"0")
        state = str(page + 1).encode() if page < 2 else None
        return SimpleNamespace(current_rows=[page], paging_state=state)

    def execute_async(self, statement: Any, values: Any, **options: Any) -> Future:
        what = values or statement
        error = self._fails(what)

        def answer() -> list[Any]:
            if error:
                raise error
            return [what]

        return Future(answer)


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    with default_deadline(2.0):
        yield


def times_out_once(what: Any, count: int) -> Exception | None:
    return OperationTimedOut("the node is busy") if count == 1 else None


def test_a_statement_and_each_page_are_sent_again_after_a_time_out() -> None:
    session = FlakySession(times_out_once)
    assert list(read_pages(session, prepare(session, QUERY))) == [0, 1, 2]
    assert set(session.sent.values()) == {2}


def test_only_keys_without_an_answer_are_read_again() -> None:
    keys = [str(number) for number in range(250)]
    session = FlakySession(
        lambda what, count: times_out_once(what, count) if what in (("7",), ("200",)) else None
    )
    assert list(execute_per_key(session, QUERY, [*keys, "7"])) == keys
    assert session.sent == Counter({QUERY: 1, ("7",): 2, ("200",): 2}) + Counter(
        (key,) for key in keys if key not in ("7", "200")
    )


def test_an_error_that_does_not_pass_is_raised_at_once() -> None:
    def error(what: Any, count: int) -> Exception | None:
        if what == ("3",):
            return InvalidRequest("no such column")
        return times_out_once(what, count) if what != QUERY else None

    session = FlakySession(error)
    with pytest.raises(ServiceError, match="no such column") as raised:
        execute_per_key(session, QUERY, map(str, range(10)))
    assert not isinstance(raised.value, ServiceUnavailableError)
    assert session.sent[("3",)] == 1


def test_writes_without_an_answer_until_the_deadline_are_an_error() -> None:
    session = FlakySession(lambda what, count: OperationTimedOut("busy") if what == "b" else None)
    with default_deadline(0.5), pytest.raises(ServiceUnavailableError, match="busy"):
        write_all(session, ["a", "b"])
    assert session.sent["a"] == 1 and session.sent["b"] > 1
