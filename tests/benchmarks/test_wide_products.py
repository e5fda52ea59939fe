"""Products of bfloat16 in float32 are what bfloat16's own are, up to its rounding, and nothing else changes."""

import torch
from torch import nn
from torch.nn import functional as F
from wide_products import WideProducts


class Everything(nn.Module):
    """A convolution, a linear layer and attention."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.line = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.line(self.conv(x).flatten(2).transpose(1, 2)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        return torch.bmm(F.scaled_dot_product_attention(q, k, v).flatten(0, 1), torch.ones(4, 8, 1, dtype=x.dtype)).sum()


def gradients(wide, autocast):
    torch.manual_seed(0)
    model, x = Everything(), torch.randn(2, 3, 6, 6)
    if not autocast:
        model, x = model.bfloat16(), x.bfloat16()
    with WideProducts() if wide else torch.enable_grad():
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(x)
        loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters()}


def test_results_and_types_are_those_of_bfloat16():
    for autocast in (False, True):
        loss, own = gradients(False, autocast)
        other, wide = gradients(True, autocast)
        assert other.dtype == loss.dtype
        assert torch.allclose(loss, other, rtol=0.05, atol=0.5)
        for name, grad in own.items():
            assert wide[name].dtype == grad.dtype, name
            assert torch.allclose(wide[name].float(), grad.float(), rtol=0.1, atol=0.02 * float(grad.float().abs().max())), name


def test_products_round_once():
    a, b = torch.randn(7, 300).bfloat16(), torch.randn(300, 5).bfloat16()
    with WideProducts():
        assert torch.equal(a @ b, (a.float() @ b.float()).bfloat16())
        assert (a.float() @ b.float()).dtype == torch.float32
