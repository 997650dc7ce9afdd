"""AP through a connector equals AP of the family's own evaluation code, on photographs and by pycocotools.

Weights are random and seeded. The ground truth lies near what the family's code finds, so that AP is far from 0 and 1.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_tools
from torch import nn

import sensitivity as sv
from sensitivity.tasks.connectors.panoptic import PanopticMaps
from tests.tasks.connectors import networks
from tests.tasks.connectors.conftest import predictions_of
from tests.tasks.connectors.pseudo_truth import Row, pycocotools_metrics, results_of, write_truth

pytestmark = pytest.mark.filterwarnings("ignore")  # of the families' packages
pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))

COUNT = 4
NAMES = tuple(networks.NAMES.values())


@pytest.fixture
def photographs(shared_data: Path, tmp_path: Path) -> list[Path]:
    """The first images of tiny COCO, copied: ultralytics writes a file beside them."""
    (tmp_path / "images").mkdir()
    paths = sorted((shared_data / "tiny_coco" / "val2017").glob("*.jpg"))[:COUNT]
    return [Path(shutil.copy(path, tmp_path / "images" / f"{number:03}.jpg")) for number, path in enumerate(paths)]


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB"))


def size_of(path: Path) -> tuple[int, int]:
    width, height = Image.open(path).size
    return height, width


def assert_equal_ap(
    connected: Any, photographs: list[Path], rows: Sequence[Row], kind: str = "bbox", names: Sequence[str] = NAMES
) -> None:
    """Our AP and pycocotools' AP of the family's own results, against the same ground truth."""
    folder = photographs[0].parent
    truth = write_truth(folder.parent / "truth.json", photographs, rows, names)
    task = connected.task(folder, truth)
    scores = task.score(predictions_of(task, connected.model))
    scored = [{key: row[key] for key in row if key != "bbox" or kind == "bbox"} for row in rows]
    expected = pycocotools_metrics(truth, scored, kind)
    assert 0.05 < expected["AP"] < 0.95, "this ground truth shows little"
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["faster", "retinanet", "fcos", "ssd", "mask"])
def test_torchvision(name: str, photographs: list[Path]) -> None:
    """Its reference evaluation scores the dicts that the network returns, masks from 0.5 on."""
    model = networks.torchvision_detector(name)
    rows: list[Row] = []
    for number, path in enumerate(photographs):
        with torch.no_grad():
            [output] = model([torch.from_numpy(pixels(path)).permute(2, 0, 1) / 255])
        masks = output["masks"][:, 0] > 0.5 if name == "mask" else None
        rows += results_of(number, output["boxes"], output["scores"], output["labels"], masks)
    assert_equal_ap(sv.connect(model), photographs, rows, "segm" if name == "mask" else "bbox")


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov10n.yaml", "yolov8n-seg.yaml", "rtdetr-resnet50.yaml"])
def test_ultralytics(name: str, photographs: list[Path]) -> None:
    """Its validator runs whole, and the results that it writes for COCO's metric are taken before they are rounded."""
    pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    model = networks.ultralytics_network(name)
    by_path = validated(model, name, photographs, side=160)
    rows: list[Row] = []
    for path, output in by_path.items():
        boxes, scores, ids = output["bboxes"], output["conf"], output["cls"] + 1
        rows += results_of(photographs.index(Path(path)), boxes, scores, ids, output.get("masks"))
    connected = sv.connect(model, image_size=160)
    assert_equal_ap(connected, photographs, rows, "segm" if "seg" in name else "bbox")


def validated(model: Any, name: str, photographs: list[Path], *, side: int, **more: Any) -> dict[str, Any]:
    """What ultralytics' validator finds in each image, in the image's pixels."""
    from ultralytics.models.rtdetr.val import RTDETRValidator
    from ultralytics.models.yolo.detect import DetectionValidator
    from ultralytics.models.yolo.pose import PoseValidator
    from ultralytics.models.yolo.segment import SegmentationValidator

    kinds = {"rtdetr": RTDETRValidator, "seg": SegmentationValidator, "pose": PoseValidator}
    parent: Any = next((kind for part, kind in kinds.items() if part in name), DetectionValidator)
    by_path: dict[str, Any] = {}

    class Keeping(parent):  # type: ignore[misc]
        def pred_to_json(self, predn: Any, pbatch: Any) -> None:
            by_path[pbatch["im_file"]] = predn

        def eval_json(self, stats: Any) -> Any:
            return stats

    root = photographs[0].parent.parent
    data = {"path": str(root), "train": "images", "val": "images", "names": dict(model.names), **more}
    (root / "data.json").write_text(json.dumps(data))  # JSON is YAML
    (root / "data.json").rename(root / "data.yaml")
    settings = {"data": str(root / "data.yaml"), "imgsz": side, "batch": 2, "rect": False, "save_json": True}
    settings |= {"plots": False, "workers": 0, "device": "cpu", "verbose": False, "mode": "val"}
    unfused = copy.deepcopy(model)
    unfused.fuse = lambda *_, **__: unfused  # folded batch norms would move the last bits
    Keeping(save_dir=root / "runs", args=settings)(model=unfused)
    return by_path


def test_torchvision_keypoints(photographs: list[Path]) -> None:
    """Its reference evaluation scores the keypoints that the network returns, by the score of the box."""
    model = networks.torchvision_detector("keypoint")
    rows: list[Row] = []
    for number, path in enumerate(photographs):
        with torch.no_grad():
            [output] = model([torch.from_numpy(pixels(path)).permute(2, 0, 1) / 255])
        rows += results_of(number, output["boxes"], output["scores"], output["labels"], poses=output["keypoints"])
    assert_equal_ap(sv.connect(model), photographs, rows, "keypoints", names=("person",))


def test_ultralytics_keypoints(photographs: list[Path]) -> None:
    """Its validator."""
    pytest.importorskip("ultralytics", reason="ultralytics is not installed")
    model = networks.ultralytics_network("yolov8n-pose.yaml")
    by_path = validated(model, "yolov8n-pose", photographs, side=160, kpt_shape=[17, 3])
    rows: list[Row] = []
    for path, output in by_path.items():
        ids, poses = output["cls"] + 1, output["keypoints"]
        rows += results_of(photographs.index(Path(path)), output["bboxes"], output["conf"], ids, poses=poses)
    connected = sv.connect(model, image_size=160)
    assert_equal_ap(connected, photographs, rows, "keypoints", names=("person",))


def processed(model: Any, processor: Any, photographs: list[Path], post_process: Callable[..., Any]) -> list[Any]:
    """What a processor of transformers makes of the outputs for each image."""
    results = []
    for path in photographs:
        with torch.no_grad():
            outputs = model(**processor(images=pixels(path), return_tensors="pt"))
        results += post_process(outputs, threshold=0.0, target_sizes=[size_of(path)])
    return results


@pytest.mark.parametrize("name", ["rt_detr", "detr"])
def test_transformers_detection(name: str, photographs: list[Path]) -> None:
    """Its processor's post-processing."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = getattr(networks, name)()
    kind = {"rt_detr": "RTDetrImageProcessor", "detr": "DetrImageProcessor"}[name]
    processor = getattr(transformers, kind)(size={"height": 64, "width": 64})
    rows: list[Row] = []
    for number, result in enumerate(processed(model, processor, photographs, processor.post_process_object_detection)):
        rows += results_of(number, result["boxes"], result["scores"], result["labels"] + 1)
    assert_equal_ap(sv.connect(model, processor=processor), photographs, rows)


def test_transformers_instances(photographs: list[Path]) -> None:
    """Its processor's post-processing; a box for the ground truth is drawn around each mask."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = networks.mask2former()
    processor = transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    rows: list[Row] = []

    def post_process(outputs: Any, **settings: Any) -> Any:
        return processor.post_process_instance_segmentation(outputs, return_binary_maps=True, **settings)

    for number, result in enumerate(processed(model, processor, photographs, post_process)):
        segments = result["segments_info"]
        masks = np.asarray(result["segmentation"]) > 0.5
        boxes = [[0, 0, mask.shape[1], mask.shape[0]] for mask in masks]
        ids = [segment["label_id"] + 1 for segment in segments]
        rows += results_of(number, boxes, [segment["score"] for segment in segments], ids, masks)
    assert_equal_ap(sv.connect(model, processor=processor), photographs, rows, "segm")


def test_effdet(photographs: list[Path]) -> None:
    """``DetBenchPredict`` on images of its own transforms."""
    effdet = pytest.importorskip("effdet", reason="effdet is not installed")
    from effdet.data.transforms import ResizePad, resolve_fill_color

    model = networks.efficientdet_for([pixels(path) for path in photographs])
    bench = effdet.DetBenchPredict(model)
    normal = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in normal)
    rows: list[Row] = []
    for number, path in enumerate(photographs):
        resized, facts = ResizePad((128, 128), fill_color=resolve_fill_color("mean"))(Image.fromarray(pixels(path)), {})
        x = (torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() - mean) / std
        height, width = size_of(path)
        sizes = torch.tensor([[width, height]]).float()
        with torch.no_grad():
            [output] = bench(x, {"img_scale": torch.tensor([facts["img_scale"]]), "img_size": sizes})
        output = output[output[:, 4] > 0]
        rows += results_of(number, output[:, :4], output[:, 4], output[:, 5])
    assert_equal_ap(sv.connect(model), photographs, rows)


def write_labels(photographs: list[Path], classes: int) -> Path:
    """A label map of each photograph: its brightness in bands."""
    folder = photographs[0].parent.parent / "labels"
    folder.mkdir()
    for path in photographs:
        grey = np.asarray(Image.open(path).convert("L"), np.int64)
        Image.fromarray((grey * classes // 256).astype(np.uint8)).save(folder / f"{path.stem}.png")
    return folder


def mean_iou(pairs: Sequence[tuple[Any, Any]], classes: int) -> float:
    """Of one table of counts over all images."""
    counts = np.zeros((classes, classes), np.int64)
    for truth, predicted in pairs:
        np.add.at(counts, (np.asarray(truth).ravel(), np.asarray(predicted).ravel()), 1)
    own = counts.diagonal()
    return float(np.mean(own / (counts.sum(0) + counts.sum(1) - own)))


def test_transformers_panoptic(photographs: list[Path]) -> None:
    """Its processor's segments, painted one by one, scored by torchmetrics."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    detection = pytest.importorskip("torchmetrics.detection", reason="torchmetrics is not installed")
    model = networks.mask2former()
    processor = transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64})
    nn.init.normal_(model.class_predictor.weight, std=5.0)  # so that some queries are sure of their class
    settings = {"threshold": 0.5, "mask_threshold": 0.4, "overlap_mask_area_threshold": 0.05}  # and cover each other
    kinds = {"things": set(range(5)), "stuffs": set(range(5, 10)), "allow_unknown_preds_category": True}
    metric, batches = detection.PanopticQuality(**kinds), []
    for path in photographs:
        inputs = processor(images=pixels(path), return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        [result] = processor.post_process_panoptic_segmentation(outputs, target_sizes=[size_of(path)], **settings)
        painted = torch.full((*size_of(path), 2), -1)
        painted[..., 1] = result["segmentation"]
        for segment in result["segments_info"]:
            painted[..., 0][result["segmentation"] == segment["id"]] = segment["label_id"]
        truth = painted.clone()
        truth[..., 0][painted[..., 0] == -1] = 9
        truth[: len(truth) // 2] = torch.tensor([9, 0])
        metric.update(painted[None], truth[None])
        batches.append((inputs["pixel_values"], truth[None]))
    expected = float(metric.compute())
    assert 0.01 < expected < 0.99
    task = sv.LoaderTask(
        batches, metric=detection.PanopticQuality(**kinds), adapter=PanopticMaps(processor, **settings)
    )
    assert task.score(predictions_of(task, model))["PanopticQuality"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("prompts", ["boxes", "points"])
@pytest.mark.parametrize("second", [False, True], ids=["SAM", "SAM 2"])
def test_transformers_prompted(second: bool, prompts: str, photographs: list[Path], shared_data: Path) -> None:
    """Masks of its processor from the annotated boxes, or of clicks, and their mean IoU in numpy."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    model, processor = networks.sam2() if second else networks.sam(), networks.sam_processor(second=second)
    annotations = shared_data / "tiny_coco" / "annotations" / "instances_val2017.json"
    images = shared_data / "tiny_coco" / "val2017"
    task = sv.connect(model, processor=processor).task(images, annotations, prompts=prompts, limit=3)
    ious = []
    for batch in task.batches():
        [(picture, prompted)] = batch.context
        prompt_inputs: dict[str, Any] = {"input_boxes": [prompted.boxes.tolist()]} if prompts == "boxes" else {}
        if prompts == "points":
            prompt_inputs["input_points"] = [[[point] for point in prompted.points.tolist()]]
            prompt_inputs["input_labels"] = [[[1] for _ in prompted.points]]
        inputs = processor(images=picture, **prompt_inputs, return_tensors="pt")
        with torch.no_grad():
            outputs = model(**{key: inputs[key] for key in inputs if not key.endswith("sizes")})
        sizes = [inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs]
        [masks] = processor.post_process_masks(outputs.pred_masks, *sizes)
        best = outputs.iou_scores[0].argmax(1)
        truth = [task.annotations.masks[annotation["id"]] for annotation in task._instances(batch.images[0])]
        for number, rle in enumerate(truth):
            mask, true = np.asarray(masks[number, best[number]]), mask_tools.decode(rle) > 0
            ious.append(float((mask & true).sum() / (mask | true).sum()))
    mean = task.score(predictions_of(task, model))["mIoU"]
    assert len(set(ious)) > 3
    assert 0.001 < mean < 0.9
    assert mean == pytest.approx(np.mean(ious), abs=1e-6)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn", "deeplabv3_mobilenet_v3_large"])
def test_torchvision_semantic(name: str, photographs: list[Path]) -> None:
    """The network's maps for images of its own preset, enlarged as it enlarges its own scores."""
    from torchvision.transforms._presets import SemanticSegmentation

    model = networks.torchvision_segmenter(name)
    labels = write_labels(photographs[:2], 3)
    for path in photographs[2:]:
        path.unlink()
    pairs = []
    for path in photographs[:2]:
        x = SemanticSegmentation(resize_size=520)(Image.fromarray(pixels(path)))[None]
        with torch.no_grad():
            scores = nn.functional.interpolate(model(x)["out"], size_of(path), mode="bilinear", align_corners=False)
        pairs.append((np.asarray(Image.open(labels / f"{path.stem}.png")), scores.argmax(1)))
    connected = sv.connect(model)
    task = connected.task(photographs[0].parent, labels, classes=("a", "b", "c"))
    mean = task.score(predictions_of(task, connected.model))["mIoU"]
    assert mean == pytest.approx(mean_iou(pairs, 3), abs=1e-12)


def test_transformers_semantic(photographs: list[Path]) -> None:
    """Its processor's label maps."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = networks.segformer()
    processor = transformers.SegformerImageProcessor(size={"height": 64, "width": 64})
    labels = write_labels(photographs, 3)
    pairs = []
    for path in photographs:
        with torch.no_grad():
            outputs = model(**processor(images=pixels(path), return_tensors="pt"))
        [label_map] = processor.post_process_semantic_segmentation(outputs, target_sizes=[size_of(path)])
        pairs.append((np.asarray(Image.open(labels / f"{path.stem}.png")), label_map))
    connected = sv.connect(model, processor=processor)
    task = connected.task(photographs[0].parent, labels)
    mean = task.score(predictions_of(task, connected.model))["mIoU"]
    assert mean == pytest.approx(mean_iou(pairs, 3), abs=1e-12)


@pytest.mark.parametrize("classes", [3, 1])
def test_smp(classes: int, photographs: list[Path]) -> None:
    """Its own metric over counts summed over all images, which are of the network's size, so that none is resized."""
    smp = pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")
    for path in photographs:
        Image.open(path).convert("RGB").resize((128, 96)).save(path.with_suffix(".png"))
        path.unlink()
    images = [path.with_suffix(".png") for path in photographs]
    labels = write_labels(images, max(classes, 2))
    model = networks.unet(classes)
    normal = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_range": [0, 1]}
    counted = []
    for path in images:
        x = smp.encoders.preprocess_input(pixels(path).astype(np.float64), **normal)
        with torch.no_grad():
            scores = model(torch.from_numpy(x).float().permute(2, 0, 1)[None])
        truth = torch.from_numpy(np.asarray(Image.open(labels / path.name))).long()[None]
        predicted = (scores[:, 0] > 0).long() if classes == 1 else scores.argmax(1)
        kind = {"mode": "multiclass", "num_classes": max(classes, 2)}
        counted.append(torch.stack(smp.metrics.get_stats(predicted, truth, **kind)).sum(1))
    expected = smp.metrics.iou_score(*torch.stack(counted).sum(0).unsqueeze(1), reduction="macro")
    connected = sv.connect(model, image_size=(96, 128), classes=("a", "b", "c")[: max(classes, 2)])
    task = connected.task(images[0].parent, labels)
    mean = task.score(predictions_of(task, connected.model))["mIoU"]
    assert mean == pytest.approx(float(expected), abs=1e-6)  # smp's is of float32


def class_folders(photographs: list[Path], classes: int) -> Path:
    """The photographs as an ImageFolder."""
    root = photographs[0].parent.parent / "classes"
    for number, path in enumerate(photographs):
        folder = root / str(number % classes)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    return root


def test_timm(photographs: list[Path]) -> None:
    """Accuracy as timm's validation script counts it, with its own data set, loader and transforms."""
    timm = pytest.importorskip("timm", reason="timm is not installed")
    from timm.utils import accuracy

    root = class_folders(photographs, 4)
    model = networks.timm_classifier()
    config = timm.data.resolve_data_config({}, model=model)
    data = timm.data.create_dataset("", root=str(root), split="")
    used = {key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")}
    loader = timm.data.create_loader(data, batch_size=2, use_prefetcher=False, num_workers=0, **used)
    with torch.no_grad():
        scores, truth = (torch.cat(parts) for parts in zip(*[(model(x), y) for x, y in loader], strict=True))
    top1, top3 = (float(value) / 100 for value in accuracy(scores, truth, topk=(1, 3)))
    connected = sv.connect(model)
    task = connected.task(root)
    predictions = predictions_of(task, connected.model)
    assert task.score(predictions)["top1"] == pytest.approx(top1, abs=1e-7)
    assert top3 >= top1
    assert [prediction["best"] for prediction in predictions.values()] == scores.argmax(1).tolist()


def test_torchvision_classification(photographs: list[Path]) -> None:
    """Its reference evaluation: an ImageFolder read by Pillow, with the weights' own transforms."""
    from torchvision.datasets import ImageFolder
    from torchvision.models import ResNet18_Weights, resnet18

    root = class_folders(photographs, 4)
    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=4).eval()
    weights = ResNet18_Weights.DEFAULT
    data = ImageFolder(str(root), weights.transforms())
    with torch.no_grad():
        scores = torch.cat([model(x[None]) for x, _ in data])
    expected = float(np.mean(scores.argmax(1).numpy() == np.array(data.targets)))
    connected = sv.connect(model, weights=weights)
    task = connected.task(root)
    predictions = predictions_of(task, connected.model)
    assert task.score(predictions)["top1"] == pytest.approx(expected)
    assert [prediction["best"] for prediction in predictions.values()] == scores.argmax(1).tolist()
