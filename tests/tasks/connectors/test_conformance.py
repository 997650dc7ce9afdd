"""Every connector of ours passes the suite that one from outside has to pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sensitivity.testing.connectors import SIZES, ConnectorSuite
from tests.tasks.connectors import networks

pytestmark = pytest.mark.filterwarnings("ignore")  # of the families' packages
pytest.importorskip("torchvision", reason="torchvision is not installed", exc_type=(ImportError, RuntimeError))


class WithoutEngine(ConnectorSuite):
    """An engine runs one network of each family; exports take long."""

    engine = None


class TestTorchvisionTwoStages(ConnectorSuite):
    @pytest.fixture
    def network(self) -> Any:
        return networks.torchvision_detector("faster")


class TestTorchvisionOneStage(ConnectorSuite):
    @pytest.fixture
    def network(self) -> Any:
        return networks.torchvision_detector("ssd")


class TestTorchvisionDetectors(WithoutEngine):
    @pytest.fixture(params=["retinanet", "fcos", "mask"])
    def network(self, request: pytest.FixtureRequest) -> Any:
        return networks.torchvision_detector(request.param)


class TestTorchvisionSegmenters(WithoutEngine):
    @pytest.fixture(params=["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
    def network(self, request: pytest.FixtureRequest) -> Any:
        return networks.torchvision_segmenter(request.param)


class TestUltralytics(ConnectorSuite):
    settings = {"image_size": 96}  # noqa: RUF012 - as outsiders write it

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("ultralytics", reason="ultralytics is not installed")
        return networks.ultralytics_network("yolov8n.yaml")


class TestUltralyticsOthers(WithoutEngine):
    settings = {"image_size": 96}  # noqa: RUF012

    @pytest.fixture(params=["yolov10n.yaml", "yolov8n-seg.yaml"])
    def network(self, request: pytest.FixtureRequest) -> Any:
        pytest.importorskip("ultralytics", reason="ultralytics is not installed")
        return networks.ultralytics_network(request.param)


class Transformers(ConnectorSuite):
    """Small inputs, by the processor of the network's kind."""

    processor = "RTDetrImageProcessor"

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        return {"processor": getattr(transformers, self.processor)(size={"height": 64, "width": 64})}


class TestTransformersRtDetr(Transformers):
    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.rt_detr()


class TestTransformersMask2Former(Transformers):
    engine = None
    processor = "Mask2FormerImageProcessor"

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.mask2former()


class TestTransformersSegformer(Transformers):
    engine = None
    processor = "SegformerImageProcessor"

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.segformer()


class TestTransformersSam(ConnectorSuite):
    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        pytest.importorskip("transformers", reason="transformers is not installed")
        return {"processor": networks.sam_processor()}

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.sam()


class TestTransformersSam2(WithoutEngine):
    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        pytest.importorskip("transformers", reason="transformers is not installed")
        return {"processor": networks.sam_processor(second=True)}

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.sam2()


class TestTransformersVit(Transformers):
    engine = None
    processor = "ViTImageProcessor"

    @property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        return {"processor": transformers.ViTImageProcessor(size={"height": 32, "width": 32})}

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("transformers", reason="transformers is not installed")
        return networks.vit()


class TestEffdet(ConnectorSuite):
    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("effdet", reason="effdet is not installed")
        draw = np.random.default_rng(1)
        return networks.efficientdet_for([draw.integers(0, 256, (*size, 3), np.uint8) for size in SIZES])


class TestSmp(ConnectorSuite):
    settings = {"image_size": 64}  # noqa: RUF012

    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("segmentation_models_pytorch", reason="segmentation_models_pytorch is not installed")
        return networks.unet()


class TestTimm(ConnectorSuite):
    @pytest.fixture
    def network(self) -> Any:
        pytest.importorskip("timm", reason="timm is not installed")
        return networks.timm_classifier()
