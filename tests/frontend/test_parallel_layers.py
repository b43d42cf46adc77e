"""SyncBatchNorm of the one process that there is."""

from __future__ import annotations

import pytest

import flamec


def test_synchronized_batch_norm_is_batch_norm_of_the_one_process() -> None:
    nn = flamec.nn
    flamec.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm1d(4)))
    x = flamec.randn(4, 2, 5, 5)
    expected = net[:2](x)
    weight, before = net[1].weight, net[1].num_batches_tracked.item()
    changed = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    assert changed is net and type(net[1]) is type(net[2][0]) is nn.SyncBatchNorm
    assert net[1].weight is weight
    flamec.testing.assert_close(net[:2](x), expected)
    assert net[1].num_batches_tracked.item() == before + 1
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2, affine=False).eval())
    assert plain.weight is None and not plain.training
    with pytest.raises(ValueError, match="at least 2D"):
        plain(flamec.ones(2))
    with pytest.raises(RuntimeError, match="process_group"):
        nn.SyncBatchNorm(2, process_group=object())
