from __future__ import annotations

import pytest
import torch

from pushforward.data.batches import DensityBatches, ImageBatches
from pushforward.data.images import ImageSet, to_model
from pushforward.data.toy import Ring
from pushforward.errors import DataError


def numbered(n: int = 50) -> ImageSet:
    x = torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, 1, 2, 2).contiguous()
    return ImageSet(x, torch.arange(n))


def test_an_epoch_shows_each_image_once_in_a_new_order() -> None:
    batches = ImageBatches(numbered(), batch_size=10, seed=0)
    epochs = [torch.cat([batches.next()[1] for _ in range(5)]) for _ in range(2)]
    for order in epochs:
        assert sorted(order.tolist()) == list(range(50))
    assert not torch.equal(*epochs)


def test_images_go_with_their_labels_in_the_model_range() -> None:
    data = numbered()
    x, y = ImageBatches(data, batch_size=10, seed=0).next()
    assert y is not None
    torch.testing.assert_close(x, to_model(data.images[y]))


def test_any_position_can_be_restored() -> None:
    straight = ImageBatches(numbered(), batch_size=8, seed=3)
    seen = [straight.next()[1] for _ in range(20)]
    jumped = ImageBatches(numbered(), batch_size=8, seed=3)
    jumped.position = 13
    for expected in seen[13:]:
        assert torch.equal(jumped.next()[1], expected)


def test_processes_share_the_global_batch() -> None:
    whole = ImageBatches(numbered(), batch_size=10, seed=1)
    parts = [ImageBatches(numbered(), batch_size=10, seed=1, rank=r, world=2) for r in range(2)]
    for _ in range(7):
        assert torch.equal(torch.cat([p.next()[1] for p in parts]), whole.next()[1])


def test_density_batches_do_not_depend_on_the_number_of_processes() -> None:
    whole = DensityBatches(Ring().draw, batch_size=10, seed=1)
    parts = [DensityBatches(Ring().draw, batch_size=10, seed=1, rank=r, world=2) for r in range(2)]
    for _ in range(3):
        torch.testing.assert_close(torch.cat([p.next()[0] for p in parts]), whole.next()[0])


def test_seeds_give_other_orders() -> None:
    a, b = (ImageBatches(numbered(), batch_size=10, seed=s).next()[1] for s in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("batch_size", "world", "match"), [(51, 1, "fewer than one batch"), (10, 3, "does not divide")]
)
def test_batches_that_cannot_be_are_refused(batch_size: int, world: int, match: str) -> None:
    with pytest.raises(DataError, match=match):
        ImageBatches(numbered(), batch_size=batch_size, seed=0, world=world)
