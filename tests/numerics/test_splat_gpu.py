"""The Triton splat: interpreted on a CPU, compiled for a GPU that need not be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from gidlite.render import splat as module
from gidlite.render.splat import MODES, ReferencePlan

triton = pytest.importorskip("triton", reason="NOT CHECKED: Triton is not installed")
from gidlite.render import splat_gpu as gpu  # noqa: E402

# Triton decides when it is imported, so the interpreter needs a process of its own.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PHASES = Phase.explicit, Phase.generate  # making a failure small takes minutes
compiled = pytest.mark.skipif(INTERPRETED, reason="needs the compiler")


def results(plan, features, motion, metric, mode):
    """Return the splat, the coverage, and gradients that both send to features, motion, metric."""
    leaves = [x.clone().requires_grad_() for x in (features, motion, metric)]
    used = leaves if mode in ("linear", "softmax") else leaves[:2]
    made = plan(leaves[1], leaves[2] if len(used) == 3 else None, mode)
    out, coverage = made.splat(leaves[0]), made.coverage()
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
    loss = (out * weight).sum() + coverage.square().sum()
    return [out.detach(), coverage.detach(), *torch.autograd.grad(loss, used)]


def check(seed, size, mode, *, moves, range_z, lost=False, dtype=torch.float32, device="cpu"):
    """Compare with the reference in double precision, relative to the largest value."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(size, generator=generator)
    motion = moves * torch.randn(size[0], 2, *size[2:], generator=generator)
    metric = range_z * torch.rand(size[0], 1, *size[2:], generator=generator) + 0.1
    if lost:
        motion[0, 0, 0, 0], motion[-1, 1, -1, -1] = float("nan"), float("-inf")
    inputs = [x.to(device, dtype) for x in (features, motion, metric)]
    exact = results(ReferencePlan, *(x.double() for x in inputs), mode)
    limit = 1e-5 if dtype == torch.float32 else 1e-9  # a gradient is as steep as targets are thin
    for found, expected in zip(results(gpu.CompiledPlan, *inputs, mode), exact, strict=True):
        assert (found - expected).abs().max() <= limit * expected.abs().max().clamp(min=1)


@pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=6, deadline=None, derandomize=True, phases=PHASES)
@example(0, (2, 18, 9, 11), torch.float32, 3, 30, True)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 2), st.integers(1, 18), st.integers(2, 12), st.integers(2, 14)),
    st.just(torch.float64),
    st.sampled_from([3, 0.3, 30, 0]),
    st.sampled_from([30, 1, 3000]),
    st.booleans(),
)
def test_triton_agrees_with_the_reference(mode, seed, size, dtype, moves, range_z, lost):
    check(seed, size, mode, moves=moves, range_z=range_z, lost=lost, dtype=dtype)


@compiled
def test_in_the_interpreter():
    """The test above, and what any splat must do, but for what takes it minutes."""
    files = [Path(__file__), Path(__file__).with_name("test_splat.py")]
    tests = "triton and not test_gradient and not test_half"
    command = [sys.executable, "-m", "pytest", "-q", "-k", tests, *files]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


@compiled
@pytest.mark.parametrize("kind", ["fp32", "fp64"])
@pytest.mark.parametrize("absent", [(), ("largest", "total")])
def test_kernels_compile_for_a_gpu_that_need_not_be_here(kind, absent, tmp_path, monkeypatch):
    """The interpreter takes what the compiler refuses, types above all."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    target = triton.backends.compiler.GPUTarget("cuda", 80, 32)
    for kernel in (gpu._find_largest, gpu._scatter, gpu._scatter_backward, gpu._share_backward):
        constants = {} if kernel is gpu._find_largest else dict.fromkeys(absent)
        numbers = dict.fromkeys(("batch", "channels", "height", "width"), "i32")
        types = {**numbers, **dict.fromkeys(constants, "constexpr")}
        signature = {name: types.get(name, f"*{kind}") for name in kernel.arg_names}
        source = triton.compiler.ASTSource(kernel, signature, constants)
        assert triton.compile(source, target=target).asm["cubin"]


@compiled
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: no GPU here")
@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_the_reference_on_a_gpu(mode):
    check(0, (2, 35, 130, 90), mode, moves=3, range_z=30, lost=True, device="cuda")


@compiled
def test_who_splats_on_a_gpu(monkeypatch):
    for plan in (gpu.CompiledPlan, ReferencePlan):
        monkeypatch.setattr(plan, "__init__", lambda *_: None)
    with FakeTensorMode():
        motion, line = (torch.empty(1, 2, height, 4, device="cuda") for height in (4, 1))

        def kind(motion):
            return type(module._make_plan(motion, None, "average"))

        if not torch.cuda.is_available():
            assert kind(motion) is ReferencePlan  # what starts kernels cannot be built
        monkeypatch.setattr(gpu, "_starts", lambda: True)
        assert kind(motion) is gpu.CompiledPlan and kind(line) is ReferencePlan
        monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert kind(motion) is ReferencePlan
