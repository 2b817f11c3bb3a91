"""Gradients by the model's own passes: those of the loop, at any weights, and nothing of the model is changed."""

import warnings

import pytest
import torch
from torch import distributed, nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import ireg
from ireg.core.differenced_hessian import DifferencedHessian
from ireg.core.functional import detached_parameters, functional_loss
from ireg.core.hessian import MeanHessian
from ireg.core.moments import gradient_moments
from ireg.core.own_passes import OwnPasses
from ireg.core.sharpness import batch_sharpness, minibatch_curvatures
from ireg.measured_loss import own_passes
from ireg.terms.named import chosen_terms

NEEDS = ("mean", "square")


class Network(nn.Module):
    """With a buffer that passes change, a weight that the loss does not use, and a frozen one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
        self.unused, self.frozen = nn.Linear(2, 2), nn.Linear(3, 3).requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        self.calls += 1
        return self.frozen(self.body(inputs))


def batches(kind=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [tuple(torch.randn(6, size, generator=generator).to(kind) for size in (4, 3)) for _ in range(3)]


def elsewhere(model):
    generator = torch.Generator().manual_seed(2)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator).to(value)
        for name, value in detached_parameters(model).items()
        if "frozen" not in name
    }


def test_moments_are_those_of_the_loop_at_the_models_weights_and_elsewhere():
    model = Network().double()
    loss = own_passes(model, mse_loss, None)
    for params in (elsewhere(model), {name: detached_parameters(model)[name] for name in elsewhere(model)}):
        seen: list[torch.Tensor] = []
        found = gradient_moments(
            loss, params, batches(), observer=lambda first, outputs, seen=seen: seen.append(outputs)
        )
        expected = gradient_moments(functional_loss(model, mse_loss), params, batches(), method="loop")
        assert found.method == "backward"
        torch.testing.assert_close(found.losses, expected.losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.sq_norms, expected.sq_norms, rtol=1e-12, atol=0)
        for name in params:
            for kind in NEEDS:
                torch.testing.assert_close(
                    getattr(found, kind)[name], getattr(expected, kind)[name], rtol=1e-10, atol=0
                )
        assert [tuple(outputs.shape) for outputs in seen] == [(1, 6, 3)] * 3
        assert float(found.square["unused.weight"].sum()) == 0.0


def test_nothing_of_the_model_is_changed():
    model = Network()
    other = nn.Parameter(torch.ones(3))  # of the loss alone
    other.grad = torch.full((3,), 7.0)
    steps = []
    model.body[0].weight.register_post_accumulate_grad_hook(lambda value: steps.append(value))
    grads = {}
    for name, value in model.named_parameters():
        if "bias" in name:
            value.grad = grads[name] = torch.rand_like(value)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    values = {name: value.clone() for name, value in grads.items()}
    random = torch.get_rng_state()
    loss = own_passes(model, None, lambda model, batch: (mse_loss(model(batch[0]), batch[1]) * other).sum())
    gradient_moments(loss, elsewhere(model), batches(torch.float32))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    for name, value in model.named_parameters():
        assert value.grad is grads.get(name)
        assert value.grad is None or torch.equal(value.grad, values[name])
    assert steps == []
    assert other.grad.tolist() == [7.0] * 3
    assert torch.equal(torch.get_rng_state(), random)
    mse_loss(model(batches(torch.float32)[0][0]), batches(torch.float32)[0][1]).backward()
    assert len(steps) == 1  # the hook is back


def test_weights_that_a_forward_pass_writes_to_are_restored():
    class Writing(nn.Linear):
        def forward(self, inputs):
            with torch.no_grad():
                self.weight.mul_(0.5)
            return super().forward(inputs)

    model = Writing(4, 3).double()
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"optimizer": optimizer, "criterion": mse_loss, "terms": ["ireg/sgd"]}
    found = ireg.measure(model, batches()[:1], method="backward", **arguments)
    assert torch.equal(model.weight, before)
    assert found == pytest.approx(ireg.measure(model, batches()[:1], **arguments), rel=1e-12)


def test_an_error_in_a_pass_leaves_the_model_as_it_was():
    model = Network().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fails(outputs, targets):
        raise RuntimeError("no")

    loss = own_passes(model, fails, None)
    for _ in range(2):  # and it can be asked again
        with pytest.raises(RuntimeError, match="no"):
            gradient_moments(loss, elsewhere(model), batches())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_measured_by_its_own_graph(backend):
    model = Network().double()
    compiled = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments = {"optimizer": optimizer, "criterion": mse_loss, "terms": ["ireg/sgd", "ireg/full_batch"]}
    found = ireg.measure(compiled, batches(), method="backward", **arguments)
    assert found == pytest.approx(ireg.measure(model, batches(), method="loop", **arguments), rel=1e-12)


def test_autocast_of_the_loss_acts_as_in_training():
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    batch = batches(torch.float32)[0]

    def loss(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return mse_loss(model(batch[0]).float(), batch[1])

    moments = ireg.gradient_moments(model, [batch], loss=loss, method="backward")
    loss(model, batch).backward()
    assert all(torch.equal(moments.mean[name], value.grad) for name, value in model.named_parameters())


def test_what_it_cannot_do_is_said():
    model = nn.Linear(4, 3)
    passes, params = own_passes(model, mse_loss, None), detached_parameters(model)
    pairs = batches(torch.float32)
    with pytest.raises(ValueError, match="method='backward' needs the model, and the loss is a function; give"):
        gradient_moments(lambda params, batch: params["weight"].sum(), params, pairs, method="backward")
    with pytest.raises(ValueError, match="method='vmap': not for a model's own passes; choose auto, backward or loop"):
        gradient_moments(passes, params, pairs, method="vmap")
    with pytest.raises(ValueError, match="own passes .* give no second derivatives; leave theory"):
        MeanHessian(passes, params, pairs)(params)
    with passes.opened(params), pytest.raises(RuntimeError, match="cannot be replaced twice"), passes.opened(params):
        pass
    halves = {name: value.bfloat16() for name, value in params.items()}
    with pytest.raises(ValueError, match="weight is torch.bfloat16: a step of the size that differences need is lost"):
        DifferencedHessian(passes, halves, pairs)
    loop = gradient_moments(passes, params, pairs, method="loop")
    torch.testing.assert_close(loop.sq_norms, gradient_moments(passes, params, pairs).sq_norms)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-3)])
def test_products_by_differences(kind, tolerance):
    model = Network().to(kind)
    params, pairs = elsewhere(model), batches(kind)
    exact = MeanHessian(
        functional_loss(model.double(), mse_loss), {k: v.double() for k, v in params.items()}, batches()
    )
    expected_batches = [tuple(part.double() for part in pair) for pair in pairs]
    exact.batches = expected_batches
    direction = {name: value - detached_parameters(model)[name].to(kind) for name, value in params.items()}
    expected = exact({name: value.double() for name, value in direction.items()})
    flat = torch.cat([value.flatten() for value in expected.values()])
    model.to(kind)
    hessian = DifferencedHessian(own_passes(model, mse_loss, None), params, pairs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = torch.cat([value.double().flatten() for value in hessian(direction).values()])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    off = float((found - flat).norm() / flat.norm())
    assert off < tolerance
    assert off < hessian.error < 100 * tolerance  # the estimate is an upper bound, and no useless one
    assert hessian.error_along(direction) == hessian.error
    assert float(hessian.along(direction)) == pytest.approx(
        float(sum((direction[name].double() * value).sum() for name, value in expected.items())), rel=tolerance
    )
    zero = hessian({name: torch.zeros_like(value) for name, value in direction.items()})
    assert all(float(value.abs().sum()) == 0.0 for value in zero.values())
    if kind == torch.float64:
        loss = functional_loss(model, mse_loss)
        curvatures = minibatch_curvatures(loss, params, pairs, direction)
        torch.testing.assert_close(hessian.curvatures(direction), curvatures, rtol=1e-7, atol=0)
        sharpness = batch_sharpness(loss, params, pairs)
        torch.testing.assert_close(hessian.batch_sharpness(), sharpness, rtol=1e-7, atol=0)
        weights = torch.tensor([1.0, -2.0, 0.5], dtype=kind)
        for name, value in hessian.gradient(weights).items():
            torch.testing.assert_close(value, exact.gradient(weights)[name], rtol=1e-10, atol=1e-14)


def test_a_loss_that_bends_within_the_step_is_marked():
    loss = OwnPasses(
        (model := nn.Linear(1, 1, bias=False)),
        model,
        lambda model, batch: ((1e4 * model(batch)).sin().sum(), None),
    )
    hessian = DifferencedHessian(loss, {"weight": torch.ones(1, 1)}, [torch.ones(1, 1)])
    with pytest.warns(UserWarning, match="by differences of gradients are off by about"):
        hessian({"weight": torch.ones(1, 1)})


def test_curvature_terms_by_both_derivatives():
    model = Network().double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    mse_loss(model(batches()[0][0]), batches()[0][1]).backward()
    optimizer.step()
    arguments = {"optimizer": optimizer, "criterion": mse_loss, "terms": list(chosen_terms("curvature"))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ireg.measure(model, batches(), method="backward", **arguments)
    expected = ireg.measure(model, batches(), **arguments)
    assert found.keys() == expected.keys()
    for tag in ("curvature/lambda_max", "curvature/batch_sharpness", "curvature/gni", "curvature/along_step"):
        assert found[tag] == pytest.approx(expected[tag], rel=1e-5), tag


@pytest.fixture
def one_rank():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("view", [True, False])
def test_gradients_stay_where_the_wrappers_buffers_are_written_again(one_rank, view):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    passes = own_passes(DistributedDataParallel(model, gradient_as_bucket_view=view), mse_loss, None)
    with passes.opened(detached_parameters(model)):
        found = [passes.passes(batch)[2] for batch in [*batches(), batches()[0]]]
    for batch, gradients in zip(batches(), found, strict=False):
        expected = torch.autograd.grad(mse_loss(model(batch[0]), batch[1]), list(model.parameters()))
        torch.testing.assert_close(list(gradients.values()), list(expected), rtol=1e-12, atol=0)


def test_gradients_of_training_stay_where_they_are_the_wrappers_buffers(one_rank):
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    for inputs, targets in batches()[:2]:  # the buffers are made again after the first
        model.zero_grad()
        mse_loss(wrapped(inputs), targets).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    passes = own_passes(wrapped, mse_loss, None)
    with passes.opened(detached_parameters(model)):
        passes.passes(batches()[2])
    assert all(value.grad is gradient for value, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(map(torch.equal, gradients, copies))


def test_no_backward_pass_where_no_gradient_is_asked_for(monkeypatch):
    module = Network().double()
    passes = own_passes(module, mse_loss, None)
    batch, weights = batches()[0], detached_parameters(module)
    expected = float(functional_loss(module, mse_loss)(weights, batch))
    monkeypatch.setattr(passes, "passes", None)
    assert float(passes(weights, batch)) == pytest.approx(expected, rel=1e-12)
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    with torch.no_grad():
        assert float(passes(leaves, batch)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(TypeError, match="not callable"):
        passes(leaves, batch)
