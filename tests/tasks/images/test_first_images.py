"""A task on its first images does on them what the task does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import sensitivity as sv
from sensitivity.contracts import Task
from sensitivity.errors import TaskError
from sensitivity.tasks.images.first_images import FirstImages
from sensitivity.testing.tasks import TaskSuite
from tests.sweep.mean_task import Chain, InstanceTask, MeanTask


class TestFirstImagesOfAMean(TaskSuite):
    @pytest.fixture
    def task(self) -> Task:
        return FirstImages(MeanTask(30), 9)

    @pytest.fixture
    def model(self) -> nn.Module:
        return Chain().eval()


class TestFirstImagesOfInstances(TestFirstImagesOfAMean):
    @pytest.fixture
    def task(self) -> Task:
        return FirstImages(InstanceTask(30), 9)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_study_of_the_first_images_is_that_of_a_task_of_these_images(images: Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    wrapped = sv.wrap(net, images[:1])
    studies = [
        wrapped.analyze(task, sv.INT4_WEIGHTS, workers=None)
        for task in (FirstImages(sv.FeatureFidelity(images), 4), sv.FeatureFidelity(images[:4]))
    ]
    assert [row.metrics for row in studies[0].measurements] == [row.metrics for row in studies[1].measurements]
    assert studies[0].baseline.images == 4


def test_more_images_than_there_are_are_all_of_them() -> None:
    task = FirstImages(MeanTask(5), 9)
    assert len(task) == 5
    assert [image for batch in task.batches() for image in batch.images] == [0, 1, 2, 3, 4]


def test_another_number_of_images_is_another_task() -> None:
    task = MeanTask(9)
    assert len({task.digest(), FirstImages(task, 3).digest(), FirstImages(task, 4).digest()}) == 3


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(TaskError, match="limit=0: give a number of images from 1 on"):
        FirstImages(MeanTask(3), 0)
