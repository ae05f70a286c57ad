"""What a training step on the CPU does, counted by kind of work: the cost model multiplies by the seconds of each.

A count says how often something is done, or over how many numbers. What the machine does with them (its caches, the
pages of new memory) is in the kinds: the same pass over a tensor is another kind of work where the tensor is larger.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import ceil, log2

from memplan.workload import Workload, share_of
from memplan.workload.rules import runs_numba

Work = dict[str, float]
"""Counts by kind."""
TILE = 720
"""Entities that the fused L1 kernel packs at once (tkbc.scoring.l1_cpu.TILE; a test compares)."""
SCORES_A_THREAD = 2**18
"""As tkbc.scoring.l1_numba.SCORES_A_THREAD (a test compares)."""
SIZES = {"256 KiB": 2**18, "1 MiB": 2**20, "4 MiB": 2**22, "16 MiB": 2**24}
"""Sizes of a tensor beyond which a pass over it takes longer: from a core's cache to main memory."""
STEP = 2.0
"""Doublings from one size to the next."""
BLOCK = 32
"""Columns of a matrix product's result that are computed together."""
FRESH_BYTES = 2**25
"""glibc takes larger blocks from the system at every allocation (DEFAULT_MMAP_THRESHOLD_MAX): page after page anew."""


def step_work(workload: Workload, n_examples: int | None = None) -> Work:
    """Return the work of one step, or of one of so many examples: a process's, for its rows and its part of them."""
    counter = _Counter(workload)
    counter.step()
    part = share_of(n_examples or workload.batch_size, workload.replicas, 0)
    full, last = divmod(len(part), workload.micro_batch_size)
    for times, queries in ((full, workload.micro_batch_size), (1, last)):
        if times and queries:
            counter.micro_batch(queries, times)
    return counter.work


def ranking_work(workload: Workload) -> Work:
    """Return the work of ranking as many queries as an epoch has examples."""
    counter = _Counter(workload)
    queries = workload.eval_batch_size
    times = -(-workload.n_examples // (queries * workload.replicas))
    counter.add("micro-batch", times)
    n_rows = len(workload.own_entities)
    passes = 1 if workload.eval_chunk_size >= n_rows else 2
    for n_chunks, size in _chunks(n_rows, workload.eval_chunk_size):
        counter.buffer_bytes = 4 * queries * min(workload.eval_chunk_size, n_rows)
        counter.forward(queries, size, times * n_chunks * passes)
        counter.scores(queries, size, times * n_chunks * passes, 2)
    return counter.work


def _chunks(n: int, size: int) -> list[tuple[int, int]]:
    """Return how many chunks there are of each size: whole ones, and a last one that is shorter."""
    whole, last = divmod(n, size)
    return [(times, c) for times, c in ((whole, size), (1, last)) if times and c]


class _Counter:
    """Adds up the work of a workload's parts."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.work: Work = defaultdict(float)
        self.buffer_bytes = 0
        self.by_kernel = runs_numba(workload)
        self.torch_threads = 1 if self.by_kernel else workload.threads
        self.is_plain = workload.scoring != "fused" and workload.score != "dot"
        self.is_half = workload.precision != "fp32"

    def add(self, kind: str, count: float) -> None:
        self.work[kind] += count

    def step(self) -> None:
        """Count what is done once a step: gradients to zero and to means, checks, optimizer, projection."""
        workload, width, traits = self.workload, self.workload.width, self.workload.traits
        relations = 2 * workload.n_relations * (traits.is_static + traits.is_temporal) * (1 if traits.is_complex else 2)
        times = workload.n_timestamps if traits.is_temporal else 0
        # With negatives a step changes the rows that it uses.
        n_rows = len(workload.own_entities)
        if workload.negatives is not None:
            n_rows = workload.negatives + 2 * workload.batch_size
            self.rows(n_rows, 1, 2)
        floats = (n_rows + relations + times) * width / self.torch_threads
        self.add("step", 1)
        self.add(f"{workload.optimizer} of a number", floats)
        if workload.unit_norm:
            self.add("projection of a number", n_rows * width / self.torch_threads)
            self.add("projection of a row", n_rows / self.torch_threads)
        if workload.time_reg > 0:
            self.add("smoothness", 1)
            self.add("smoothness of a number", times * width)

    def micro_batch(self, queries: int, times: int) -> None:
        """Count ``times`` micro-batches of so many examples: encoding, walks over the entities, the regularizer."""
        workload, traits = self.workload, self.workload.traits
        s, t = int(traits.is_static), int(traits.is_temporal)
        tables = 2 + t * (1 + s) if traits.is_complex else 1 + 2 * s + 3 * t
        self.encoding(queries, times, tables)
        self.walk(queries, workload.n_candidates, workload.chunk_size, times)
        if workload.predicts_time:
            self.encoding(queries, times, tables + 1)
            self.walk(queries, workload.n_timestamps, workload.time_chunk_size, times)
        if workload.emb_reg > 0:
            if traits.is_complex:
                factors, tables = 3 + s * t, tables + 1
            elif workload.n3_parts:
                factors, tables = 2 + 2 * s + 2 * t, 2 + 2 * s + 4 * t
            else:
                factors, tables = 3, 2 + 2 * s + 2 * t
            self.rows(queries, times, tables)
            kind = "N3 of complex numbers" if traits.is_complex else "N3"
            self.add(kind, times * factors)
            self.add(f"{kind}, of a number", times * factors * queries * workload.width)

    def encoding(self, queries: int, times: int, tables: int) -> None:
        kind = "encoding of complex numbers" if self.workload.traits.is_complex else "encoding"
        self.add("micro-batch", times)
        self.rows(queries, times, tables)
        self.add(f"{kind}, of a number", times * tables * queries * self.workload.width)

    def rows(self, queries: int, times: int, tables: int) -> None:
        """Count rows that are gathered from, and added to, so many tables."""
        self.add("table of rows", times * tables)
        self.add("row", times * tables * queries)
        self.add("number of a row", times * tables * queries * self.workload.width)

    def walk(self, queries: int, n: int, chunk_size: int, times: int) -> None:
        """Count a softmax cross-entropy over ``n`` candidates, value and gradient."""
        if n == 0:
            return
        one_chunk = chunk_size >= n
        chunk = min(n, chunk_size)
        self.buffer_bytes = 4 * queries * chunk
        if self.buffer_bytes > FRESH_BYTES:
            self.add("fresh number", times * queries * chunk)
        n_chunks = -(-n // chunk)
        self.add("label", times * queries * n_chunks)
        for n_of_size, c in _chunks(n, chunk):
            again = 0.0 if one_chunk else n_of_size
            if self.by_kernel and not one_chunk and c == (n % chunk or chunk):
                again -= 1  # the last chunk's scores are still there
            self.forward(queries, c, times * (n_of_size + again))
            self.softmax(queries, c, times * n_of_size, one_chunk=one_chunk)
            self.backward(queries, c, times * n_of_size)

    def scores(self, queries: int, c: int, times: float, passes: float, kind: str = "") -> None:
        """Count passes over (b, c) scores in a buffer, and the computing in them."""
        threads = self.torch_threads
        if self.by_kernel:
            threads = min(self.workload.threads, queries, max(1, queries * c // SCORES_A_THREAD))
        each = times * queries * c / threads
        for of_size, share in _by_size("pass over a score", self.buffer_bytes):
            self.add(of_size, passes * share * each)
        if kind:
            self.add(kind, each)

    def softmax(self, queries: int, c: int, times: float, *, one_chunk: bool) -> None:
        """Count log-sum-exp and probabilities."""
        if self.by_kernel:
            for _ in range(1 if one_chunk else 2):
                self.scores(queries, c, times, 1, "exp of a score")
            return
        self.scores(queries, c, times, 3, "softmax of a score")
        self.add("softmax of a row", times * queries / self.torch_threads)
        if not one_chunk:
            self.scores(queries, c, times, 2, "exp of a score, by PyTorch")

    def forward(self, queries: int, c: int, times: float) -> None:
        """Count ``times`` scorings of so many queries against c candidates."""
        self.half(queries, c, times)
        if self.by_kernel:
            self.kernel(queries, c, times, backward=False)
        elif self.is_plain:
            self.plain(queries, c, times, backward=False)
        else:
            self.products(queries, c, times, 2 if self.workload.score == "l2" else 1, "forward")
            self.add("forward by products", times)
            if self.workload.scoring != "fused":
                for of_size, share in _by_size("score in a new tensor", 4 * queries * c):
                    self.add(of_size, share * times * queries * c / self.torch_threads)
            elif self.workload.score == "l2":
                self.scores(queries, c, times, 2)
            if self.workload.score == "l2":
                self.add("pass over candidates", times * c * self.workload.width / self.torch_threads)

    def backward(self, queries: int, c: int, times: float) -> None:
        """Count ``times`` gradients of such scores."""
        self.half(queries, c, times)
        if self.by_kernel:
            self.kernel(queries, c, times, backward=True)
        elif self.is_plain:
            self.plain(queries, c, times, backward=True)
        else:
            self.products(queries, c, times, 4 if self.workload.score == "l2" else 2, "backward")
            self.add("backward by products", times)
            if self.workload.score == "l2":
                self.scores(queries, c, times, 1)
                self.add("pass over candidates", 3 * times * c * self.workload.width / self.torch_threads)
            elif self.workload.scoring != "fused":
                self.add("pass over candidates", times * c * self.workload.width / self.torch_threads)

    def half(self, queries: int, c: int, times: float) -> None:
        """Count the rounding of a score's inputs to half precision."""
        if self.is_half:
            self.add("rounding", times)
            inputs = queries * (1 if self.workload.score == "dot" else 2) + c
            self.add("rounding of a number", times * inputs * self.workload.width / self.torch_threads)

    def products(self, queries: int, c: int, times: float, n: int, name: str) -> None:
        """Count ``n`` matrix products between queries, candidates and scores."""
        width = self.workload.width
        if name == "backward":  # the width is then the result's, which is computed in whole blocks
            width = ceil(width / BLOCK) * BLOCK
        each = n * times / self.torch_threads
        self.add(f"multiply-add {name}", each * queries * c * width)
        self.scores(queries, c, times, n)
        for of_size, share in _by_size("number of a product", 4 * c * width):
            self.add(of_size, share * each * (c + queries) * width)
        self.add("product", n * times)

    def kernel(self, queries: int, c: int, times: float, *, backward: bool) -> None:
        """Count the fused L1 kernel: terms, loops over a tile, and the packing of candidates."""
        width, threads = self.workload.width, self.workload.threads
        parts = min(threads, -(-c // TILE))
        span = -(-c // parts)
        tiles = -(-span // TILE)
        name = "backward" if backward else "forward"
        self.add(f"kernel {name}", times)
        self.scores(queries, c, times, 1)
        if parts > 1:
            self.add("hand-over to threads", times)
        at_once = 4 if backward else 2
        together, alone = divmod(queries, at_once)
        self.add(f"term {name}", times * together * at_once * span * width)
        self.add(f"term {name}, one query alone", times * alone * span * width)
        loops = width * (together + alone) if backward else (width / 4) * together + width * alone
        self.add(f"loop {name}", times * tiles * loops)
        self.add(f"packing {name}", times * span * width)
        if backward:
            self.add("adding up of queries' gradients", times * (parts - 1) * queries * width * 2)
            tile_bytes = 8 * width * min(TILE, span)
            beyond = min(1.0, max(0.0, log2(tile_bytes / 2**18) / 3)) if tile_bytes > 2**18 else 0.0
            self.add("loop over a large tile, of a number", times * together * span * width * beyond)

    def plain(self, queries: int, c: int, times: float, *, backward: bool) -> None:
        """Count a distance in plain PyTorch: passes over (b, c, width) tensors."""
        width, workload = self.workload.width, self.workload
        name = "backward" if backward else "forward"
        numbers = queries * c * width
        item = 2 if self.is_half else 4
        passes, fresh = (9, 3) if backward else (4, 3)
        of = f"{workload.precision} {workload.score}" if self.is_half else workload.precision
        kind = f"pass over {of} numbers {name}"
        self.add(f"plain {name}", times)
        self.add("plain row", passes * times * queries * c / self.torch_threads)
        # Half precision is bound by its conversions, wherever the tensor lies.
        for of_size, share in _by_size(kind, 0 if self.is_half else numbers * item):
            self.add(of_size, passes * share * times * numbers / self.torch_threads)
        if numbers * item > FRESH_BYTES:
            self.add("fresh number", fresh * times * numbers * item / 4)


def _by_size(kind: str, n_bytes: float) -> Iterator[tuple[str, float]]:
    """Yield a kind of work and, for each of ``SIZES`` that the tensor is beyond, what it costs more, with its share.

    A share grows with the logarithm from 0 at that size to 1 at the next. Seconds are not negative, so a pass over a
    larger tensor never takes less a number.
    """
    yield kind, 1.0
    for name, size in SIZES.items():
        if n_bytes <= size:
            return
        yield f"{kind}, beyond {name}", min(1.0, log2(n_bytes / size) / STEP)
