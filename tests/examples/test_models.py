"""The networks of the examples against their fact sheets, and against the metrics measured with other programs."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

pytest.importorskip("cv2", reason="the detector examples resize with OpenCV (extra: examples)")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TOLERANCE = 5e-4  # bit-equal on the machine of the reference; another CPU's convolutions may move one detection
BATCH = 10


def example(path: str) -> ModuleType:
    """An example's module, by file: the folders start with digits and are no packages."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(path).stem}", EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


decode = example("01_coco_detector/decode.py")
espnetv2 = example("02_semantic_segmentation/espnetv2.py")
fastestdet = example("01_coco_detector/fastestdet.py")
preprocess = example("01_coco_detector/preprocess.py")
yolo_fastest = example("01_coco_detector/yolo_fastest.py")


class Net(NamedTuple):
    load: Callable[[Path], nn.Module]
    side: int


NETS = {
    "yolo_fastest_1_1_xl": Net(lambda path: yolo_fastest.load(path, xl=True), 320),
    "yolo_fastest_1_1": Net(lambda path: yolo_fastest.load(path, xl=False), 320),
    "fastestdet": Net(fastestdet.load, 352),
    "espnetv2_s0_5_voc384": Net(lambda path: espnetv2.load(path, width="s0.5"), 384),
    "espnetv2_s1_0_voc384": Net(lambda path: espnetv2.load(path, width="s1.0"), 384),
    "espnetv2_s2_0_voc384": Net(lambda path: espnetv2.load(path, width="s2.0"), 384),
}
every_net = pytest.mark.parametrize("name", NETS)


def load(name: str, shared_data: Path) -> nn.Module:
    return NETS[name].load(shared_data / "weights" / f"{name}.safetensors")


def sheet(name: str, shared_data: Path) -> str:
    return (shared_data / "weights" / f"{name}.md").read_text(encoding="utf-8")


def sheet_layers(text: str) -> dict[str, tuple[str, int]]:
    """Each convolution's output size and multiply-adds from the sheet's table, by the module path given there."""
    layers = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if any(cell.startswith("Conv ") for cell in cells):
            layers[cells[1].strip("`")] = (cells[-2], int(cells[-1].replace(",", "")))
    return layers


def conv_layers(model: nn.Module, side: int) -> dict[str, tuple[str, int]]:
    """The same, counted on the model while it runs."""
    counted = {}

    def count(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            assert isinstance(module, nn.Conv2d)
            height, width = output.shape[2:]
            counted[name] = (f"{height}x{width}", output[0].numel() * module.weight[0].numel())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count(name))
    with torch.no_grad():
        model(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
    return counted


@every_net
def test_the_released_weights_fit_the_network_and_its_size_is_the_sheet_s(name: str, shared_data: Path) -> None:
    model = load(name, shared_data)  # strict=True
    stated = re.search(r"([\d,]+) parameters", sheet(name, shared_data))
    assert stated is not None
    assert sum(parameter.numel() for parameter in model.parameters()) == int(stated[1].replace(",", ""))
    assert not model.training


@every_net
def test_every_convolution_runs_once_at_the_sheet_s_size_and_cost(name: str, shared_data: Path) -> None:
    text = sheet(name, shared_data)
    counted = conv_layers(load(name, shared_data), NETS[name].side)
    stated = sheet_layers(text)
    assert {re.sub(r"^(layers\.\d+)\.conv$", r"\1", path): layer for path, layer in counted.items()} == stated
    total = re.search(r"([\d,]+) conv MACs", text)
    assert total is not None
    assert sum(macs for _, macs in counted.values()) == int(total[1].replace(",", ""))


@pytest.mark.parametrize("name", ["yolo_fastest_1_1", "fastestdet", "espnetv2_s0_5_voc384"])
def test_another_input_size_scales_the_outputs(name: str, shared_data: Path) -> None:
    model = load(name, shared_data)
    with torch.no_grad():
        output = model(torch.rand(2, 3, 128, 192))
    shapes = [tuple(tensor.shape) for tensor in (output if isinstance(output, tuple) else [output])]
    assert (
        shapes
        == {
            "yolo_fastest_1_1": [(2, 255, 4, 6), (2, 255, 8, 12)],
            "fastestdet": [(2, 85, 8, 12)],
            "espnetv2_s0_5_voc384": [(2, 21, 128, 192)],
        }[name]
    )


def test_preprocessing_scales_to_one_and_orders_the_channels() -> None:
    red = np.zeros((30, 50, 3), dtype=np.uint8)
    red[..., 0] = 255
    for prepare, side, channel in [(preprocess.YOLO_FASTEST, 320, 0), (preprocess.FASTESTDET, 352, 2)]:
        pixels = prepare(red)
        assert (pixels.shape, pixels.dtype) == ((3, side, side), torch.float32)
        assert [pixels[c].unique().item() for c in range(3)] == [float(c == channel) for c in range(3)]


def yolo_with_one_box() -> tuple[Tensor, Tensor]:
    """Raw heads that see one object in the fine head: anchor 1, row 2, column 5, two likely classes."""
    coarse, fine = torch.full((1, 255, 10, 10), -20.0), torch.full((1, 255, 20, 20), -20.0)
    cell = fine.view(3, 85, 20, 20)[1, :, 2, 5]
    cell[:4] = 0.0  # the centre of the cell, the size of the anchor
    cell[4] = 20.0
    cell[5 + 7] = 20.0
    cell[5 + 9] = 0.0
    return coarse, fine


def test_a_yolo_box_is_the_anchor_at_its_cell_once_for_each_likely_class() -> None:
    (detections,) = decode.decode_yolo(yolo_with_one_box(), [(160, 640)])
    centre, extent = np.array([5.5 / 20 * 640, 2.5 / 20 * 160]), np.array([37 / 320 * 640, 49 / 320 * 160])
    box = np.concatenate([centre - extent / 2, centre + extent / 2])
    np.testing.assert_allclose(detections["boxes"].numpy(), [box, box], rtol=1e-6)
    np.testing.assert_allclose(detections["scores"].numpy(), [1.0, 0.5], rtol=1e-6)
    assert detections["labels"].tolist() == [7, 9]


def test_yolo_thresholds_and_cap_change_what_is_reported() -> None:
    def boxes_found(**settings: float) -> int:
        return len(decode.decode_yolo(yolo_with_one_box(), [(320, 320)], **settings)[0]["scores"])

    assert boxes_found() == 2
    assert boxes_found(score_threshold=0.6) == 1
    assert boxes_found(max_detections=1) == 1


def test_a_fastestdet_box_sits_in_its_cell() -> None:
    output = torch.zeros(1, 85, 22, 22)
    output[0, 0, 3, 4] = 0.5
    output[0, 5 + 60, 3, 4] = 0.25
    (detections,) = decode.decode_fastestdet(output, [(220, 440)])
    np.testing.assert_allclose(detections["boxes"].numpy(), [[4 * 20 - 110, 3 * 10 - 55, 4 * 20 + 110, 3 * 10 + 55]])
    np.testing.assert_allclose(detections["scores"].numpy(), [0.5**0.6 * 0.25**0.4], rtol=1e-6)
    assert detections["labels"].tolist() == [60]


@pytest.mark.parametrize("iou_threshold", [0.45, 1.0])
def test_fastestdet_boxes_of_one_class_suppress_each_other(iou_threshold: float) -> None:
    output = torch.zeros(1, 85, 22, 22)
    output[0, 0, 3, 4:6] = 0.5
    output[0, 5, 3, 4:6] = 0.5
    (detections,) = decode.decode_fastestdet(output, [(352, 352)], iou_threshold=iou_threshold)
    assert len(detections["scores"]) == (1 if iou_threshold < 1 else 2)
    (none,) = decode.decode_fastestdet(output, [(352, 352)], score_threshold=0.5)
    assert none["boxes"].shape == (0, 4)


def test_an_image_is_decoded_alike_alone_and_in_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(3, 255, side, side, generator=generator) * 3 - 2 for side in (10, 20)]
    grid = torch.rand(3, 85, 22, 22, generator=generator)
    sizes = [(480, 640), (427, 640), (640, 333)]
    together = decode.decode_yolo(heads, sizes) + decode.decode_fastestdet(grid, sizes)
    alone = [decode.decode_yolo([head[i : i + 1] for head in heads], sizes[i : i + 1])[0] for i in range(3)]
    alone += [decode.decode_fastestdet(grid[i : i + 1], sizes[i : i + 1])[0] for i in range(3)]
    for image, other in zip(together, alone, strict=True):
        assert len(image["scores"]) > 0
        assert all(torch.equal(image[key], other[key]) for key in ("boxes", "scores", "labels"))


def test_label_maps_return_to_the_original_sizes_without_new_classes() -> None:
    logits = torch.zeros(2, 21, 4, 4)
    logits[0, 15, :, 2:] = 1.0
    logits[1, 20] = 1.0
    first, second = espnetv2.decode_label_maps(logits, [(6, 8), (3, 5)])
    assert first.tolist() == [[0] * 4 + [15] * 4] * 6
    assert second.tolist() == [[20] * 5] * 3


# --- end to end on real images ----------------------------------------------------------------------------------------


def coco_val(shared_data: Path) -> COCO:
    return COCO(shared_data / "tiny_coco" / "annotations" / "instances_val2017.json")


def batches(ground_truth: COCO, shared_data: Path) -> Iterator[tuple[list[int], list[np.ndarray]]]:
    ids = sorted(ground_truth.getImgIds())
    for start in range(0, len(ids), BATCH):
        chosen = ids[start : start + BATCH]
        paths = [shared_data / "tiny_coco" / "val2017" / ground_truth.imgs[i]["file_name"] for i in chosen]
        yield chosen, [np.array(Image.open(path).convert("RGB")) for path in paths]


def coco_results(
    predict: Callable[[list[np.ndarray]], list[dict[str, Tensor]]], ground_truth: COCO, shared_data: Path
) -> list[dict[str, Any]]:
    categories = sorted(ground_truth.getCatIds())
    results = []
    for ids, images in batches(ground_truth, shared_data):
        for image_id, detections in zip(ids, predict(images), strict=True):
            boxes, scores, labels = (detections[key].tolist() for key in ("boxes", "scores", "labels"))
            for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": image_id, "category_id": categories[label], "bbox": box, "score": score})
    return results


EXPECTED_DETECTION = {  # the last one to the four digits of the data's README
    "fastestdet": ("fastestdet|val2017|conf0.001|nms0.45", None),
    "yolo_fastest_1_1_xl": ("yolo_fastest_1_1_xl|val2017|conf0.005|nms0.45|multilabel", None),
    "yolo_fastest_1_1": (None, (0.1456, 0.3161)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED_DETECTION)
def test_a_detector_reaches_its_measured_average_precision(name: str, shared_data: Path) -> None:
    model = load(name, shared_data)
    prepare = preprocess.FASTESTDET if name == "fastestdet" else preprocess.YOLO_FASTEST
    decoder = decode.decode_fastestdet if name == "fastestdet" else decode.decode_yolo

    @torch.no_grad()
    def predict(images: list[np.ndarray]) -> Any:
        return decoder(model(torch.stack([prepare(image) for image in images])), [i.shape[:2] for i in images])

    ground_truth = coco_val(shared_data)
    evaluation = COCOeval(
        ground_truth, ground_truth.loadRes(coco_results(predict, ground_truth, shared_data)), iouType="bbox"
    )
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    key, expected = EXPECTED_DETECTION[name]
    if expected is None:
        measured = json.loads((shared_data / "metrics_tiny_coco.json").read_text())["detection"][key]
        expected = measured["AP"], measured["AP50"]
    np.testing.assert_allclose(evaluation.stats[:2], expected, rtol=0, atol=TOLERANCE)


VOC_NAMES = {
    "airplane": "aeroplane",
    "motorcycle": "motorbike",
    "dining table": "diningtable",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "tv": "tvmonitor",
}


def voc_label_map(ground_truth: COCO, image_id: int) -> np.ndarray:
    """COCO instances as VOC classes: large ones first, other categories background, crowds on background ignored."""
    painted = []
    for annotation in ground_truth.imgToAnns[image_id]:
        name = ground_truth.cats[annotation["category_id"]]["name"]
        name = VOC_NAMES.get(name, name)
        if name in espnetv2.CLASSES:
            painted.append((annotation, espnetv2.CLASSES.index(name)))
    painted.sort(key=lambda pair: (pair[0]["iscrowd"], -pair[0]["area"], pair[0]["id"]))
    size = ground_truth.imgs[image_id]
    labels = np.zeros((size["height"], size["width"]), dtype=np.uint8)
    for annotation, label in painted:
        mask = ground_truth.annToMask(annotation) > 0
        if annotation["iscrowd"]:
            labels[mask & (labels == 0)] = 255
        else:
            labels[mask] = label
    return labels


@pytest.mark.slow
# pycocotools decodes masks through a pre-numpy-2 __array__
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [
        ("espnetv2_s0_5_voc384", 0.370, 1e-3),  # three digits in the data's README
        ("espnetv2_s1_0_voc384", 0.49152110135491006, TOLERANCE),
        ("espnetv2_s2_0_voc384", 0.475, 1e-3),
    ],
)
def test_a_segmentation_net_reaches_its_measured_mean_iou(
    name: str, expected: float, tolerance: float, shared_data: Path
) -> None:
    model = load(name, shared_data)
    ground_truth = coco_val(shared_data)
    confusion = np.zeros((21, 21), dtype=np.int64)
    for ids, images in batches(ground_truth, shared_data):
        with torch.no_grad():
            logits = model(torch.stack([espnetv2.preprocess(image) for image in images]))
        for image_id, predicted in zip(
            ids, espnetv2.decode_label_maps(logits, [i.shape[:2] for i in images]), strict=True
        ):
            true = voc_label_map(ground_truth, image_id)
            pairs = true[true != 255].astype(np.int64) * 21 + predicted[true != 255]
            confusion += np.bincount(pairs, minlength=21 * 21).reshape(21, 21)
    hits, present = confusion.diagonal(), confusion.sum(axis=1) > 0
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    assert present.sum() == 20
    assert (hits[present] / union[present]).mean() == pytest.approx(expected, abs=tolerance)
