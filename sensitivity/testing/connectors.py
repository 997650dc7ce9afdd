"""What every connector must do, as a class of tests to inherit.

Give the test file the fixture ``network``, which makes a network of the family, with few classes and small inputs, and
name the subclass ``Test...``; pytest runs the rest::

    @pytest.fixture(scope="module")
    def network(): return my_detector(classes=3)

    class TestMyConnector(ConnectorSuite):
        settings = {"image_size": 64}       # the family's own, as sv.connect takes them
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sensitivity as sv
from sensitivity.contracts import Connected, Prompts, Purpose
from sensitivity.errors import TaskError

Size: TypeAlias = tuple[int, int]

SIZES: tuple[Size, ...] = ((60, 84), (84, 60), (72, 72))
"""(height, width) of the images that a connector is tried on, in pixels."""
MOST = 0.95
"""The part of a prediction that has to agree where rounding may decide the rest."""
POST_PROCESSING = frozenset({"NonMaxSuppression", "RoiAlign", "If", "Loop", "Scan"})
"""Operators of ONNX that belong behind the raw heads."""


class ConnectorSuite:
    """The tests; the file of the subclass gives the fixture ``network``.

    Attributes:
        settings: The family's own settings, for ``sv.connect``.
        engine: Name of the engine that the raw heads are deployed to; None where no engine can be had.
        tolerance: Largest difference of a number of a prediction between batches, and of an output of an engine,
            relative and absolute.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    engine: ClassVar[str | None] = "openvino"
    tolerance: ClassVar[float] = 1e-3

    def test_it_gives_what_the_contract_asks_for(self, network: Any) -> None:
        """Every field is of the type and words of the contract."""
        connected = self._connected(network)
        assert isinstance(connected, Connected)
        assert connected.family == connected.family.strip().lower() != ""
        assert connected.purpose in list(Purpose)
        assert isinstance(connected.model, nn.Module)
        assert callable(connected.preprocess)
        assert connected.purpose is Purpose.CLASSIFICATION or callable(connected.adapter)
        assert connected.classes is None or all(isinstance(name, str) for name in connected.classes)
        assert connected.batch_size >= 1
        assert connected.last_label is None or connected.last_label >= connected.first_label >= 0

    def test_its_division_names_every_layer(self, network: Any) -> None:
        """Where the family has names of its own, the network can be wrapped with them."""
        connected = self._connected(network)
        if connected.naming is not None:
            paths = [path for path, module in connected.model.named_modules() if isinstance(module, nn.Conv2d)]
            assert len(connected.naming(paths)) == len(paths)
            assert any(connected.naming(paths))

    def test_the_family_is_found_by_the_class_of_the_network(self, network: Any) -> None:
        """``sv.connect(model)`` needs no ``family=``."""
        connected = self._connected(network)
        assert self._connected(network, family=connected.family).family == connected.family

    def test_the_network_is_not_changed_but_for_its_mode(self, network: Any) -> None:
        """Weights and buffers stay what they are, and every module is in evaluation mode."""
        model = self._connected(network).model
        before = copy.deepcopy(model.state_dict())
        self._predictions(network)
        after = model.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert not any(module.training for module in model.modules())

    def test_an_image_becomes_one_float_tensor(self, network: Any) -> None:
        """Of the same bits each time, and the image is not changed."""
        preprocess = self._connected(network).preprocess
        for image in _images():
            untouched = image.copy()
            first, second = preprocess(image), preprocess(image)
            assert isinstance(first, Tensor)
            assert first.dtype == torch.float32
            assert first.ndim == 3
            assert torch.equal(first, second)
            np.testing.assert_array_equal(image, untouched)

    def test_preprocessing_looks_at_the_pixels_and_their_channels(self, network: Any) -> None:
        """Another image, or one whose red and blue are exchanged, gives another tensor."""
        preprocess = self._connected(network).preprocess
        image = _images()[0]
        for other in (255 - image, image[..., ::-1].copy()):
            assert not torch.equal(preprocess(image), preprocess(other))

    def test_the_example_is_one_image_as_it_is_preprocessed(self, network: Any) -> None:
        """The model takes it."""
        connected = self._connected(network)
        example = connected.example_inputs
        assert example.dtype == torch.float32
        assert example.ndim == 4
        assert len(example) == 1
        assert example.shape[1] == len(connected.preprocess(_images()[0]))
        assert torch.equal(example, self._connected(network).example_inputs), "make the example with a seed"
        with torch.no_grad():
            connected.model(example)

    def test_images_of_several_sizes_fit_into_one_batch(self, network: Any) -> None:
        """Where ``batch_size`` is more than 1."""
        connected = self._connected(network)
        shapes = {tuple(connected.preprocess(image).shape) for image in _images()}
        assert connected.batch_size == 1 or len(shapes) == 1

    def test_there_is_one_prediction_for_each_image_in_its_own_pixels(self, network: Any) -> None:
        """Boxes, masks and label maps have the coordinates of the image, whatever it was resized to."""
        purpose = self._connected(network).purpose
        predictions = self._predictions(network)
        assert len(predictions) == len(SIZES)
        for prediction, size in zip(predictions, SIZES, strict=True):
            _check_form(prediction, size, purpose)

    def test_labels_are_those_that_it_tells(self, network: Any) -> None:
        """From ``first_label`` to ``last_label``, and each has its name where there are ``classes``."""
        connected = self._connected(network)
        if connected.purpose not in (Purpose.DETECTION, Purpose.INSTANCES, Purpose.KEYPOINTS):
            return
        labels = np.concatenate([np.asarray(prediction["labels"]) for prediction in self._predictions(network)])
        assert len(labels), "give the suite a network that finds something in noise"
        assert labels.min() >= connected.first_label
        assert connected.last_label is None or labels.max() <= connected.last_label
        assert connected.classes is None or labels.max() < len(connected.classes)

    def test_predictions_do_not_depend_on_the_batch(self, network: Any) -> None:
        """Nor on what was predicted before."""
        connected = self._connected(network)
        if connected.batch_size > 1:
            _assert_agree(self._predictions(network, at_once=True), self._predictions(network), self.tolerance)

    def test_an_adapter_leaves_the_outputs_as_they_are(self, network: Any) -> None:
        """They are recorded, and used again for other perturbations."""
        connected = self._connected(network)
        if connected.adapter is None or connected.purpose is Purpose.PROMPTED:  # which runs the model by itself
            return
        image = _images()[0]
        with torch.no_grad():
            outputs = connected.model(connected.preprocess(image)[None])
            before = copy.deepcopy(_tensors(outputs))
            connected.adapter(outputs, [image.shape[:2]])
        for output, original in zip(_tensors(outputs), before, strict=True):
            assert torch.equal(output, original)

    def test_it_can_be_sent_to_a_worker(self, network: Any) -> None:
        """Executors pickle tasks, which hold the preprocessing and the adapter."""
        connected = self._connected(network)
        again = pickle.loads(pickle.dumps((connected.preprocess, connected.adapter)))
        image = _images()[0]
        assert torch.equal(again[0](image), connected.preprocess(image))

    def test_its_parts_say_what_they_do_the_same_each_time(self, network: Any) -> None:
        """A task's digest is made of the text of its parts, so that a store knows its results again."""
        first, second = self._connected(network), self._connected(network)
        for text, again in (
            (repr(first.preprocess), repr(second.preprocess)),
            (repr(first.adapter), repr(second.adapter)),
        ):
            assert text == again
            assert " at 0x" not in text, "give the class a __repr__ of its settings, as a dataclass has"

    def test_raw_heads_end_at_submodules_of_the_network(self, network: Any) -> None:
        """Each of ``parts`` is one, none lies inside another, and together they hold layers."""
        connected = self._connected(network)
        if connected.parts is None:
            return
        modules = dict(connected.model.named_modules())
        assert connected.parts, "parts=() exports nothing; None exports the whole model"
        for part in connected.parts:
            assert part in modules, f"the network has no submodule {part!r}"
            assert not [other for other in connected.parts if part.startswith(f"{other}.")]

    def test_an_engine_runs_the_raw_heads_and_the_predictions_are_the_same(self, network: Any) -> None:
        """The graphs have no operator of the post-processing, which goes on from the engine's outputs."""
        if self.engine is None:
            return
        connected = self._connected(network)
        inputs = [connected.preprocess(image)[None] for image in _images()]
        wrapped = sv.wrap(connected.model, inputs[0])
        deployed = wrapped.deploy(sv.Scheme(), self.engine, parts=connected.parts)
        assert connected.parts is None or {part.path for part in deployed.parts} == set(connected.parts)
        for part in deployed.parts:
            behind = POST_PROCESSING & {node.op_type for node in part.part.graph.graph.node}
            assert not behind, f"the graph of {part.path or 'the whole model'} holds {sorted(behind)}"
        with torch.no_grad():
            expected, of_engine = (_predicted(connected, model, _images()[:1]) for model in (connected.model, deployed))
        _assert_agree(of_engine, expected, self.tolerance)

    def test_a_setting_that_the_family_has_not_is_refused(self, network: Any) -> None:
        """In a sentence with those that it has."""
        assert "no_such_setting" in _refused(lambda: self._connected(network, no_such_setting=1))

    def _connected(self, network: Any, **settings: Any) -> Connected:
        return sv.connect(network, **{**self.settings, **settings})

    def _predictions(self, network: Any, *, at_once: bool = False) -> list[Any]:
        connected = self._connected(network)
        batches = [_images()] if at_once else [[image] for image in _images()]
        with torch.no_grad():
            return [prediction for batch in batches for prediction in _predicted(connected, connected.model, batch)]


def _refused(call: Callable[[], object]) -> str:
    """The message of the ``TaskError`` that a call must raise."""
    try:
        call()
    except TaskError as error:
        return str(error)
    raise AssertionError("a TaskError was expected, and nothing was raised")


def _images() -> list[Any]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


def _predicted(connected: Connected, model: Any, images: Sequence[Any]) -> list[Any]:
    """One prediction for each image of a batch."""
    if connected.purpose is Purpose.PROMPTED:
        return [_prompted(connected, model, image) for image in images]
    outputs = model(torch.stack([connected.preprocess(image) for image in images]))
    return _adapted(connected, outputs, [image.shape[:2] for image in images])


def _prompted(connected: Connected, model: Any, image: Any) -> dict[str, Any]:
    """The best mask of each of two boxes, with its predicted IoU."""
    assert connected.adapter is not None
    height, width = image.shape[:2]
    boxes = np.array([[1.0, 2.0, width / 2, height / 2], [width / 3, height / 4, width - 2.0, height - 1.0]])
    masks, ious = (np.asarray(values) for values in connected.adapter(model, image, Prompts(boxes=boxes)))
    assert masks.shape == (*ious.shape, height, width)
    best = ious.argmax(1)
    chosen = masks[[0, 1], best]
    return {
        "masks": chosen if chosen.dtype == bool else chosen > 0,
        "scores": ious[[0, 1], best],
        "labels": np.zeros(2, np.int64),
    }


def _adapted(connected: Connected, outputs: Any, sizes: Sequence[Size]) -> list[Any]:
    """One prediction for each image; of a classifier its scores."""
    if connected.purpose is not Purpose.CLASSIFICATION:
        assert connected.adapter is not None
        return list(connected.adapter(outputs, list(sizes)))
    scores = connected.adapter(outputs) if connected.adapter else outputs
    if isinstance(scores, Mapping) and "logits" in scores:
        scores = scores["logits"]
    return list(getattr(scores, "logits", scores))


def _check_form(prediction: Any, size: Size, purpose: Purpose) -> None:
    """Nothing, if a prediction has the form that tasks of this purpose take."""
    height, width = size
    if purpose is Purpose.CLASSIFICATION:
        assert np.asarray(prediction).ndim == 1, "scores of an image are (classes,)"
        return
    if purpose is Purpose.SEMANTIC:
        label_map = np.asarray(prediction)
        assert label_map.shape == size
        assert label_map.dtype.kind in "iu"
        return
    count = len(prediction["scores"])
    assert np.asarray(prediction["labels"]).shape == np.asarray(prediction["scores"]).shape == (count,)
    if purpose is Purpose.KEYPOINTS:
        assert np.asarray(prediction["keypoints"]).ndim == 3 or not count
    if purpose in (Purpose.INSTANCES, Purpose.PROMPTED):
        assert np.asarray(prediction["masks"]).shape == (count, height, width) or not count
        return
    boxes = np.asarray(prediction["boxes"], np.float64).reshape(-1, 4)
    assert len(boxes) == count
    assert (boxes[:, 2:] >= boxes[:, :2] - 1).all(), "boxes are x1, y1, x2, y2"
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centres > -1) & (centres < np.array([width, height]) + 1)).all(1)
    assert inside.mean() > MOST, "boxes are in pixels of the original image"


def _assert_agree(some: Sequence[Any], others: Sequence[Any], tolerance: float) -> None:
    """Nothing, if nearly all objects, pixels or scores of some predictions are those of the others.

    Not all need be: where two scores are as good as equal, rounding decides which one is kept.
    """
    assert len(some) == len(others)
    for first, second in zip(some, others, strict=True):
        share = (
            _share(first, second, tolerance) if isinstance(first, Mapping) else _close(first, second, tolerance).mean()
        )
        assert share > MOST, f"{share:.0%} of a prediction are the same"


def _share(first: Mapping[str, Any], second: Mapping[str, Any], tolerance: float) -> float:
    """The part of the objects of one prediction that the other has too."""
    if not len(first["scores"]) or not len(second["scores"]):
        return float(len(first["scores"]) == len(second["scores"]))
    same = np.asarray(first["labels"])[:, None] == np.asarray(second["labels"])[None]
    for key in ("scores", "boxes", "masks", "keypoints"):
        if key in first:
            rows = [
                np.asarray(values[key], np.float64).reshape(len(values["scores"]), -1) for values in (first, second)
            ]
            close = _close(rows[0][:, None], rows[1][None], tolerance)
            same &= close.mean(-1) > MOST if key == "masks" else close.all(-1)
    return float(same.any(1).mean())


def _close(first: Any, second: Any, tolerance: float) -> Any:
    return np.isclose(np.asarray(first), np.asarray(second), rtol=tolerance, atol=tolerance)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf.clone() for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
