"""A layer norm with a gelu, spelled out: one kernel.

flamec dump examples/layer_norm.py:block --stage kernel
"""

import flamec


@flamec.compile(inputs=lambda: (flamec.randn(32, 256), flamec.ones(256), flamec.zeros(256)))
def block(x, weight, bias):
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)
    y = (x - mean) * (variance + 1e-5).rsqrt() * weight + bias
    return y * 0.5 * (1 + flamec.erf(y * 0.7071067811865476))
