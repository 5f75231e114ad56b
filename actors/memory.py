"""TopicMemory: one worker's copy of a topic, and how it stands to the stream. A pure value: it decides, it
sends nothing.

Messages enter through `absorb`, whoever appended them, and through `fill`, which is what was read because
something was missing:

    prev == newest    keep
    last <= newest    seen already, drop
    prev >  newest    something is missing: hold it, and have the stream read from newest on
    other epoch       which of the two histories is the later one only the stream can tell: have it read

so a feed message that is lost, late or doubled can delay a message but never lose, reorder or double it.

    COLD ──join──▶ JOINING ──joined──▶ FOLLOWING        while `is_behind`, the stream is to be read;
      ▲               │                    │            until it was, what comes in is held
      └───────────────┴─────leave──────────┘

COLD, the topic does not hear of other workers' appends; its own still fill the hot buffer as long as no
other's come between.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

from actors.ports import Position, StreamPage
from actors.proof import unbroken
from actors.stream import BEGINNING, Batch, HotBuffer, HotLimits, Message, MessageId, PageCache
from actors.value import value

FILL_MESSAGES = 1000
"""Messages read at once to fill up memory. A topic that is opened further behind than this starts afresh:
subscribers that want older messages read them from the stream."""
HELD_MAX_BYTES = 4 * 1024 * 1024
RUN_OVERHEAD_BYTES = 200
SHARED_PAGES = 4
"""How many of the largest pages may be kept for readers to share."""


class Standing(Enum):
    """How memory stands to the stream."""

    COLD = auto()
    JOINING = auto()
    FOLLOWING = auto()


@value
class Run:
    """Messages that follow `prev` and each other directly, up to `newest`, in the history named `epoch`; no
    messages if they were announced only."""

    prev: MessageId
    messages: Sequence[Message]
    newest: MessageId
    epoch: str


class TopicMemory:
    """See the module's text. `newest`, `epoch`: where memory ends. `floor`: the highest id this worker ever
    heard of, below which nothing may be appended. `is_behind`: the stream is to be read from `newest` on, and
    what is found given to `fill`.
    """

    __slots__ = (
        "_held",
        "_held_bytes",
        "_is_in_doubt",
        "_page_max_bytes",
        "_pages",
        "epoch",
        "floor",
        "hot",
        "is_behind",
        "newest",
        "standing",
        "topic",
    )

    def __init__(self, topic: str, hot_limits: HotLimits, page_max_bytes: int) -> None:
        self.topic = topic
        self.standing = Standing.COLD
        self.is_behind = False
        self.newest = BEGINNING
        self.epoch = ""
        self.floor = BEGINNING
        self.hot = HotBuffer(hot_limits)
        self._pages = PageCache(SHARED_PAGES * page_max_bytes)
        self._page_max_bytes = page_max_bytes
        self._held: list[tuple[Run, bool]] = []
        self._held_bytes = 0
        self._is_in_doubt = False

    def bound(self, hot_limits: HotLimits, page_max_bytes: int) -> None:
        """From now on: what the hot buffer holds beyond is dropped."""
        self.hot.bound(hot_limits)
        self._pages.bound(SHARED_PAGES * page_max_bytes)
        self._page_max_bytes = page_max_bytes

    @property
    def is_in_step(self) -> bool:
        """Whether nothing is known to be missing."""
        return self.standing is Standing.FOLLOWING and not self.is_behind

    # Taking in

    def absorb(self, run: Run) -> Sequence[Message]:
        """Take in what was appended, here or elsewhere. Returns what of it is new in memory."""
        self.floor = max(self.floor, run.newest)
        if self.standing is Standing.COLD:
            return self._absorb_alone(run)
        if not self.is_in_step:
            self._hold(run, is_sought=False)  # a read under way may have been too early for it
            return ()
        return self._absorb_next(run, is_sought=False)

    def _absorb_next(self, run: Run, *, is_sought: bool) -> Sequence[Message]:
        if self.epoch and run.epoch != self.epoch:
            self.is_behind = True
            return ()
        if run.newest <= self.newest:
            return ()
        messages, prev = run.messages, run.prev
        if messages and prev < self.newest:
            messages = [message for message in messages if message.id > self.newest]
            prev = messages[0].prev
        if messages and prev == self.newest:
            self.epoch = run.epoch
            self._keep(messages, run.newest)
            return messages
        if not is_sought:
            self.is_behind = True
            self._hold(run, is_sought=True)
        return ()

    def _absorb_alone(self, run: Run) -> Sequence[Message]:
        is_same_history = run.epoch == self.epoch
        if not run.messages or (is_same_history and run.newest <= self.newest):
            return ()
        if not is_same_history or run.prev != self.newest:
            self._forget(run.prev, run.epoch)
        self._keep(run.messages, run.newest)
        return run.messages

    def _hold(self, run: Run, *, is_sought: bool) -> None:
        """`is_sought`: the next read begins after this. If it does not find what is missing, that is lost:
        the store went back in time."""
        size_bytes = sum([message.size_bytes for message in run.messages], RUN_OVERHEAD_BYTES)
        if self._held_bytes + size_bytes > HELD_MAX_BYTES:
            # The last one alone is reason enough to read on until what is dropped here was read too.
            self._held.clear()
            self._held_bytes = 0
        self._held.append((run, is_sought))
        self._held_bytes += size_bytes

    def compare(self, position: Position) -> None:
        """The stream stood there a moment ago. If memory does not, one of them is late, or history was lost;
        a read tells which."""
        self.floor = max(self.floor, position.newest)
        if self.is_in_step and (position.newest != self.newest or position.epoch != self.epoch):
            self.is_behind = True

    def doubt(self) -> None:
        """Something may have happened to the stream that nobody announces: it must be read once more."""
        if self.is_in_step:
            self.is_behind = True
        elif self.standing is not Standing.COLD:
            self._is_in_doubt = True  # a read under way may have been too early to tell

    # Joining, filling up, leaving

    def join(self) -> None:
        """COLD no more: from here on, other workers' appends are on their way here too."""
        self.standing = Standing.JOINING

    def joined(self, position: Position) -> None:
        """The feed is followed, and then the stream stood at `position`."""
        self.floor = max(self.floor, position.newest)
        distance = position.newest.number - self.newest.number
        if position.epoch == self.epoch and 0 <= distance <= FILL_MESSAGES:
            self.is_behind = position.newest != self.newest
        else:
            self._forget(position.newest, position.epoch)
        self._settle()

    def fill(self, after: MessageId, page: StreamPage) -> Sequence[Message] | None:
        """Take in what was read after `after`. Returns what is new in memory, held messages that follow it
        included; None if the stream does not continue what memory has: then memory was forgotten, and starts
        where the stream ends.

        A page that was asked for by an earlier need than the present one changes nothing.
        """
        page = unbroken(page)
        position = page.position
        self.floor = max(self.floor, position.newest)
        if not self.is_behind or after != self.newest:
            return ()
        if not self._is_continued_by(page):
            self._forget(position.newest, position.epoch)
            self._settle()
            return None
        self.epoch = position.epoch
        self._keep(page.batch.messages, page.batch.last)
        self.is_behind = page.has_more
        return [*page.batch.messages, *self._settle()]

    def _is_continued_by(self, page: StreamPage) -> bool:
        if self.epoch not in ("", page.position.epoch):
            return False
        if page.first_id is None:
            return page.position.newest == self.newest
        return page.first_prev == self.newest

    def _settle(self) -> Sequence[Message]:
        """If memory is filled up, follow, and absorb what was held; returns what of that is new."""
        if self.is_behind:
            return ()
        if self._is_in_doubt:
            self._is_in_doubt = False
            self.is_behind = True
            return ()
        self.standing = Standing.FOLLOWING
        return self._absorb_held()

    def _absorb_held(self) -> Sequence[Message]:
        held, self._held, self._held_bytes = self._held, [], 0
        new: list[Message] = []
        for run, is_sought in held:
            new += self._absorb_next(run, is_sought=is_sought) if self.is_in_step else self.absorb(run)
        return new

    def leave(self) -> None:
        """Go COLD: other workers' appends are not heard of any more."""
        self.standing = Standing.COLD
        self.is_behind = self._is_in_doubt = False
        self._absorb_held()

    # Serving

    def covers(self, cursor: MessageId, *, proves: bool, epoch: str | None) -> bool:
        """Whether everything after `cursor` is here and, if it `proves`, the cursor itself is a place in this
        history."""
        if not self.hot.floor <= cursor <= self.newest:
            return False
        if epoch and self.epoch and epoch != self.epoch:
            return False
        return not proves or cursor == self.newest or self.hot.knows(cursor)

    def page(self, cursor: MessageId, max_messages: int) -> Batch | None:
        """A page after a cursor that is covered; None if there is nothing after it. Shared by all who ask
        for the same."""
        page = self._pages.get(cursor, max_messages)
        if page is None:
            messages = self.hot.after(cursor, max_messages, self._page_max_bytes)
            if not messages:
                return None
            page = Batch(self.topic, messages)
            self._pages.put(cursor, max_messages, page, self.hot.size_between(cursor, page.last))
        return page

    def share(self, cursor: MessageId, max_messages: int, page: StreamPage) -> None:
        """Keep what was read from inside the stream for others who will ask for the same. The stream's end is
        memory's own business, and a break must be judged for each reader.
        """
        is_inside = page.has_more and page.first_prev == cursor and page.position.epoch == self.epoch
        if is_inside and self._pages.get(cursor, max_messages) is None:
            size_bytes = sum([message.size_bytes for message in page.batch.messages])
            self._pages.put(cursor, max_messages, page.batch, size_bytes)

    def shared(self, cursor: MessageId, max_messages: int, epoch: str | None) -> Batch | None:
        """A page that is kept, and follows `cursor` in this history; there is more behind it."""
        if epoch and epoch != self.epoch:
            return None
        return self._pages.get(cursor, max_messages)

    def has_more_after(self, cursor: MessageId, now_ms: int) -> bool:
        """Whether a message after a cursor that is covered has not expired."""
        return any(not message.is_expired(now_ms) for message in self.hot.iterate_after(cursor))

    # Giving back

    @property
    def size_bytes(self) -> int:
        """What is given back by `shrink(0)`."""
        return self.hot.size_bytes + self._pages.size_bytes

    def age(self, now_ms: int) -> None:
        """Drop what is too old to keep. Pages are shared among those who come at the same time only."""
        self.hot.expire(now_ms)
        self._pages.clear()

    def shrink(self, max_bytes: int) -> None:
        self._pages.clear()
        self.hot.shrink(max_bytes)

    def drop_before(self, oldest: MessageId) -> None:
        """What came before is trimmed: who wants it must be told so, here as by any other worker."""
        self._pages.clear()
        self.hot.drop_before(oldest)

    def drop_messages(self) -> None:
        """They are deleted. Where memory stands is not touched by that."""
        self._pages.clear()
        self.hot.clear(self.newest)

    def _keep(self, messages: Sequence[Message], newest: MessageId) -> None:
        self.hot.extend(messages)
        self.newest = newest

    def _forget(self, newest: MessageId, epoch: str) -> None:
        self._pages.clear()
        self.hot.clear(newest)
        self.newest = newest
        self.epoch = epoch
        self.is_behind = False
