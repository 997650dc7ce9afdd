from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sensitivity.tasks.annotations.annotation_file import CocoAnnotations
from sensitivity.tasks.annotations.segmentations import decode_mask
from sensitivity.tasks.clicks import interior_point, squared_distance


def test_the_click_is_on_the_most_interior_pixel_of_real_masks_as_opencv_finds_it(shared_data: Path) -> None:
    cv2 = pytest.importorskip("cv2", reason="OpenCV is needed to compare with")
    file = shared_data / "tiny_coco" / "annotations" / "instances_val2017.json"
    annotations = CocoAnnotations.load(file, with_masks=True)
    for rle in list(annotations.masks.values())[::4]:
        mask = decode_mask(rle)
        distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 0)[1:-1, 1:-1]
        rows, columns = np.where(distance == distance.max())
        assert interior_point(mask) == (columns[0], rows[0])


def test_distances_are_to_the_nearest_pixel_outside_by_brute_force() -> None:
    mask = np.random.default_rng(3).random((9, 13)) < 0.85
    padded = np.pad(mask, 1)
    cells = np.stack(np.indices(padded.shape), axis=-1)
    offsets = cells[:, :, None] - np.argwhere(~padded)
    expected = np.square(offsets).sum(axis=-1).min(axis=-1)[1:-1, 1:-1]
    np.testing.assert_array_equal(squared_distance(mask), expected)


def test_the_border_of_the_image_is_outside() -> None:
    assert interior_point(np.ones((5, 7), bool)) == (2.0, 2.0)
    assert interior_point(np.ones((1, 1), bool)) == (0.0, 0.0)


def test_a_mask_without_pixels_has_no_interior() -> None:
    assert interior_point(np.zeros((5, 7), bool)) is None
