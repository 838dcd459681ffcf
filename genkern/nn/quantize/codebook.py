"""A codebook that follows the vectors given to it: exponential moving averages, revival of dead codes, k-means."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from ... import random
from ...ops import vq_assign
from ...ops._checks import check


class Usage(NamedTuple):
    """Of the codes by one batch of all processes: scalars, means over heads."""

    perplexity: Tensor  # e^entropy of the frequencies: the number of codes, if all were equally frequent
    fraction: Tensor  # of the codes that occur


class Statistics(NamedTuple):
    """Of the vectors of a batch in all processes."""

    counts: Tensor  # [heads, K], float64
    sums: Tensor  # [heads, K, D], float64
    candidates: Tensor  # [heads, K, D]: vectors that may replace dead codes
    eligible: Tensor  # [K]: False where a candidate is that of another code


def unit(x: Tensor, dim: int = -1) -> Tensor:
    return normalize(x, dim=dim, eps=1e-6)


class Codebook(nn.Module):
    r"""Codes ``[heads, K, D]`` and how they are learnt.

    With ``ema_update``, from counts and sums of the vectors of each code:

    .. math:: n \leftarrow \gamma n + (1 - \gamma) \mathrm{counts}, \quad
              m \leftarrow \gamma m + (1 - \gamma) \mathrm{sums}, \quad
              c = m \Big/ \frac{n + \epsilon}{\sum n + K \epsilon} \sum n

    A code with ``n`` below ``threshold_ema_dead_code`` is set to a vector of the batch, with count and sum to match.
    Which one follows from ``key``, the number of the update and the batch of all processes together: several processes
    keep the codebook of one, bit for bit. Nothing waits for the device. The update happens in ``forward`` in training;
    activation checkpointing, which runs that twice, must not contain it.

    Args:
        dim: D, features of a code.
        codebook_size: K.
        heads: codebooks side by side.
        decay, eps: :math:`\gamma` and :math:`\epsilon`.
        kmeans_init, kmeans_iters: begin with the means of the first batch's clusters, after so many iterations.
        threshold_ema_dead_code: below which count a code is dead; 0: none is.
        reset_cluster_size: the count of a revived code; None: that threshold.
        use_cosine_sim: codes of length 1, found by the cosine.
        learnable_codebook: codes are a parameter; with ``ema_update`` statistics move them as well.
        ema_update, manual_ema_update: whether codes follow the statistics; and whether `update_ema` is the caller's.
        sync: add up statistics over processes; None: where there are several.

    van den Oord et al. 2017 (arXiv:1711.00937), appendix A.1; revival as Dhariwal et al. 2020 (arXiv:2005.00341).
    """

    initted: Tensor
    cluster_size: Tensor
    embed_avg: Tensor
    embed: Tensor
    key: Tensor
    step: Tensor

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        heads: int = 1,
        decay: float = 0.8,
        eps: float = 1e-5,
        kmeans_init: bool = False,
        kmeans_iters: int = 10,
        threshold_ema_dead_code: float = 0,
        reset_cluster_size: float | None = None,
        use_cosine_sim: bool = False,
        learnable_codebook: bool = False,
        ema_update: bool = True,
        manual_ema_update: bool = False,
        sync: bool | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        for argument, size in (("dim", dim), ("codebook_size", codebook_size), ("heads", heads)):
            check(size >= 1, name, argument, "at least 1", size)
        check(0 <= decay <= 1, name, "decay", "in [0, 1]", decay)
        self.codebook_size, self.heads, self.decay, self.eps = codebook_size, heads, decay, eps
        self.kmeans_iters, self.threshold_ema_dead_code = kmeans_iters, threshold_ema_dead_code
        self.reset_cluster_size = threshold_ema_dead_code if reset_cluster_size is None else reset_cluster_size
        self.use_cosine_sim, self.learnable_codebook = use_cosine_sim, learnable_codebook
        self.ema_update, self.manual_ema_update, self.sync = ema_update, manual_ema_update, sync
        self.pending = kmeans_init  # on the host: asking the buffer would wait for the device
        embed = torch.zeros(heads, codebook_size, dim)
        if not kmeans_init:
            nn.init.kaiming_uniform_(embed)
            embed = unit(embed) if use_cosine_sim else embed
        self.register_buffer("initted", torch.tensor(not kmeans_init))
        self.register_buffer("cluster_size", torch.ones(heads, codebook_size))
        self.register_buffer("embed_avg", embed.clone())
        if learnable_codebook:
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)
        self.register_buffer("key", torch.randint(-(2**63), 2**63 - 1, ()))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self, x: Tensor, *, dim: int = -1, mask: Tensor | None = None, freeze: bool = False
    ) -> tuple[Tensor, Tensor, Usage | None]:
        """Quantises ``x`` with the codes as they are, then updates these (in training, unless ``freeze``).

        Args:
            x: vectors with ``heads * D`` features in dimension ``dim``; of length 1, where ``use_cosine_sim``.
            mask: of the shape of ``x`` without ``dim``: True where there is a vector.

        Returns:
            The codes, in the shape of ``x``; their indices, with heads last where there are several; in training, the
            `Usage`.
        """
        dim = dim % x.dim()
        features = self.heads * self.embed.shape[-1]
        check(x.shape[dim] == features, type(self).__name__, "x", f"{features} features in dimension {dim}", x.shape)
        if self.pending:
            self._initialize(x, dim, mask)
        if not self.training:
            index = vq_assign(x, self._codes(), dim=dim, mask=mask).indices
            return self.gather(index, dim), index, None
        rows = Rows(self, x, dim, mask)
        index, counts, sums = rows.assign(self._codes())
        quantized = self.gather(index, dim)
        statistics = rows.across_processes(counts, sums)
        if not freeze and (self.ema_update or self.threshold_ema_dead_code > 0):
            self.observe(statistics)
        return quantized, index, _usage(statistics.counts)

    def gather(self, index: Tensor, dim: int = -1) -> Tensor:
        """The codes of indices (with heads last, where there are several), their features in ``dim``."""
        index = index.clamp(min=0)
        if self.heads == 1:
            codes = embedding(index, self.embed[0])
        else:
            codes = self.embed[torch.arange(self.heads, device=index.device), index].flatten(-2)
        return codes if dim in (-1, codes.dim() - 1) else codes.movedim(-1, dim).contiguous()

    def _codes(self) -> Tensor:
        return self.embed.detach() if self.heads > 1 else self.embed.detach()[0]

    # -- learning -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def observe(self, statistics: Statistics) -> None:
        """Moves averages and codes, and revives codes that have died."""
        weight = 1 - self.decay
        self.cluster_size.lerp_(statistics.counts.to(self.cluster_size), weight)
        self.embed_avg.lerp_(statistics.sums.to(self.embed_avg), weight)
        self.step += 1
        if self.ema_update and not self.manual_ema_update:
            self.update_ema()
        if self.threshold_ema_dead_code > 0:
            self.revive(statistics.candidates, statistics.eligible)

    @torch.no_grad()
    def update_ema(self) -> None:
        """Codes from averages, counts smoothed after Laplace."""
        total = self.cluster_size.sum(-1, keepdim=True)
        smoothed = (self.cluster_size + self.eps) / (total + self.codebook_size * self.eps) * total
        codes = self.embed_avg / smoothed.unsqueeze(-1)
        self.embed.copy_(unit(codes) if self.use_cosine_sim else codes)

    @torch.no_grad()
    def revive(self, candidates: Tensor, eligible: Tensor) -> None:
        """Code, sum and count of each dead code become those of a vector that occurred ``reset_cluster_size`` times."""
        dead = (self.cluster_size < self.threshold_ema_dead_code) & eligible
        for tensor, value in (
            (self.embed, candidates),
            (self.embed_avg, candidates * self.reset_cluster_size),
            (self.cluster_size, torch.full_like(self.cluster_size, self.reset_cluster_size)),
        ):
            where = dead if tensor.dim() == 2 else dead.unsqueeze(-1)
            tensor.copy_(torch.where(where, value.to(tensor), tensor))

    @torch.no_grad()
    def _initialize(self, x: Tensor, dim: int, mask: Tensor | None) -> None:
        """Lloyd's algorithm from vectors of the first batch; a mean without vectors stays where it is."""
        rows = Rows(self, x, dim, mask)
        none = torch.zeros(self.heads, self.codebook_size, device=x.device, dtype=torch.float64)
        means = rows.across_processes(none, none.unsqueeze(-1).expand(self.embed.shape)).candidates
        counts = none
        for _ in range(self.kmeans_iters):
            index, counts, sums = rows.assign((means if self.heads > 1 else means[0]).to(self.embed.dtype))
            counts, sums, *_ = rows.across_processes(counts, sums)
            moved = sums / counts.clamp(min=1).unsqueeze(-1)
            means = torch.where(counts.unsqueeze(-1) > 0, unit(moved) if self.use_cosine_sim else moved, means)
        self.embed.copy_(means)
        self.embed_avg.copy_(means * counts.unsqueeze(-1))
        self.cluster_size.copy_(counts)
        self.initted.fill_(True)
        self.step += 1
        self.pending = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("key", "step"):  # a state of another library has none: then it keeps its own
            state_dict.setdefault(f"{prefix}{name}", getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}initted" in state_dict:
            self.pending = not bool(state_dict[f"{prefix}initted"])


class Rows:
    """The vectors of a batch as rows, numbered through all processes in the order of their ranks."""

    def __init__(self, codebook: Codebook, x: Tensor, dim: int, mask: Tensor | None):
        self.codebook, self.x, self.dim, self.mask = codebook, x.detach(), dim, mask
        outer, inner = x.shape[:dim].numel(), x.shape[dim + 1 :].numel()
        self.vectors = self.x.reshape(outer, codebook.heads, codebook.embed.shape[-1], inner)  # [O, heads, D, I]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.get_world_size() if distributed and codebook.sync is not False else 1
        self.world, rank = world, torch.distributed.get_rank() if world > 1 else 0
        keep = None if mask is None else mask.reshape(-1)
        rows = torch.full((), outer * inner, device=x.device) if keep is None else keep.sum()
        self.valid = None if keep is None else keep.cumsum(0)  # the number of a row, counted from 1
        self.bound: Tensor | None = None
        sizes = rows.double().view(1)
        if world > 1:
            shared = torch.zeros(world + 1, dtype=torch.float64, device=x.device)
            shared[0], shared[1 + rank] = self._largest(), sizes[0]
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
            self.bound, sizes = shared[0], shared[1:]
        self.total, self.first, self.rows = sizes.sum(), sizes[:rank].sum(), sizes[rank]

    def _largest(self) -> Tensor:
        x = self.x if self.mask is None else self.x.where(self.mask.bool().unsqueeze(self.dim), 0)
        if x.numel() == 0:
            return torch.zeros((), dtype=torch.float64, device=x.device)
        return torch.stack(torch.aminmax(x)).abs().amax().double()

    def assign(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, counts ``[heads, K]`` and sums ``[heads, K, D]`` of this process."""
        found = vq_assign(self.x, codes, dim=self.dim, mask=self.mask, statistics=True, bound=self.bound)
        assert found.counts is not None and found.sums is not None
        shape = self.codebook.embed.shape
        return found.indices, found.counts.double().view(shape[:2]), found.sums.view(shape)

    def across_processes(self, counts: Tensor, sums: Tensor) -> Statistics:
        """Sums over processes; and for each code a vector of the whole batch, none twice where there are enough."""
        codebook = self.codebook
        codes = codebook.codebook_size
        if codebook.threshold_ema_dead_code > 0 or codebook.pending:
            u = random.uniform(random.fold_in(codebook.key, codebook.step), (codes + 1,)).double()
            edges = (torch.arange(codes + 1, device=u.device) * self.total / codes).floor()
            start, length = edges[:-1], edges.diff()  # a stretch of the whole batch for every code, perhaps empty
            eligible = length > 0
            place = (start + (u[:-1] * length).floor() + (u[-1] * self.total).floor()) % self.total.clamp(min=1)
            candidates = self._rows_at((place - self.first).long())
        else:
            candidates, eligible = sums.new_zeros(0), torch.zeros((), dtype=torch.bool, device=counts.device)
        if self.world > 1:
            parts = [counts, sums, candidates]
            flat = torch.cat([part.reshape(-1) for part in parts])
            torch.distributed.all_reduce(flat)
            counts, sums, candidates = (
                piece.view_as(part)
                for piece, part in zip(flat.split([part.numel() for part in parts]), parts, strict=True)
            )
        return Statistics(counts, sums, candidates, eligible)

    def _rows_at(self, number: Tensor) -> Tensor:
        """The vectors of this process with these numbers, ``[heads, K, D]`` in float64; 0 where they are another's."""
        outer, heads, features, inner = self.vectors.shape
        if outer * inner == 0:
            return torch.zeros(heads, len(number), features, dtype=torch.float64, device=number.device)
        mine = (number >= 0) & (number < self.rows)
        row = number.clamp(min=0) if self.valid is None else torch.searchsorted(self.valid, number + 1)
        row = row.clamp(max=outer * inner - 1)
        vectors = self.vectors[row // inner, :, :, row % inner].double()  # [K, heads, D]
        return torch.where(mine[:, None, None], vectors, 0).transpose(0, 1).contiguous()


def _usage(counts: Tensor) -> Usage:
    frequency = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    entropy = -torch.xlogy(frequency, frequency).sum(-1)
    return Usage(entropy.exp().mean().float(), (counts > 0).double().mean().float())
