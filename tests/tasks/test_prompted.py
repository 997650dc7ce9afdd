from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sensitivity.contracts import Prompts, Task
from sensitivity.errors import AnnotationError, ImageError, PredictionError, TaskError
from sensitivity.score import predict
from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.segmentations import decode_mask
from sensitivity.tasks.coco import COCO_METRICS, evaluate_coco
from sensitivity.tasks.prompted import IOU_METRICS, PromptedMasks
from sensitivity.tasks.segmenting import SamSegment
from sensitivity.zoo import efficientvit_sam
from tests.tasks.made_scenes import Scenes, annotation, predict_all, write_scenes


class BoxFiller(torch.nn.Module):
    """A promptable model that fills the box, or a square of 9 around the click; of three masks the second is best."""

    def __init__(self, shrink: int = 0) -> None:
        super().__init__()
        self.shrink = shrink
        self.encoded = 0
        self.prompts: list[dict[str, Any]] = []

    def preprocess(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image.copy())

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        self.encoded += 1
        return x

    def predict_masks(self, embedding: torch.Tensor, *, original_size: tuple[int, int], **prompts: Any) -> Any:
        self.prompts.append(prompts)
        points = prompts.get("points")
        boxes = prompts["boxes"] if points is None else np.concatenate([points[:, 0] - 4, points[:, 0] + 5], axis=1)
        logits = torch.full((len(boxes), 3, *original_size), -1.0)
        for logit, (left, top, right, bottom) in zip(logits, boxes.round().astype(int), strict=True):
            logit[1, max(top, 0) : bottom, max(left, 0) : right - self.shrink] = 1.0
        return logits, torch.tensor([[0.2, 0.9, 0.9]]).repeat(len(boxes), 1)


def make(scenes: Scenes, **settings: Any) -> PromptedMasks:
    return PromptedMasks(scenes.images, scenes.annotations, **settings)


def detections() -> list[dict[str, Any]]:
    return [
        {"image_id": 10, "category_id": 3, "bbox": [5, 5, 20, 30], "score": 0.8},
        {"image_id": 10, "category_id": 5, "bbox": [38, 12, 35, 40], "score": 0.3},
        {"image_id": 12, "category_id": 3, "bbox": [2, 0, 98, 100], "score": 0.9},
        {"image_id": 12, "category_id": 8, "bbox": [50, 50, 9, 9], "score": 0.7},
    ]


def test_boxes_prompt_perfect_masks_and_the_image_is_encoded_once(scenes: Scenes) -> None:
    model, task = BoxFiller(), make(scenes)
    assert isinstance(task, Task)
    predictions = predict_all(task, model)
    assert task.score(predictions) == dict.fromkeys(IOU_METRICS, 1.0)
    assert model.encoded == 2  # the second image has nothing to point at
    assert predictions[1]["masks"] == []
    assert decode_mask(predictions[0]["masks"][1]).sum() == 35 * 40
    np.testing.assert_array_equal(predictions[0]["areas"], [600, 1400])
    np.testing.assert_allclose(predictions[0]["predicted_ious"], [0.9, 0.9])


def test_the_means_are_those_of_a_short_count_in_numpy_on_real_annotations(shared_data: Path) -> None:
    folder = shared_data / "tiny_coco"
    file = folder / "annotations" / "instances_val2017.json"
    task = PromptedMasks(folder / "val2017", file, limit=12)
    scores = task.score(predict_all(task, BoxFiller(shrink=2)))

    annotations = CocoAnnotations.load(file, with_masks=True).first(12)
    results = []
    for record in annotations.annotations:
        truth = decode_mask(annotations.masks[record["id"]])
        left, top = round(record["bbox"][0]), round(record["bbox"][1])
        right, bottom = (
            round(record["bbox"][0] + record["bbox"][2]),
            round(record["bbox"][1] + record["bbox"][3]),
        )
        mask = np.zeros_like(truth)
        mask[top:bottom, left : right - 2] = True
        results.append((record["area"], np.count_nonzero(mask & truth) / (np.count_nonzero(mask | truth) + 1e-7)))
    area, iou = np.array(results).T
    expected = [iou, iou[area <= 1024], iou[(area >= 1024) & (area <= 9216)], iou[area >= 9216]]
    assert {annotation["iscrowd"] for annotation in annotations.annotations} == {0, 1}
    assert scores == pytest.approx(dict(zip(IOU_METRICS, map(np.mean, expected), strict=True)), abs=1e-7)
    assert len(set(scores.values())) == 4


def test_sizes_share_their_bounds_and_tiny_areas_do_not_count(tmp_path: Path) -> None:
    objects = [
        annotation(1, 10, 3, (0, 0, 32, 32)),
        annotation(2, 10, 3, (0, 0, 96, 96)),
        annotation(3, 10, 3, (50, 50, 10, 10), area=0.5),
    ]
    task = make(write_scenes(tmp_path, [(100, 100)], objects))
    scores = task.score({0: {"ious": np.array([0.25, 0.75]), "areas": np.array([32.0**2, 96.0**2])}})
    assert scores == {"mIoU": 0.5, "mIoU_small": 0.25, "mIoU_medium": 0.5, "mIoU_large": 0.75}
    assert len(predict_all(task, BoxFiller())[0]["ious"]) == 2


def test_a_mean_over_no_instance_is_nan(scenes: Scenes) -> None:
    task = make(scenes)
    predictions = predict_all(task, BoxFiller())
    assert math.isnan(task.score({1: predictions[1]})["mIoU"])
    assert math.isnan(task.score({0: predictions[0]})["mIoU_large"])
    with pytest.raises(TaskError, match="no predictions to score"):
        task.score({})


def test_points_are_the_most_interior_pixels(scenes: Scenes) -> None:
    model, task = BoxFiller(), make(scenes, prompts="points")
    predictions = predict_all(task, model, [0])
    [prompts] = model.prompts
    assert prompts["points"].tolist() == [[[14, 14]], [[57, 27]]]
    assert prompts["labels"].tolist() == [[1], [1]]
    np.testing.assert_allclose(predictions[0]["ious"], [81 / 600, 81 / 1400])


def test_a_mask_too_thin_for_a_pixel_is_clicked_in_the_middle_of_its_box(tmp_path: Path) -> None:
    thin = annotation(1, 10, 3, (10, 10, 4, 2), segmentation={"size": [20, 20], "counts": [400]})
    model = BoxFiller()
    predict_all(make(write_scenes(tmp_path, [(20, 20)], [thin]), prompts="points"), model)
    assert model.prompts[0]["points"].tolist() == [[[12, 11]]]


def test_boxes_of_a_detector_score_as_coco_masks(scenes: Scenes, tmp_path: Path) -> None:
    file = tmp_path / "detections.json"
    file.write_text(json.dumps(detections()))
    task = make(scenes, prompts=file)
    assert task.metric == "AP"
    predictions = predict_all(task, BoxFiller())
    masks = [mask for image in (0, 2) for mask in predictions[image]["masks"]]
    results = [{**detection, "segmentation": mask} for detection, mask in zip(detections(), masks, strict=True)]
    for result in results:
        del result["bbox"]
    scores = task.score(predictions)
    assert tuple(scores) == COCO_METRICS
    assert scores == pytest.approx(evaluate_coco(scenes.annotations, results, "segm"), nan_ok=True, abs=0)
    assert 0.3 < scores["AP"] < 1.0
    assert make(scenes, prompts=detections()).digest() == task.digest()
    assert make(scenes, prompts=detections()[:3]).digest() != task.digest()


def test_a_limit_leaves_the_detections_of_other_images_alone(scenes: Scenes) -> None:
    task = make(scenes, prompts=detections(), limit=1)
    assert len(task) == 1
    assert len(predict_all(task, BoxFiller())[0]["masks"]) == 2


def test_prompts_in_small_chunks_give_the_same_masks(scenes: Scenes) -> None:
    few_at_once, many = BoxFiller(), BoxFiller()
    few = predict_all(make(scenes, segment=SamSegment(prompts_at_once=1)), few_at_once)
    all_at_once = predict_all(make(scenes, batch_size=3), many)
    assert len(few_at_once.prompts) == 4
    assert len(many.prompts) == 2
    assert [few[image]["masks"] for image in range(3)] == [all_at_once[image]["masks"] for image in range(3)]
    assert few_at_once.prompts[0]["multimask_output"] is True


def test_a_real_sam_is_prompted_through_its_methods(scenes: Scenes) -> None:
    torch.manual_seed(0)
    sam = efficientvit_sam.build("tiny")
    calls: list[int] = []
    with sam.image_encoder.register_forward_hook(lambda *_: calls.append(1)):
        for prompts in ("boxes", "points"):
            task = make(scenes, prompts=prompts)
            scores = task.score(predict_all(task, sam))
            assert 0.0 <= scores["mIoU"] <= 1.0
    assert len(calls) == 4
    single = make(scenes, segment=SamSegment(multimask_output=False))
    assert predict_all(single, sam, [0])[0]["predicted_ious"].shape == (2,)


@pytest.mark.parametrize(
    ("prompts", "keys"), [("boxes", {"ious", "areas"}), ("detections", {"masks", "predicted_ious"})]
)
def test_what_a_sweep_keeps_scores_the_same(scenes: Scenes, prompts: str, keys: set[str]) -> None:
    task = make(scenes, prompts=detections() if prompts == "detections" else prompts)
    whole = predict_all(task, BoxFiller())
    part = {
        image: prediction
        for b in task.batches()
        for image, prediction in zip(b.images, predict(task, BoxFiller(), b), strict=True)
    }
    assert {key for prediction in part.values() for key in prediction} == keys | {"mask_boxes", "mask_areas"}
    assert task.score(part) == pytest.approx(task.score(whole), nan_ok=True, abs=0.0)


def test_an_encoder_alone_cannot_be_prompted(scenes: Scenes) -> None:
    with pytest.raises(TaskError, match="a Identity cannot be prompted: it has no preprocess, encode, predict_masks"):
        predict_all(make(scenes), torch.nn.Identity())


def test_segment_takes_any_model_to_masks(scenes: Scenes) -> None:
    def segment(model: str, image: np.ndarray, prompts: Prompts) -> tuple[Any, Any]:
        assert model == "any model"
        return np.ones((len(prompts), 1, *image.shape[:2]), bool), np.zeros((len(prompts), 1))

    predictions = predict_all(make(scenes, segment=segment), "any model")
    np.testing.assert_allclose(predictions[0]["ious"], [600 / 4800, 1400 / 4800])


@pytest.mark.parametrize(
    ("masks", "ious", "message"),
    [
        (np.ones((2, 1, 60, 79), bool), np.ones((2, 1)), r"masks \(2, 1, 60, 79\) .* for 2 prompts"),
        (np.ones((2, 2, 60, 80), bool), np.ones((2, 1)), r"masks \(2, 2, 60, 80\)"),
        (np.ones((2, 1, 60, 80), bool), np.full((2, 1), np.nan), "predicted IoU is NaN"),
        (torch.full((2, 1, 60, 80), torch.nan), np.ones((2, 1)), "mask logits are NaN"),
    ],
)
def test_masks_that_do_not_fit_are_refused(scenes: Scenes, masks: Any, ious: Any, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        predict_all(make(scenes, segment=lambda *_: (masks, ious)), None, [0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "circles"}, "prompts='circles' is unknown. Choose 'boxes', 'points' or"),
        ({"metric": "AP"}, "metric='AP' is unknown with these prompts. Choose one of mIoU"),
        ({"prompts": [], "metric": "mIoU"}, "metric='mIoU' is unknown with these prompts. Choose one of AP"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_unknown_settings_are_refused(scenes: Scenes, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(scenes, **settings)


def test_data_that_is_not_sound_is_refused(scenes: Scenes, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="prompts_at_once=0"):
        SamSegment(prompts_at_once=0)
    with pytest.raises(AnnotationError, match=r"no file at .*absent\.json"):
        make(scenes, prompts=tmp_path / "absent.json")
    with pytest.raises(PredictionError, match=r"detections\[0\] has the unknown image_id 99"):
        make(scenes, prompts=[{**detections()[0], "image_id": 99}])
    with pytest.raises(TaskError, match="no image at position 3"):
        make(scenes).batches([3])
    (scenes.images / "0.png").unlink()
    with pytest.raises(ImageError, match=r"1 of 3 images are not in .*0\.png"):
        make(scenes)


def test_the_digest_names_everything_that_scores_depend_on(scenes: Scenes) -> None:
    base = make(scenes).digest()
    assert make(scenes, name="other", batch_size=2).digest() == base
    others = [
        make(scenes, prompts="points"),
        make(scenes, metric="mIoU_small"),
        make(scenes, limit=2),
        make(scenes, segment=SamSegment(multimask_output=False)),
    ]
    assert len({base, *(other.digest() for other in others)}) == 5
    assert pickle.loads(pickle.dumps(make(scenes))).digest() == base
