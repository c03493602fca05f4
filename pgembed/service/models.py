"""Models of this process: loaded when first needed, set aside when out of order."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pgembed.encoders.base import Billed, check_vectors, encodes_images
from pgembed.encoders.registry import load_encoder
from pgembed.errors import EncoderUnavailable, MissingExtra, PgembedError
from pgembed.events import events
from pgembed.service.encoding import CallGivenUp, EncodeThread, Priority
from pgembed.service.faults import ConnectionLost, StatementFailed
from pgembed.service.records import Embedding, Model, ModelStanding
from pgembed.service.store import Store

if TYPE_CHECKING:
    from pgembed.chunking import Chunker
    from pgembed.encoders.base import Encoder
    from pgembed.encoders.stored import StoredModel
    from pgembed.hosted import Spent
    from pgembed.service.options import ServiceSettings

log = events(__name__)

Result = TypeVar("Result")

RETRY_LOAD_SECONDS = 60.0
FIRST_OUTAGE_SECONDS = 1.0
LAST_OUTAGE_SECONDS = 60.0
RECOVERING_SECONDS = 0.05  # how often to look whether a test has come back
PROBE = "a test"  # what a model that works can encode, unless it names another text
PROBE_SECONDS = 30.0
BUDGET_SECONDS = 60.0  # until a model whose tokens are used up is looked at again
LOADING = -1  # in place of a model's id in the encode thread


class ModelOutOfOrder(PgembedError):
    """The model cannot be used now; its jobs stay in the queue."""


class TokensUsedUp(EncoderUnavailable):
    """A hosted model may be sent no more of today."""


@dataclass(slots=True)
class _Slot:
    """What this process knows of one model."""

    model: Model
    state: Literal["loading", "ready", "failed", "outage"] = "loading"
    encoder: Encoder | None = None
    reason: str = ""
    retry_at: float = 0.0  # time.monotonic()
    outages: int = 0  # in a row
    doubled: int = 0  # those of them that named no time
    named: bool = False  # whether the outage that it is in did
    told_at: float = 0.0  # time.monotonic()
    worked_at: float = -math.inf  # time.monotonic()
    billed: int = 0  # tokens that are counted in the database
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    chunkers: dict[tuple[str, int | None, int | None], Chunker] = field(
        default_factory=dict
    )


class Models:
    """Loads models in the encode thread and keeps their state.

    A model that is not there, has other weights or is not allowed is tried again
    each minute; one whose encoder is out of order after a pause that doubles, with a
    text of ours before any row. Neither stops the others.
    """

    def __init__(
        self,
        store: Store,
        thread: EncodeThread,
        settings: ServiceSettings,
        *,
        preloaded: Mapping[str, Encoder] | None = None,
        changed: Callable[[], None] = lambda: None,
        spent: Callable[[Spent], object] = lambda _spent: None,
    ) -> None:
        """Keep no model yet.

        Args:
            store: For telling the database what was loaded.
            thread: Where models are loaded and run.
            settings: For encoders, and which models to serve.
            preloaded: Encoders by model name, used instead of loading.
            changed: Called when a model becomes usable, or unusable.
            spent: Told what each request to a hosted model has spent.
        """
        self._store = store
        self._thread = thread
        self._settings = settings
        self._preloaded = dict(preloaded or {})
        self._changed = changed
        self._spent = spent
        self._slots: dict[int, _Slot] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stood: dict[str, tuple[str, float]] = {}  # state by name, and since when

    def usable(self, model: Model) -> bool:
        """Whether a model can encode now; begins to load it when it is new."""
        if not self._settings.serves(model.model):
            return False  # another service's
        slot = self._slots.get(model.model_id)
        if slot is None or _differs(slot.model, model):
            self._begin(model)
            return False
        if slot.state in ("failed", "outage") and time.monotonic() >= slot.retry_at:
            if slot.encoder is None:
                self._begin(model)
            else:
                slot.retry_at = math.inf
                self._start(self._recover(slot))
            return False
        if slot.state != "ready" or slot.encoder is None:
            return False
        if model.fingerprint != slot.encoder.fingerprint:
            self._tell_again(slot)
            # Another service may have stored vectors of other weights meanwhile.
            return model.fingerprint is None
        return True

    def encoder(self, model_id: int) -> Encoder:
        """Give a usable model's encoder.

        Raises:
            ModelOutOfOrder: It is not usable.
        """
        slot = self._slots.get(model_id)
        if slot is None or slot.encoder is None:
            raise ModelOutOfOrder("the model is not loaded")
        return slot.encoder

    async def wait(self, model: Model) -> Encoder:
        """Give a model's encoder, after loading it where needed.

        Raises:
            ModelOutOfOrder: It cannot be loaded, or is out of order.
        """
        if not self._settings.serves(model.model):
            raise ModelOutOfOrder(
                f"model {model.model!r} is not among those this service serves"
            )
        if not self.usable(model):
            await self._slots[model.model_id].loaded.wait()
        slot = self._slots[model.model_id]
        if slot.encoder is None or slot.state == "outage":
            raise ModelOutOfOrder(slot.reason)
        return slot.encoder

    async def settled(self) -> None:
        """Wait until no model is being loaded."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded."""
        return bool(self._tasks)

    def loaded_names(self) -> list[str]:
        """Names of the models that are usable."""
        return sorted(s.model.model for s in self._slots.values() if s.state == "ready")

    def problems(self) -> dict[str, str]:
        """Reasons, by name, of the models that are out of order."""
        return {
            s.model.model: s.reason
            for s in self._slots.values()
            if s.state in ("failed", "outage")
        }

    def standings(self) -> dict[str, ModelStanding]:
        """How the models stand that this service serves, by name.

        One that could not be loaded is unavailable while it is tried again, too.
        """
        now = time.monotonic()
        found: dict[str, ModelStanding] = {}
        for slot in self._slots.values():
            name = slot.model.model
            if not self._settings.serves(name):
                continue
            state: Literal["ready", "loading", "unavailable"] = "unavailable"
            if slot.state == "ready" or (slot.state == "loading" and not slot.reason):
                state = slot.state
            was, since = self._stood.get(name, ("", now))
            self._stood[name] = (state, since if was == state else now)
            found[name] = ModelStanding(
                state,
                round(now - self._stood[name][1], 1),
                slot.reason if state == "unavailable" else None,
            )
        return found

    def next_retry_seconds(self, model_ids: Iterable[int]) -> float | None:
        """Seconds until one of these models may be tried again; None: none waits."""
        slots = filter(None, map(self._slots.get, model_ids))
        waits = [
            slot.retry_at - time.monotonic()
            for slot in slots
            if slot.state in ("failed", "outage")
        ]
        return max(0.0, min(waits)) if waits else None

    def outage(self, model_id: int, error: EncoderUnavailable) -> float:
        """Set a model aside for a while: back-pressure, nobody's failure.

        Returns:
            Seconds until it will be tried again.
        """
        slot = self._slots[model_id]
        if slot.state != "outage":  # else it is another window of the same outage
            self._set_aside(slot, error)
        return min(max(0.0, slot.retry_at - time.monotonic()), LAST_OUTAGE_SECONDS)

    def _set_aside(self, slot: _Slot, error: EncoderUnavailable) -> None:
        slot.named = error.retry_after is not None
        if error.retry_after is not None:
            pause = max(error.retry_after, FIRST_OUTAGE_SECONDS / 10)
        else:
            pause = FIRST_OUTAGE_SECONDS * 2.0 ** min(slot.doubled, 10)
            pause = min(pause, LAST_OUTAGE_SECONDS) * random.uniform(0.8, 1.2)
            slot.doubled += 1
        known = slot.outages > 0 and slot.reason == str(error)
        slot.outages += 1
        slot.state = "outage"
        slot.reason = str(error)
        slot.retry_at = time.monotonic() + pause
        (log.debug if known else log.warning)(
            "model.outage",
            model=slot.model.model,
            retry_seconds=round(pause, 2),
            error=str(error),
        )
        self._changed()

    async def _recover(self, slot: _Slot) -> None:
        """See with a text of ours whether an outage is over."""
        try:
            await self.check(slot.model.model_id, math.inf)
        except EncoderUnavailable as exc:
            self._set_aside(slot, exc)
        except (ConnectionLost, StatementFailed):
            slot.retry_at = time.monotonic() + FIRST_OUTAGE_SECONDS
        else:
            slot.state = "ready"
            log.info("model.recovered", model=slot.model.model)
            self._changed()

    def resumes_in(self, model_id: int) -> float | None:
        """Seconds until a model that asked to wait is asked again; None: it did not.

        While it is seen whether it may, these are few.
        """
        slot = self._slots.get(model_id)
        if slot is None or slot.state != "outage" or not slot.named:
            return None
        left = slot.retry_at - time.monotonic()
        return RECOVERING_SECONDS if math.isinf(left) else max(0.0, left)

    def worked(self, model_id: int) -> None:
        """Note that a model has encoded something: its outages are over."""
        slot = self._slots.get(model_id)
        if slot is not None:
            slot.worked_at = time.monotonic()
            if slot.state == "ready":
                slot.outages = slot.doubled = 0

    async def call(
        self,
        model_id: int,
        priority: Priority,
        lane: int,
        call: Callable[[], Result],
        *,
        at_most: float = math.inf,
    ) -> Result:
        """Run a call of a model in the encode thread.

        Args:
            model_id: Whose call it is.
            priority: See `EncodeThread.submit`.
            lane: See there.
            call: What to run.
            at_most: Seconds that it gets, if a call's deadline is not shorter.

        Raises:
            CallGivenUp: It did not return in time.
            EncoderUnavailable: Too many calls of the model have not.
            Exception: Whatever the call raises.
        """
        seconds = min(self._settings.call_timeout_seconds, at_most)
        try:
            return await self._thread.submit(
                priority, lane, call, model=model_id, seconds=seconds
            )
        except CallGivenUp:
            slot = self._slots.get(model_id)
            log.warning(
                "model.call_given_up",
                model=slot.model.model if slot else None,
                seconds=seconds,
                hung_calls=self._thread.hung(),
            )
            raise

    @asynccontextmanager
    async def budget(self, model_id: int, texts: Sequence[str]) -> AsyncIterator[None]:
        """Count the tokens of a hosted model's call, before and after it.

        Before it by an estimate, so that services together stay below the limit of a
        day; after it as the provider counts.

        Raises:
            EncoderUnavailable: There would be too many; nothing is sent.
            TextError: One of the texts is not valid Unicode.
            ConnectionLost, StatementFailed: They cannot be counted; nothing is sent.
        """
        slot = self._slots.get(model_id)
        encoder = None if slot is None else slot.encoder
        if slot is None or encoder is None or not isinstance(encoder, Billed):
            yield
            return
        name = slot.model.model
        expected = sum(encoder.count_tokens(texts))
        most = self._settings.max_tokens_per_day
        if await self._store.spend(model_id, expected, most) is None:
            raise TokensUsedUp(
                f"hosted model {name!r} may be sent {most or 0:,} tokens a day (UTC), "
                "and the next texts would be more",
                retry_after=BUDGET_SECONDS,
                back_pressure=True,
                hint="Start the services with a higher --max-tokens-per-day, or wait "
                "for tomorrow.",
            )
        try:
            yield
        finally:
            # Of other calls too: each token is in one of these differences.
            tokens = encoder.usage.tokens
            used, slot.billed = tokens - slot.billed, tokens
            try:
                await self._store.spend(model_id, used - expected)
            except (ConnectionLost, StatementFailed) as exc:
                log.warning("model.not_told", model=name, error=str(exc))

    def hung_calls(self) -> int:
        """Calls that were given up and have not returned yet."""
        return self._thread.hung()

    async def check(self, model_id: int, since: float) -> None:
        """See whether a model encodes anything; before all else that waits for it.

        Args:
            model_id: Which.
            since: A success after this time.monotonic() will do; else it is tried.

        Raises:
            EncoderUnavailable: It does not, with the reason. No user's text is in it.
        """
        slot = self._slots[model_id]
        async with slot.checking:
            if slot.worked_at >= since:
                return
            try:
                async with self.budget(model_id, [PROBE]):
                    await self.call(
                        model_id,
                        Priority.QUERY,
                        model_id,
                        partial(_probe, self.encoder(model_id)),
                        at_most=PROBE_SECONDS,
                    )
            except (EncoderUnavailable, ConnectionLost, StatementFailed):
                raise
            except Exception as exc:
                raise EncoderUnavailable(
                    f"model {slot.model.model!r} encodes no text, not even "
                    f"{PROBE!r}: {type(exc).__name__}: {exc}"
                ) from exc
            slot.worked_at = time.monotonic()

    def known_chunker(self, embedding: Embedding) -> Chunker | None:
        """Give the chunker of an embedding if it has been made."""
        slot = self._slots.get(embedding.model_id)
        return slot.chunkers.get(_chunker_key(embedding)) if slot else None

    def chunker(self, embedding: Embedding) -> Chunker:
        """Make the chunker of an embedding; call it in the encode thread.

        Raises:
            ModelOutOfOrder: Its model is not loaded.
            InvalidParameter: The chunk size does not fit the model.
        """
        slot = self._slots.get(embedding.model_id)
        if slot is None or slot.encoder is None:
            raise ModelOutOfOrder("the model is not loaded")
        key = _chunker_key(embedding)
        if key not in slot.chunkers:
            slot.chunkers[key] = _chunker_class().for_encoder(
                slot.encoder,
                "none" if embedding.chunking == "none" else "sentences",
                embedding.chunk_size,
                embedding.chunk_overlap,
            )
        return slot.chunkers[key]

    async def close(self) -> None:
        """Stop loading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, model: Model) -> None:
        old = self._slots.get(model.model_id)
        if old is not None and old.state == "loading":
            return
        slot = self._slots[model.model_id] = _Slot(model)
        if old is not None and old.state == "failed":
            slot.reason = old.reason
        self._start(self._load(slot))

    def _tell_again(self, slot: _Slot) -> None:
        """Have the database compare the weights once more, at most each second.

        After pgembed.accept_weights() it knows none; else it knows others.
        """
        if time.monotonic() < slot.told_at + 1 or slot.encoder is None:
            return
        slot.told_at = time.monotonic()
        self._start(self._tell(slot, slot.encoder))

    async def _tell(self, slot: _Slot, encoder: Encoder) -> None:
        try:
            await self._seen(slot.model.model_id, encoder)
        except (ConnectionLost, StatementFailed) as exc:
            log.warning("model.not_told", model=slot.model.model, error=str(exc))
        except PgembedError as exc:
            slot.encoder = None
            self._failed(slot, str(exc), RETRY_LOAD_SECONDS)
        self._changed()

    async def _seen(self, model_id: int, encoder: Encoder) -> None:
        await self._store.model_seen(
            model_id,
            dimensions=encoder.dimensions,
            max_tokens=encoder.max_tokens,
            normalized=encoder.normalized,
            fingerprint=encoder.fingerprint,
            images=encodes_images(encoder),
        )

    def _failed(self, slot: _Slot, reason: str, retry: float) -> None:
        known = reason == slot.reason
        slot.state = "failed"
        slot.reason = reason
        slot.retry_at = time.monotonic() + retry
        (log.debug if known else log.error)(
            "model.unavailable",
            model=slot.model.model,
            error=reason,
            retry_seconds=retry,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _load(self, slot: _Slot) -> None:
        model = slot.model
        started = time.monotonic()
        retry = RETRY_LOAD_SECONDS
        try:
            encoder = self._preloaded.get(model.model)
            if encoder is not None and isinstance(encoder, Billed):
                slot.billed = encoder.usage.tokens
            if encoder is None:
                log.info("model.loading", model=model.model)
                stored = None
                if model.provider == "static":
                    stored = await self._store.stored_model(model.model_id)
                encoder = await self._thread.submit(
                    Priority.FRESH,
                    LOADING,
                    partial(_load_encoder, model, self._settings, stored),
                    model=LOADING,
                    seconds=None,
                )
                if usage := getattr(encoder, "usage", None):
                    usage.listen(self._spent)
            await self._seen(model.model_id, encoder)
        except (ConnectionLost, StatementFailed) as exc:
            self._failed(slot, str(exc), 1.0)
        except PgembedError as exc:
            if isinstance(exc, EncoderUnavailable):
                retry = exc.retry_after or FIRST_OUTAGE_SECONDS
            self._failed(slot, str(exc), retry)
        # A provider's library may raise anything; the other models go on.
        except Exception as exc:
            log.exception("model.crashed", model=model.model)
            self._failed(slot, f"{type(exc).__name__}: {exc}", retry)
        else:
            slot.encoder = encoder
            slot.state = "ready"
            log.info(
                "model.ready",
                model=model.model,
                seconds=round(time.monotonic() - started, 2),
                device=getattr(encoder, "device", None),
                backend=getattr(encoder, "backend", None),
            )
        slot.loaded.set()
        self._changed()


def _chunker_key(embedding: Embedding) -> tuple[str, int | None, int | None]:
    return (embedding.chunking, embedding.chunk_size, embedding.chunk_overlap)


def _chunker_class() -> type[Chunker]:
    """Import the splitter only where texts are cut: it is no part of the core."""
    try:
        from pgembed.chunking import Chunker
    except ImportError as exc:
        raise MissingExtra("encoder") from exc
    return Chunker


def _probe(encoder: Encoder) -> None:
    probe: str = getattr(encoder, "probe", PROBE)
    check_vectors(encoder.encode_documents([probe]), 1, encoder)


def _load_encoder(
    model: Model, settings: ServiceSettings, stored: StoredModel | None
) -> Encoder:
    if stored is not None:
        from pgembed.encoders.stored import stored_encoder

        return stored_encoder(
            model.model,
            stored,
            query_prompt=model.query_prompt,
            document_prompt=model.document_prompt,
        )
    return load_encoder(
        model.model,
        model.provider,
        revision=model.model_revision,
        dimensions=model.dimensions,
        query_prompt=model.query_prompt,
        document_prompt=model.document_prompt,
        settings=settings,
    )


def _differs(loaded: Model, wanted: Model) -> bool:
    """Whether a model must be loaded anew: the fingerprint alone does not count.

    (It changes from NULL to ours when we tell it, and from another to NULL when
    somebody accepts new weights; a slot that failed is tried again anyway.)
    """
    return (
        loaded.model,
        loaded.provider,
        loaded.dimensions,
        loaded.query_prompt,
        loaded.document_prompt,
        loaded.model_revision,
    ) != (
        wanted.model,
        wanted.provider,
        wanted.dimensions,
        wanted.query_prompt,
        wanted.document_prompt,
        wanted.model_revision,
    )
