"""The U-Net, and the energies made of it: for Gaussian data N(m, C), whose level sigma has the covariance
V = C + sigma^2 I, a linear F is exact."""

import math

import pytest
import torch
from torch import nn

from ebm_lab.core.errors import UserError
from ebm_lab.energies.noise_unet import FREE, NoiseUNet, confined
from ebm_lab.energies.score_unet import ScoreUNet
from ebm_lab.models.unet import UNet
from ebm_lab.runs.run_directory import RunDir
from tests.helpers import Points, covariance
from tests.models.test_levels import LADDER, NORMED, PLAIN, images, shaken

FORMS = ["scalar", "half", "residual"]


class Linear(nn.Module):
    """F(w) = A u(w) for images of 2x2 pixels; for `scalar`, u(w) inverts w = u / sqrt(1 + |u|^2 / (9 d))."""

    def __init__(self, a, form):
        super().__init__()
        self.a, self.form = a, form

    def forward(self, w, height):
        if self.form == "scalar":
            w = w / (1 - w.square().sum((1, 2, 3), keepdim=True) / (9 * w[0].numel())).sqrt()
        return (w.flatten(1) @ self.a.T).view_as(w)


def linear_energy(form, sigma, cov, data):
    """The energy of this form whose F gives the score -V^-1 (x - m) at the level sigma."""
    model = NoiseUNet(data, form=form, base="none", **{**PLAIN, "channels": [4]}).double()
    v2, one = sigma**2 + data.scale**2, torch.eye(4, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(cov + sigma**2 * one)
    precision, root = vectors / values @ vectors.T, vectors / values.sqrt() @ vectors.T
    a = {
        "scalar": sigma / (2 * data.scale) * (one - v2 * precision),
        "half": sigma / data.scale * (one - v2 * precision),
        "residual": (sigma * one - v2 * root) / data.scale,
    }[form]
    model.net = Linear(a, form)  # pyright: ignore
    return model, precision


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_every_form_is_exact_for_gaussian_data(form, sigma, generator):
    """Score -V^-1 (x - m), and E(x) - E(m) = (x - m)' V^-1 (x - m) / 2."""
    cov = covariance(4, generator)
    x = torch.randn(300, 4, generator=generator, dtype=torch.float64) @ torch.linalg.cholesky(cov).T
    data = Points(x.view(300, 1, 2, 2), (-9.0, 9.0))
    model, precision = linear_energy(form, sigma, cov, data)
    y = 2 * data.train[:20]
    z = (y - data.mean).flatten(1)
    torch.testing.assert_close(model.score(y, sigma).flatten(1), -z @ precision, rtol=1e-9, atol=1e-9)
    energy = model.energy(y, sigma) - model.energy(data.mean[None].double(), sigma)
    torch.testing.assert_close(energy, 0.5 * (z @ precision * z).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_exp_of_minus_the_energy_is_normalised_where_it_is_the_base(form, generator):
    """F that makes the law N(mean, v^2 I): E = -log of its density."""
    data = Points(torch.randn(50, 1, 2, 2, generator=generator).double(), (-9.0, 9.0))
    model, _ = linear_energy(form, 0.7, data.scale**2 * torch.eye(4).double(), data)
    x, v = data.train[:9], math.hypot(0.7, data.scale)
    law = torch.distributions.Normal(data.mean, v)
    torch.testing.assert_close(model.energy(x, 0.7), -law.log_prob(x).flatten(1).sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sigma", [0.1, 0.7, 5.0])
def test_z_is_finite_at_every_level_however_fast_f_grows(form, sigma, generator):
    """With F = 100 w, E / |u|^2 tends to 1/2, or to sigma^2 / (2 v^2) for `residual`."""
    data = Points(torch.randn(50, 1, 2, 2, generator=generator).double(), (-9.0, 9.0))
    model = NoiseUNet(data, form=form, base="none", **{**PLAIN, "channels": [4]}).double()
    model.net = Linear(100 * torch.eye(4).double(), "half")  # pyright: ignore
    far = 1e9 * data.train[:9]
    u, _, v = model.inputs(far, sigma)
    ratio = model.energy(far, sigma).detach() / u.flatten(1).square().sum(1)
    limit = 0.5 * (sigma / float(v)) ** 2 if form == "residual" else 0.5
    torch.testing.assert_close(ratio, torch.full_like(ratio, limit), rtol=0.01, atol=0)


def test_the_network_sees_u_itself_near_the_data_and_a_bounded_copy_far_away(generator):
    u = torch.randn(5, 1, 3, 3, generator=generator, dtype=torch.float64)
    u = u / u.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1)
    assert torch.equal(confined(0.99 * FREE * u), 0.99 * FREE * u)
    assert confined(1e6 * u).flatten(1).square().mean(1).sqrt().tolist() == pytest.approx([2 * FREE] * 5)
    r = torch.tensor([FREE - 1e-9, FREE + 1e-9], dtype=torch.float64, requires_grad=True)
    length = confined(r.view(2, 1, 1, 1) * u[:1]).flatten(1).square().mean(1).sqrt()
    (slope,) = torch.autograd.grad(length.sum(), r, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), r)
    assert slope.tolist() == pytest.approx([1, 1]) and bend.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_residual_replaces_the_base(generator):
    with pytest.raises(UserError, match="energy.form=residual: replaces the base, so energy.base=gaussian must be"):
        NoiseUNet(images(generator), form="residual", base="gaussian", **PLAIN)


def test_half_has_the_scores_of_a_score_network_with_its_linear_f(generator):
    data = Points(torch.randn(50, 1, 2, 2, generator=generator).double(), (-9.0, 9.0))
    a = covariance(4, generator)
    energy, network = (
        build(data, **{**PLAIN, "channels": [4]}).double()
        for build in (lambda d, **k: NoiseUNet(d, form="half", base="none", **k), ScoreUNet)
    )
    energy.net = network.net = Linear(a, "half")  # pyright: ignore
    sigma = torch.linspace(0.1, 5, 50, dtype=torch.float64)
    torch.testing.assert_close(energy.score(data.train, sigma), network.score(data.train, sigma), rtol=1e-9, atol=1e-9)


def test_the_score_network_is_edm_s_preconditioned_denoiser(generator):
    """x + sigma^2 s = mean + c_skip (x - mean) + c_out F(c_in (x - mean))."""
    data = images(generator)
    model = shaken(ScoreUNet(data, **NORMED))
    x, sigma, s = data.train[:3].double(), 0.7, data.scale
    c_skip, c_out = s**2 / (s**2 + sigma**2), sigma * s / math.hypot(s, sigma)
    f = model.net((x - model.mean) / math.hypot(s, sigma), model.ladder.height(torch.tensor([sigma], dtype=x.dtype)))
    expected = model.mean + c_skip * (x - model.mean) + c_out * f.detach()
    torch.testing.assert_close(x + sigma**2 * model.score(x, sigma), expected, rtol=1e-9, atol=1e-9)


def test_the_plain_network_is_the_first_version_s():
    """The values and the names of commit 10f08e1, so that old checkpoints load and give what they gave."""
    torch.manual_seed(3)
    net = shaken(UNet(1, [4, 8], "silu"))
    y = net(torch.linspace(-2, 2, 128, dtype=torch.float64).view(2, 1, 8, 8), torch.tensor([-0.5, 0.7]).double())
    found = [float(t) for t in (y.detach().sum(), y[0, 0, 3, 4].detach())]
    assert found == pytest.approx([-46.667471406, -0.61886104], rel=1e-7)
    assert len(net.state_dict()) == 28 and list(net.state_dict())[::27] == ["enter.weight", "film.outer.bias"]


def test_an_old_run_has_the_first_version_s_settings(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "energy: {name: noise_unet, channels: [4]}\nobjective: {name: jem, generative: {name: multi_dsm}}\n"
    )
    config = RunDir(tmp_path).read_config()
    plain = {"blocks": 1, "norm": "none", "patch": 1, "film_width": 32}
    assert config["energy"] == {"name": "noise_unet", "channels": [4], "base": "none", "form": "scalar", **plain}
    assert config["objective"]["generative"]["weight"] == "sigma2"


def test_a_patch_moves_pixels_to_channels(generator):
    """The same weights between a shuffle of the pixels and its inverse."""
    whole, inner = (shaken(UNet(c, [4, 8], "silu", patch=p)) for c, p in ((1, 2), (4, 1)))
    inner.load_state_dict(whole.state_dict())
    u, c = torch.randn(3, 1, 8, 12, generator=generator).double(), torch.zeros(3).double()
    split = u.view(3, 4, 2, 6, 2).permute(0, 2, 4, 1, 3).reshape(3, 4, 4, 6)
    expected = inner(split, c).view(3, 2, 2, 4, 6).permute(0, 3, 1, 4, 2).reshape(3, 1, 8, 12)
    torch.testing.assert_close(whole(u, c), expected)


def test_a_patch_must_divide_the_image(generator):
    with pytest.raises(UserError, match="energy.patch=3: must divide the height and width of the images, 8 and 8"):
        ScoreUNet(images(generator), **{**PLAIN, "patch": 3})


def test_group_norm_makes_blocks_scale_free_and_keeps_images_apart(generator):
    """A block sees its input only up to a factor, and an image's output is the same in any batch."""
    net = shaken(UNet(1, [8, 16], "silu", norm="group", blocks=2)).double()
    u, c = torch.randn(4, 1, 8, 8, generator=generator).double(), torch.linspace(-1, 1, 4).double()
    torch.testing.assert_close(net(u, c)[1:2], net(u[1:2], c[1:2]))
    h, film = torch.randn(2, 8, 4, 4, generator=generator).double(), (torch.ones(2, 8).double(),) * 2
    block = net.down_blocks[0]
    torch.testing.assert_close(block(1e3 * h, film) - 1e3 * h, block(h, film) - h, rtol=1e-3, atol=1e-3)
    assert len(net.down_blocks) == len(net.up_blocks) == 4


def test_the_film_s_width_is_a_setting(generator):
    model = ScoreUNet(images(generator), **{**PLAIN, **LADDER, "film_width": 7})
    assert model.net.film.inner.out_features == 7
