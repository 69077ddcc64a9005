"""Images are read on a thread of their own, from when they are asked for: the network need not wait for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from edge.pipeline import Read
from edge.processes.child import Message
from edge.records import PortalImage


class ReadingAhead:
    """Reads as `edge.pipeline.Read` does, one image at a time, whichever thread asks."""

    def __init__(self, read: Read, thread: ThreadPoolExecutor) -> None:
        self._read = read
        self._thread = thread
        self._begun: dict[Path, Future[PortalImage]] = {}

    def begin(self, path: Path, name: str) -> None:
        """Begin to read what is going to be asked for; its error is raised then."""
        if path not in self._begun:
            self._begun[path] = self._thread.submit(self._read, path, name)

    def __call__(self, path: Path, name: str) -> PortalImage:
        """Return an image; raises what reading it raised."""
        begun = self._begun.pop(path, None) or self._thread.submit(self._read, path, name)
        return begun.result()

    def requests(self, requests: Iterable[Message]) -> Iterator[Message]:
        """Yield requests; the image of one is begun as soon as it is heard of, whatever keeps us meanwhile."""
        heard: SimpleQueue[Message | BaseException | None] = SimpleQueue()

        def hear() -> None:
            try:
                for request in requests:
                    if "copy" in request.header:
                        self.begin(Path(request.header["copy"]), request.header["name"])
                    heard.put(request)
            except BaseException as exc:  # noqa: BLE001 - raised again where the requests are dealt with
                heard.put(exc)
            else:
                heard.put(None)

        Thread(target=hear, name="requests", daemon=True).start()
        while not isinstance(request := heard.get(), BaseException | None):
            yield request
        if request is not None:
            raise request


def one_thread(name: str) -> ThreadPoolExecutor:
    """Return a thread for things to do in order. It runs already: where none can be had, that is no file's fault."""
    thread = ThreadPoolExecutor(1, name)
    thread.submit(int).result()
    return thread


@contextmanager
def reading_ahead(read: Read) -> Iterator[ReadingAhead]:
    """Give what reads ahead; at the end the image that is being read is waited for."""
    thread = one_thread("reading")
    try:
        yield ReadingAhead(read, thread)
    finally:
        thread.shutdown(cancel_futures=True)
