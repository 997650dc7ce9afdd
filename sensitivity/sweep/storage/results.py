"""What a sweep has found so far, batch by batch, in a store."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from sensitivity.contracts import Store
from sensitivity.errors import StoreConflictError, StoreFormatError
from sensitivity.layers.trace.generators import RandomState
from sensitivity.records.results.note import Note, NoteKind, noted
from sensitivity.score import settled
from sensitivity.sweep.passes.forward import ReplayDiffersError, measured_again
from sensitivity.sweep.passes.predictions import same
from sensitivity.sweep.plan import Variant

Images = tuple[int, ...]
_BASELINE = "baseline"
_BEGUN = "begun"
_DISTRUSTED = "distrusted"


class Results:
    """Predictions of the unperturbed model and of every variant; of a variant only those that differ.

    The unit is one variant on one batch, so that a result counts once however often a sweep is stopped and resumed.
    Only batches that this run has counted are read: a store may hold more.

    Args:
        store: Where units are kept; what it holds already is not measured again.
        condense: Makes predictions that are scored the same of those for some images; None keeps them as they are.

    Attributes:
        seconds: Time that variants took in this run, by their digests.
    """

    def __init__(self, store: Store, condense: Callable[[dict[int, Any]], dict[int, Any]] | None = None) -> None:
        self.store = store
        self._condense = condense
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._batches: list[Images] = []
        self._images = 0  # in them
        self._batches_of: defaultdict[str, list[Images]] = defaultdict(list)  # by the variant's digest
        self._failures: dict[str, str] = {}  # digest of a variant to its reason
        self._expected: dict[int, Any] = {}  # what the unperturbed model predicts on the images so far

    @property
    def images(self) -> int:
        """How many images count so far."""
        return self._images

    @property
    def notes(self) -> list[Note]:
        """What a reader of the study should know, as noted by this run or an earlier one."""
        return [*self._numbered(), *([self._read_note(_DISTRUSTED)] if self.distrusted else [])]

    def keep_notes(self, notes: Sequence[Note]) -> None:
        """Keep notes that are new; those of an earlier run stay.

        Raises:
            ReplayDiffersError: If one says that replay is wrong, and units that may have been replayed are kept.
        """
        known = self._numbered()
        for note in notes:
            if note not in known:
                if note.kind.doubts_replay and _BEGUN in self.store and not self.distrusted:
                    raise ReplayDiffersError(measured_again(note))
                self._add_note(f"note {len(known)}", note)
                known.append(note)

    @property
    def distrusted(self) -> bool:
        """Whether replay was found to be wrong after some of its units were kept: they no longer count."""
        return _DISTRUSTED in self.store

    def distrust(self, note: Note) -> None:
        """Begin anew: no unit of a variant counts that was kept until now.

        Args:
            note: What a reader should know.
        """
        self._add_note(_DISTRUSTED, note)
        self._batches.clear()
        self._images = 0
        self._batches_of.clear()
        self._failures.clear()

    def _numbered(self) -> list[Note]:
        notes: list[Note] = []
        while f"note {len(notes)}" in self.store:
            notes.append(self._read_note(f"note {len(notes)}"))
        return notes

    def _add_note(self, key: str, note: Note) -> None:
        self.store.add(key, {"kind": str(note.kind), "text": note.text})

    def _read_note(self, key: str) -> Note:
        record = self.store.read(key)
        if isinstance(record, str):
            return noted(record)
        if (
            not isinstance(record, dict)
            or record.get("kind") not in list(NoteKind)
            or not isinstance(record.get("text"), str)
        ):
            raise _strange(key, record, "a note")
        return Note(NoteKind(record["kind"]), record["text"])

    def _unit(self, variant: str, images: Images) -> str:
        """Key of a variant, by its digest, on one batch."""
        return _unit(f"{variant} in full" if self.distrusted else variant, images)

    def random_state(self, now: RandomState) -> RandomState:
        """The state that every pass starts from: that of the generators when the first run on this store began.

        Args:
            now: The state when this run began.

        Raises:
            StoreFormatError: If what the store holds is no such state.
        """
        plain = {"python": now.python, "numpy": dict(now.numpy), "torch": now.torch.numpy()}
        self.store.add("random state", plain)
        return _random_state(self.store.read("random state"), now)

    def missing(self, images: Images, variants: Sequence[Variant]) -> list[Variant]:
        """The variants that have yet to run on a batch, each once; none that failed."""
        variants = list(dict.fromkeys(variants))
        for variant in variants:
            failure = "failed " + self._unit(variant.digest, images)
            if failure in self.store and variant.digest not in self._failures:
                self._failures[variant.digest] = str(self.store.read(failure))
        running = [variant for variant in variants if variant.digest not in self._failures]
        return [variant for variant in running if self._unit(variant.digest, images) not in self.store]

    def count(self, images: Images, variants: Sequence[Variant]) -> None:
        """From now on a batch counts for these variants, as far as they have run on it."""
        self._batches.append(images)
        self._images += len(images)
        for digest in dict.fromkeys(variant.digest for variant in variants):
            if self._unit(digest, images) in self.store:
                self._batches_of[digest].append(images)

    def has_baseline(self, images: Images) -> bool:
        """Whether the unperturbed model has run on a batch."""
        return _unit(_BASELINE, images) in self.store

    def read_baseline(self, images: Images) -> None:
        """Take what the store has of the unperturbed model on a batch, in the place of another pass."""
        self._expected |= self._read_unit(_unit(_BASELINE, images), images)

    def keep_baseline(self, images: Images, predictions: Sequence[Any]) -> None:
        """Keep what the unperturbed model predicts on a batch.

        Raises:
            StoreConflictError: If an earlier run kept something else.
        """
        key = _unit(_BASELINE, images)
        by_image = dict(zip(images, settled(predictions), strict=True))
        self._expected |= by_image
        if key not in self.store:
            self.store.add(key, by_image)
        elif not same(self.store.read(key), by_image):
            raise StoreConflictError(
                f"the unperturbed model predicts something else on the images {_shown(images)} than when the store was "
                "written: its code, the machine or the number of threads changed, or it is not deterministic. Give "
                "this run a store of its own."
            )

    def keep(self, variant: Variant, images: Images, predictions: Sequence[Any]) -> None:
        """Keep what a variant predicts on a batch whose baseline was kept by this run."""
        predicted = zip(images, settled(predictions), strict=True)
        changed = {image: prediction for image, prediction in predicted if not same(prediction, self._expected[image])}
        if self._condense is not None:
            changed = self._condense(changed)
        self.store.add(_BEGUN, True)
        self.store.add(self._unit(variant.digest, images), changed)

    def keep_failure(self, variant: Variant, images: Images, reason: str, *, lasting: bool = True) -> None:
        """Keep why a variant failed; it does not run again on these batches.

        Args:
            variant: The variant.
            images: The batch that it failed on.
            reason: Why.
            lasting: Whether it would fail again; otherwise the store is not told, and a later run tries again.
        """
        self._failures[variant.digest] = reason
        if lasting:
            self.store.add("failed " + self._unit(variant.digest, images), reason)

    def failure(self, variant: Variant) -> str | None:
        """Why a variant failed; None if it did not."""
        return self._failures.get(variant.digest)

    def images_of(self, variant: Variant) -> Images:
        """The images that count for a variant, in the order visited."""
        return tuple(image for images in self._batches_of[variant.digest] for image in images)

    def expected(self, images: Sequence[int] | None = None) -> dict[int, Any]:
        """What the unperturbed model predicts on some images that count; None for all of them."""
        if images is None:
            images = [image for batch in self._batches for image in batch]
        if not all(image in self._expected for image in images):  # measured by an earlier run
            for batch in self._batches:
                if not all(image in self._expected for image in batch):
                    self._expected |= self._read_unit(_unit(_BASELINE, batch), batch)
        return {image: self._expected[image] for image in images}

    def changed(self, variant: Variant) -> dict[int, Any]:
        """What a variant predicts on its images where that differs from the baseline."""
        changed: dict[int, Any] = {}
        for images in self._batches_of[variant.digest]:
            changed |= self.changed_on(variant, images)
        return changed

    def changed_on(self, variant: Variant, images: Images) -> dict[int, Any]:
        """The same on one batch that it ran on."""
        return self._read_unit(self._unit(variant.digest, images), images)

    def _read_unit(self, key: str, images: Images) -> dict[int, Any]:
        """Image to prediction, as kept under a key.

        Raises:
            StoreFormatError: If something else is kept there.
        """
        record = self.store.read(key)
        if not isinstance(record, dict) or not record.keys() <= set(images):
            raise _strange(key, record, f"predictions on the images {_shown(images)}")
        return record


def _unit(digest: str, images: Images) -> str:
    """Key of one variant on one batch; another division into batches may give other bits, and is another key."""
    return f"{digest} {hashlib.sha256(repr(images).encode()).hexdigest()[:16]}"


def _strange(key: str, record: object, wanted: str) -> StoreFormatError:
    return StoreFormatError(
        f"the store's record {key!r} holds {record!r:.80}, not {wanted}. Give this run a store of its own."
    )


def _shown(images: Images) -> str:
    return ", ".join(map(str, images[:4])) + (" ..." if len(images) > 4 else "")


def _random_state(stored: Any, now: RandomState) -> RandomState:
    """The state that a store holds; stores of older versions hold that of torch alone.

    Raises:
        StoreFormatError: If it is none.
    """
    try:
        states = stored if isinstance(stored, dict) else {"python": now.python, "numpy": now.numpy, "torch": stored}
        random.Random().setstate(states["python"])
        np.random.RandomState().set_state(states["numpy"])
        state = torch.from_numpy(states["torch"])
        torch.Generator().set_state(state)
    except (KeyError, TypeError, RuntimeError, ValueError, OverflowError) as error:
        raise StoreFormatError(
            f"the store's record 'random state' is no state of generators ({error!r:.100}). Give this run a store of "
            "its own."
        ) from error
    return RandomState(states["python"], states["numpy"], state)
