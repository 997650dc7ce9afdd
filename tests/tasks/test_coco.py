from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sensitivity.contracts import Task
from sensitivity.errors import AnnotationError, ImageError, PredictionError, TaskError
from sensitivity.tasks.coco import COCO_METRICS, CocoDetection, evaluate_coco
from sensitivity.tasks.datasets import Resize
from tests.tasks.made_scenes import (
    Recall,
    Scenes,
    adapter,
    annotation,
    predict_all,
    truth_as_output,
    write_scenes,
)

SQUARE = Resize(height=8, width=8)


def make(scenes: Scenes, **settings: Any) -> CocoDetection:
    settings = {"preprocess": SQUARE, "adapter": adapter, "labels": "category_id", **settings}
    return CocoDetection(scenes.images, scenes.annotations, **settings)


def noisy_results(scenes: Scenes, seed: int = 0) -> list[dict[str, Any]]:
    """Shaken boxes, false ones and misses."""
    draw = np.random.default_rng(seed)
    plain = json.loads(scenes.annotations.read_text())
    results = []
    for record in plain["annotations"]:
        for _ in range(3):
            box = (np.array(record["bbox"]) + draw.normal(0, 4, 4)).clip(1).tolist()
            category = int(draw.choice([record["category_id"], 3, 5, 8]))
            score = float(draw.random())
            results.append({"image_id": record["image_id"], "category_id": category, "bbox": box, "score": score})
    return results


def pycocotools_says(
    annotations: Path, results: list[dict[str, Any]], iou_type: str, images: list[int] | None = None
) -> dict[str, float]:
    coco = COCO(str(annotations))
    evaluation = COCOeval(coco, coco.loadRes([dict(result) for result in results]), iou_type)
    if images is not None:
        evaluation.params.imgIds = images
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(COCO_METRICS, evaluation.stats.tolist(), strict=True))


RECORDED = 1e-12
"""How far numbers may be from those that were recorded with another numpy: its means add in another order."""


def assert_same(scores: dict[str, float], expected: dict[str, float], *, within: float = 0.0) -> None:
    assert scores.keys() == expected.keys()
    for metric, number in expected.items():
        if number == -1:
            assert math.isnan(scores[metric]), metric
        else:
            assert abs(scores[metric] - number) <= within, metric


@pytest.mark.parametrize(
    ("results", "iou_type", "use_categories", "expected"),
    [
        ("fakebbox", "bbox", True, "bbox"),
        ("fakesegm", "segm", True, "segm"),
        ("fakesegm", "segm", False, "segm_useCats0"),
    ],
)
def test_the_fake_results_of_cocoapi_score_as_in_pycocotools(
    shared_data: Path, results: str, iou_type: str, use_categories: bool, expected: str
) -> None:
    folder = shared_data / "coco_fake100"
    scores = evaluate_coco(
        folder / "instances_val2014_100.json",
        folder / f"instances_val2014_{results}100_results.json",
        iou_type,
        use_categories=use_categories,
    )
    assert_same(scores, json.loads((folder / "expected_pycocotools.json").read_text())[expected], within=RECORDED)


def test_a_subset_of_images_scores_as_in_pycocotools(shared_data: Path) -> None:
    folder = shared_data / "coco_fake100"
    annotations = folder / "instances_val2014_100.json"
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    images = [image["id"] for image in json.loads(annotations.read_text())["images"]][10:17]
    scores = evaluate_coco(annotations, results, images=images)
    assert_same(scores, pycocotools_says(annotations, results, "bbox", images))
    assert scores == evaluate_coco(annotations, results, images=[*images, images[0]])
    assert scores["AP"] != evaluate_coco(annotations, results)["AP"]


def test_absent_categories_and_sizes_are_nan_where_pycocotools_says_minus_one(scenes: Scenes) -> None:
    results = noisy_results(scenes)
    scores = evaluate_coco(scenes.annotations, results, images=[10])
    assert_same(scores, pycocotools_says(scenes.annotations, results, "bbox", [10]))
    assert math.isnan(scores["APl"])
    assert not math.isnan(scores["AP"])


def test_crowd_regions_are_neither_found_nor_missed(tmp_path: Path) -> None:
    crowd = {"size": [60, 80], "counts": [0, 60 * 40, 60 * 40]}
    objects = [
        annotation(1, 10, 3, (45, 5, 20, 30)),
        annotation(2, 10, 3, (0, 0, 40, 60), iscrowd=1, segmentation=crowd),
    ]
    scenes = write_scenes(tmp_path, [(60, 80)], objects)
    inside = [[2, 2, 10, 10], [20, 30, 15, 25], [45, 5, 20, 30]]
    results = [{"image_id": 10, "category_id": 3, "bbox": box, "score": 0.9 - n / 10} for n, box in enumerate(inside)]
    scores = evaluate_coco(scenes.annotations, results)
    assert_same(scores, pycocotools_says(scenes.annotations, results, "bbox"))
    assert scores["AP"] == pytest.approx(1.0, abs=1e-12)


def test_perfect_boxes_score_one_even_if_annotation_ids_start_at_zero(scenes: Scenes) -> None:
    def from_zero(plain: dict[str, Any]) -> None:
        for number, record in enumerate(plain["annotations"]):
            record["id"] = number

    scenes.edit(from_zero)
    perfect = [
        {**{key: annotation[key] for key in ("image_id", "category_id", "bbox")}, "score": 1.0}
        for annotation in json.loads(scenes.annotations.read_text())["annotations"]
    ]
    assert evaluate_coco(scenes.annotations, perfect)["AP"] == pytest.approx(1.0, abs=1e-12)
    assert pycocotools_says(scenes.annotations, perfect, "bbox")["AP"] < 0.8  # the trap is real


def test_the_area_of_a_mask_is_its_pixels_even_if_the_result_has_a_box(scenes: Scenes) -> None:
    results = [
        {
            "image_id": 12,
            "category_id": 3,
            "score": 1.0,
            "bbox": [0, 0, 1, 1],
            "segmentation": annotation["segmentation"],
        }
        for annotation in json.loads((scenes.annotations).read_text())["annotations"][2:3]
    ]
    assert evaluate_coco(scenes.annotations, results, "segm", images=[12])["APl"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, r"detections\[1\] has the unknown image_id 99"),
        ({"category_id": 4}, r"detections\[1\] has the unknown category_id 4"),
        ({"score": float("nan")}, r"detections\[1\] has the score nan; expected a finite number"),
        ({"bbox": [0, 0, float("inf"), 1]}, r"detections\[1\] has the bbox .*all of them finite"),
        ({"bbox": [0, 0, 1]}, r"detections\[1\] has the bbox \[0, 0, 1\]; expected x, y, width, height"),
    ],
)
def test_results_that_cannot_be_scored_are_refused_with_the_place(
    scenes: Scenes, change: dict[str, Any], message: str
) -> None:
    results = noisy_results(scenes)
    results[1].update(change)
    with pytest.raises(PredictionError, match=message):
        evaluate_coco(scenes.annotations, results)


def test_results_of_a_wrong_form_are_refused(scenes: Scenes, tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"detections\[0\] lacks \['segmentation'\]"):
        evaluate_coco(scenes.annotations, noisy_results(scenes), "segm")
    with pytest.raises(PredictionError, match="detections are a dict; expected a list"):
        evaluate_coco(scenes.annotations, scenes.annotations)
    with pytest.raises(AnnotationError, match=r"no file at .*results.json"):
        evaluate_coco(scenes.annotations, tmp_path / "results.json")
    with pytest.raises(TaskError, match=r"images= has ids that the annotations do not know: \[9\]"):
        evaluate_coco(scenes.annotations, [], images=[9, 10])
    with pytest.raises(TaskError, match=r"images= is empty"):
        evaluate_coco(scenes.annotations, [], images=[])
    with pytest.raises(TaskError, match="iou_type='keypoints' is unknown"):
        evaluate_coco(scenes.annotations, [], "keypoints")


def test_nothing_is_printed(scenes: Scenes, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_coco(scenes.annotations, noisy_results(scenes))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_a_perfect_model_scores_one_and_a_silent_one_zero(scenes: Scenes, iou_type: str) -> None:
    task = make(scenes, iou_type=iou_type)
    assert isinstance(task, Task)
    assert len(task) == 3
    scores = task.score(predict_all(task, Recall(truth_as_output(scenes))))
    assert tuple(scores) == COCO_METRICS
    assert scores["AP"] == pytest.approx(1.0, abs=1e-12)
    nothing = {"boxes": torch.zeros(0, 4), "scores": [], "labels": [], "masks": torch.zeros(0, 1, 1).bool()}
    silent = task.score(predict_all(task, Recall([nothing] * 3)))
    assert silent["AP"] == silent["AR100"] == 0.0


def test_a_task_scores_as_pycocotools_does_with_the_same_results(scenes: Scenes) -> None:
    results = noisy_results(scenes)
    outputs: list[Any] = []
    for image in (10, 11, 12):
        of_image = [result for result in results if result["image_id"] == image]
        boxes = np.array([result["bbox"] for result in of_image]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        numbers = {
            key: np.array([result[name] for result in of_image])
            for key, name in (("scores", "score"), ("labels", "category_id"))
        }
        outputs.append({"boxes": boxes, **numbers})
    task = make(scenes)
    scores = task.score(predict_all(task, Recall(outputs)))
    expected = pycocotools_says(scenes.annotations, results, "bbox")
    assert scores == pytest.approx({**expected}, abs=1e-12)


def test_predictions_are_plain_arrays_and_masks_are_rle(scenes: Scenes) -> None:
    outputs = truth_as_output(scenes)
    boxes = predict_all(make(scenes), Recall(outputs))[0]
    assert set(boxes) == {"boxes", "scores", "labels"}
    assert boxes["boxes"].tolist() == [[5, 5, 25, 35], [40, 10, 75, 50]]
    assert boxes["labels"].tolist() == [3, 5]
    masks = predict_all(make(scenes, iou_type="segm"), Recall(outputs))[0]
    assert set(masks) == {"masks", "scores", "labels"}
    assert json.loads(json.dumps(masks["masks"])) == masks["masks"]
    as_rle = [{**output, "masks": mask["masks"]} for output, mask in zip(outputs, [masks, *outputs[1:]], strict=True)]
    assert predict_all(make(scenes, iou_type="segm"), Recall(as_rle))[0]["masks"] == masks["masks"]


def test_scores_do_not_depend_on_the_batch_size_or_the_order(scenes: Scenes) -> None:
    model = Recall(truth_as_output(scenes))
    single, eight = make(scenes, batch_size=1), make(scenes, batch_size=8)
    assert [len(batch.images) for batch in single.batches()] == [1, 1, 1]
    assert [len(batch.images) for batch in eight.batches()] == [3]
    assert single.score(predict_all(single, model)) == eight.score(predict_all(eight, model, [2, 0, 1]))
    assert single.digest() == eight.digest()


def test_the_metric_is_over_the_images_predicted_alone(scenes: Scenes) -> None:
    outputs = truth_as_output(scenes)
    outputs[2] = {key: value[:0] for key, value in outputs[2].items()}
    task = make(scenes)
    predictions = predict_all(task, Recall(outputs))
    assert task.score(predictions)["AP"] < 0.8
    assert task.score({0: predictions[0]})["AP"] == pytest.approx(1.0, abs=1e-12)
    assert math.isnan(task.score({1: predictions[1]})["AP"])
    with pytest.raises(TaskError, match="no predictions to score"):
        task.score({})
    with pytest.raises(TaskError, match="no image at position 3"):
        task.score({3: predictions[0]})


@pytest.mark.parametrize(("labels", "numbers"), [("index", [0, 1]), ("category_id", [3, 5]), ([8, 5, 3], [2, 1])])
def test_labels_mean_what_the_setting_says(scenes: Scenes, labels: Any, numbers: list[int]) -> None:
    outputs = truth_as_output(scenes)
    outputs[0]["labels"] = torch.tensor(numbers)
    task = make(scenes, labels=labels)
    [prediction] = predict_all(task, Recall(outputs), [0]).values()
    assert prediction["labels"].tolist() == [3, 5]


def test_limit_takes_the_first_images(scenes: Scenes) -> None:
    task = make(scenes, limit=2)
    assert len(task) == 2
    assert task.digest() != make(scenes).digest()
    with pytest.raises(TaskError, match="limit=0"):
        make(scenes, limit=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda output: output.pop("scores"), r"lacks \['scores'\]"),
        (lambda output: output.pop("boxes"), r"lacks \['boxes'\]"),
        (lambda output: output.update(labels=torch.tensor([3, 4])), r"labels \[4\], which are no category.* 3 to 8"),
        (lambda output: output.update(labels=torch.tensor([3])), "2 scores, 1 labels and 2 boxes"),
        (lambda output: output.update(boxes=torch.zeros(2, 5)), r"boxes .* shape \(2, 5\); expected \(N, 4\)"),
        (lambda output: output.update(scores=torch.zeros(2, 1)), r"scores .* shape \(2, 1\); expected \(N,\)"),
        (lambda output: output.update(scores=torch.tensor([1, float("nan")])), "1 numbers among the scores .* NaN"),
        (lambda output: output["boxes"].fill_(float("inf")), "8 numbers among the boxes .* infinite"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused(scenes: Scenes, change: Any, message: str) -> None:
    outputs = truth_as_output(scenes)
    change(outputs[0])
    with pytest.raises(PredictionError, match=message):
        predict_all(make(scenes), Recall(outputs))


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.zeros(2, 60, 80), r"masks .* float32 \(2, 60, 80\); expected bool"),
        (torch.zeros(2, 30, 40, dtype=torch.bool), r"\(height, width\) \(30, 40\), the image has \(60, 80\)"),
        (torch.zeros(1, 60, 80, dtype=torch.bool), "2 scores, 2 labels and 1 masks"),
    ],
)
def test_masks_that_do_not_fit_are_refused(scenes: Scenes, masks: torch.Tensor, message: str) -> None:
    outputs = truth_as_output(scenes)
    outputs[0]["masks"] = masks
    with pytest.raises(PredictionError, match=message):
        predict_all(make(scenes, iou_type="segm"), Recall(outputs))


def test_an_adapter_must_answer_for_every_image(scenes: Scenes) -> None:
    with pytest.raises(PredictionError, match="1 predictions for 3 images"):
        predict_all(make(scenes, adapter=lambda outputs, sizes: outputs[:1]), Recall(truth_as_output(scenes)))


def test_an_adapter_is_told_the_original_sizes(scenes: Scenes) -> None:
    seen: list[Any] = []

    def look(outputs: list[Any], sizes: list[tuple[int, int]]) -> list[Any]:
        seen.extend(sizes)
        return outputs

    predict_all(make(scenes, adapter=look), Recall(truth_as_output(scenes)))
    assert seen == [(60, 80), (50, 50), (120, 100)]


def test_a_box_turned_inside_out_is_a_false_positive(scenes: Scenes) -> None:
    outputs = truth_as_output(scenes)
    turned = {"boxes": torch.tensor([[30.0, 30.0, 10.0, 40.0]]), "scores": [0.99], "labels": [3]}
    outputs[0] = {key: np.concatenate([np.asarray(turned[key]), np.asarray(outputs[0][key])]) for key in turned}
    task = make(scenes)
    assert task.score(predict_all(task, Recall(outputs)))["AP"] < 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iou_type": "keypoints"}, "iou_type='keypoints' is unknown"),
        ({"metric": "mAP"}, "metric='mAP' is unknown. Choose one of AP, AP50"),
        ({"labels": "name"}, "labels='name' is unknown"),
        ({"labels": [3, 4]}, r"category ids \[4\]"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_unknown_settings_are_refused(scenes: Scenes, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        make(scenes, **settings)


def test_images_are_checked_when_the_task_is_made_and_read_when_needed(scenes: Scenes) -> None:
    (scenes.images / "1.png").write_text("no image")
    task = make(scenes)
    assert len(list(task.batches([0, 2]))) == 1
    with pytest.raises(ImageError, match=r"1\.png cannot be read"):
        list(task.batches())
    Image.new("RGB", (60, 80)).save(scenes.images / "0.png")
    with pytest.raises(ImageError, match=r"0\.png is 80 x 60 pixels .* for 60 x 80"):
        list(task.batches([0]))
    (scenes.images / "2.png").unlink()
    with pytest.raises(ImageError, match=r"1 of 3 images are not in .*2\.png"):
        make(scenes)


def test_the_digest_names_everything_that_scores_depend_on(scenes: Scenes) -> None:
    base = make(scenes).digest()
    assert make(scenes, name="other", batch_size=2).digest() == base
    others = [
        make(scenes, preprocess=Resize(height=8, width=9)),
        make(scenes, adapter=lambda outputs, sizes: outputs),
        make(scenes, iou_type="segm"),
        make(scenes, labels="index"),
        make(scenes, metric="AP50"),
    ]
    digests = {base, *(other.digest() for other in others)}
    Image.effect_noise((50, 50), 9).convert("RGB").save(scenes.images / "1.png")
    digests.add(make(scenes).digest())
    scenes.edit(lambda plain: plain["annotations"][0].update(area=1))
    digests.add(make(scenes).digest())
    assert len(digests) == 8


def test_a_task_can_be_sent_to_another_process(scenes: Scenes) -> None:
    task = make(scenes)
    assert pickle.loads(pickle.dumps(task)).digest() == task.digest()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_outputs_of_any_dtype_score_alike_and_may_require_gradients(scenes: Scenes, dtype: torch.dtype) -> None:
    outputs = truth_as_output(scenes)
    for output in outputs:
        output["boxes"] = output["boxes"].to(dtype)
        if dtype.is_floating_point:
            output["scores"] = output["scores"].to(dtype).requires_grad_()
    task = make(scenes)
    assert task.score(predict_all(task, Recall(outputs)))["AP"] == pytest.approx(1.0, abs=1e-12)


def test_lists_of_tensors_are_arrays(scenes: Scenes) -> None:
    outputs = [{key: list(value) for key, value in output.items()} for output in truth_as_output(scenes)]
    task = make(scenes)
    assert task.score(predict_all(task, Recall(outputs)))["AP"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda outputs: None, "the adapter returned a NoneType; expected a list with one dict for each image"),
        (lambda outputs: outputs[0], "the adapter returned a dict; expected a list"),
        (lambda outputs: [outputs[0], None, outputs[2]], "image 11: a prediction is a NoneType; expected a dict"),
        (lambda outputs: [{**outputs[0], "scores": ["a", "b"]}, *outputs[1:]], "image 10: scores .* expected numbers"),
        (lambda outputs: [{**outputs[0], "boxes": [[1], [1, 2]]}, *outputs[1:]], "image 10: boxes .* cannot be used"),
        (lambda outputs: [{**outputs[0], "labels": None}, *outputs[1:]], "image 10: labels .* cannot be used"),
    ],
)
def test_an_answer_of_a_wrong_form_is_refused_with_the_image(scenes: Scenes, answer: Any, message: str) -> None:
    task = make(scenes, adapter=lambda outputs, sizes: answer(outputs))
    with pytest.raises(PredictionError, match=message):
        predict_all(task, Recall(truth_as_output(scenes)))
