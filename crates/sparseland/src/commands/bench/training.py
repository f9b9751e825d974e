"""One training step of each model in PyTorch, for `sparseland bench training`. Prints one JSON object."""
import json, math, resource, sys, time
import torch
import torch.nn as nn
import torch.nn.functional as F

model, threads, steps, warm = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
torch.manual_seed(0)
DIM, LAYERS, HEADS, INNER, VOCABULARY, BATCH, LENGTH = 256, 6, 8, 688, 4096, 8, 256


class SparseLowRank(nn.Module):
    """W = s B A + S, built densely in every pass, as the authors do; the backward pass rebuilds it."""

    def __init__(self, inner, out, rank, delta):
        super().__init__()
        self.shape, self.scale = (out, inner), 32 / rank
        bound = 1 / math.sqrt(inner)
        self.a = nn.Parameter(torch.empty(rank, inner).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(out, rank))
        index = torch.randperm(out * inner)[: int(delta * out * inner)].sort().values
        self.register_buffer("index", index)
        self.values = nn.Parameter(torch.empty(len(index)).uniform_(-bound, bound))

    def forward(self, x):
        return Rebuild.apply(x, self.b, self.a, self.values, self.index, self.scale)


class Rebuild(torch.autograd.Function):
    @staticmethod
    def weight(b, a, values, index, scale):
        w = scale * (b @ a)
        w.view(-1).index_add_(0, index, values)
        return w

    @staticmethod
    def forward(ctx, x, b, a, values, index, scale):
        ctx.save_for_backward(x, b, a, values, index)
        ctx.scale = scale
        return F.linear(x, Rebuild.weight(b, a, values, index, scale))

    @staticmethod
    def backward(ctx, g):
        x, b, a, values, index = ctx.saved_tensors
        dx = g @ Rebuild.weight(b, a, values, index, ctx.scale)
        dw = g.flatten(0, -2).t() @ x.flatten(0, -2)
        return dx, ctx.scale * dw @ a.t(), ctx.scale * b.t() @ dw, dw.view(-1)[index], None, None


def linear(inner, out):
    if model == "decoder-sltrain":
        return SparseLowRank(inner, out, 64, 0.03)
    return nn.Linear(inner, out, bias=False)


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(DIM, 1e-5), nn.RMSNorm(DIM, 1e-5)
        self.q, self.k, self.v, self.o = (linear(DIM, DIM) for _ in range(4))
        self.gate, self.up, self.down = linear(DIM, INNER), linear(DIM, INNER), linear(INNER, DIM)

    def forward(self, x, cos, sin):
        h = self.n1(x)
        heads = lambda y: y.view(BATCH, LENGTH, HEADS, -1).transpose(1, 2)
        q, k, v = rotate(heads(self.q(h)), cos, sin), rotate(heads(self.k(h)), cos, sin), heads(self.v(h))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(BATCH, LENGTH, DIM))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = nn.RMSNorm(DIM, 1e-5), nn.Linear(DIM, VOCABULARY, bias=False)
        half = DIM // HEADS // 2
        angles = torch.outer(torch.arange(LENGTH).float(), 10000 ** (-torch.arange(half) / half))
        self.cos, self.sin = angles.cos(), angles.sin()

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


if model.startswith("decoder"):
    net = Decoder()
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    inputs, targets = ids[:, :-1], ids[:, 1:].reshape(-1)
else:
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10),
    )
    inputs, targets = torch.randn(128, 1, 28, 28), torch.randint(0, 10, (128,))

optimiser = torch.optim.AdamW(net.parameters(), lr=3e-4, foreach=True)
seconds = []
for step in range(warm + steps):
    start = time.perf_counter()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=model == "decoder-bf16"):
        logits = net(inputs)
    loss = F.cross_entropy(logits.float().flatten(0, -2), targets)
    loss.backward()
    optimiser.step()
    if step >= warm:
        seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak, "engine": "pytorch " + torch.__version__}))
