import asyncio
import sqlite3

from edge.page.changes import Changes
from edge.page.live import LISTENERS_MOST, Changed, live_route
from edge.service.journal import Journal
from edge.settle import State
from tests.page.made_room import NOW


def entry(room, order):
    return room.entry(order, room.drop / f"{order}.dcm", State.SEEN, NOW)


# --- the journal's changes


def test_what_another_process_writes_changes_the_number_and_nothing_else_does(room):
    room.record(entry(room, 1))
    changes = Changes(room.journal)
    with Journal.open(room.journal) as journal:
        first = changes.version()
        assert changes.version() == first
        journal.record([entry(room, 2)])
        second = changes.version()
        assert second != first
        assert changes.version() == second
        journal.counts()
        assert changes.version() == second
    changes.close()


def test_a_journal_that_appears_and_one_that_takes_its_place_are_changes(room):
    changes = Changes(room.journal)
    none = changes.version()
    assert changes.version() == none
    room.record(entry(room, 1))
    first = changes.version()
    assert first != none
    for file in room.state.iterdir():
        file.rename(file.with_name(f"aside-{file.name}"))
    gone = changes.version()
    assert gone != first
    room.record(entry(room, 1))
    assert changes.version() != gone
    changes.close()


def test_what_is_no_journal_is_no_reason_to_end(room):
    room.journal.write_bytes(b"no database" * 100)
    changes = Changes(room.journal)
    assert changes.version() == changes.version()
    changes.close()


def test_whoever_listens_keeps_nobody_from_writing(room):
    room.record(entry(room, 1))
    changes = Changes(room.journal)
    changes.version()
    with sqlite3.connect(room.journal, timeout=0) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("DELETE FROM files")
        changes.version()
        writer.execute("COMMIT")
    changes.close()


def test_the_page_leaves_no_file_in_the_state_folder(room, open_page):
    room.fill(3)
    own = {room.journal.name, f"{room.journal.name}-shm", f"{room.journal.name}-wal"}  # the last two are SQLite's
    client = open_page(room)
    for address in ("/", "/trends", "/engines", "/image/3"):
        assert client.get(address).status == 200
    assert {file.name for file in room.state.iterdir()} <= own


# --- who listens


class Steps:
    """A journal whose version the test sets, and a sleep that lasts until the test says so."""

    def __init__(self):
        self.number, self.asked, self.go = 1, 0, asyncio.Event()

    async def version(self):
        self.asked += 1
        return self.number

    async def sleep(self, pause_s):
        await self.go.wait()
        self.go.clear()

    async def step(self):
        self.go.set()
        for _ in range(5):
            await asyncio.sleep(0)


def listening(test):
    """Run a test with a `Changed` over `Steps`."""

    async def run():
        steps = Steps()
        changed = Changed(steps.version, steps.sleep)
        task = asyncio.create_task(changed.run())
        await steps.step()
        await test(steps, changed)
        task.cancel()

    asyncio.run(run())


def test_who_comes_hears_at_once_and_then_of_each_change():
    async def test(steps, changed):
        events = changed.listen(changed.join())
        assert await anext(events) == "retry: 2000\nevent: changed\ndata: 1\n\n"
        steps.number = 2
        await steps.step()
        assert await anext(events) == "event: changed\ndata: 2\n\n"
        await events.aclose()

    listening(test)


def test_two_changes_that_were_not_fetched_yet_are_one_event():
    async def test(steps, changed):
        events = changed.listen(changed.join())
        await anext(events)
        for steps.number in (2, 3):
            await steps.step()
        assert await anext(events) == "event: changed\ndata: 2\n\n"
        waiting = asyncio.ensure_future(anext(events))
        await steps.step()
        assert not waiting.done()
        waiting.cancel()

    listening(test)


def test_nobody_is_asked_while_nobody_listens():
    async def test(steps, changed):
        asked = steps.asked
        for _ in range(5):
            await steps.step()
        assert steps.asked == asked

    listening(test)


def test_one_question_serves_all_who_listen():
    async def test(steps, changed):
        all_events = [changed.listen(changed.join()) for _ in range(LISTENERS_MOST)]
        for events in all_events:
            await anext(events)
        asked, steps.number = steps.asked, 2
        await steps.step()
        assert steps.asked == asked + 1
        assert [await anext(events) for events in all_events] == ["event: changed\ndata: 2\n\n"] * LISTENERS_MOST

    listening(test)


def test_a_look_that_fails_is_not_the_last_one(caplog):
    async def test(steps, changed):
        events, version = changed.listen(changed.join()), changed._version
        await anext(events)
        changed._version = broken
        await steps.step()
        changed._version, steps.number = version, 2
        await steps.step()
        assert await asyncio.wait_for(anext(events), 5) == "event: changed\ndata: 2\n\n"

    async def broken():
        raise RuntimeError("can't start new thread")

    listening(test)
    assert "can't start new thread" in caplog.text


def test_there_are_sixteen_places_and_one_that_is_left_is_free_again():
    async def test(steps, changed):
        places = [changed.join() for _ in range(LISTENERS_MOST)]
        assert None not in places
        assert changed.join() is None
        changed.leave(places[0])
        assert changed.join() is not None

    assert LISTENERS_MOST == 16
    listening(test)


class Window:
    """A browser that opens ``/events`` and goes away when told."""

    def __init__(self, app):
        self.status, self.gone, self.answered = None, asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(app(self.scope("GET"), self.receive, self.send))

    @staticmethod
    def scope(method):
        return {"type": "http", "method": method, "path": "/events", "headers": [], "query_string": b""}

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered.set()
            await asyncio.sleep(0)  # as a server does while others ask


def test_of_forty_windows_that_open_at_once_sixteen_listen_and_the_others_are_told():
    async def test(steps, changed):
        app = live_route(changed).app
        windows = [Window(app) for _ in range(40)]
        for window in windows:
            await asyncio.wait_for(window.answered.wait(), 5)
        assert sorted(window.status for window in windows) == [200] * LISTENERS_MOST + [503] * (40 - LISTENERS_MOST)
        assert changed.full
        for window in windows:
            window.gone.set()
            await asyncio.wait_for(window.task, 5)
        assert not changed.full

    listening(test)


def test_a_window_that_was_refused_can_ask_why():
    async def test(steps, changed):
        async def status():
            answers = []

            async def send(message):
                answers.append(message.get("status"))

            await live_route(changed).app(Window.scope("HEAD"), None, send)
            return answers[0]

        assert await status() == 200
        for _ in range(LISTENERS_MOST):
            changed.join()
        assert await status() == 503

    listening(test)
