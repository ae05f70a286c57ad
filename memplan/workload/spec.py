"""What is to be trained, in full: every number that decides an allocation. Validated once, then trusted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from memplan.errors import UsageError
from memplan.units import format_count
from memplan.workload.alloc_conf import AllocatorSettings
from memplan.workload.models import TRAITS, ModelName, ModelTraits, Score

M = TypeVar("M", bound=BaseModel)

Scoring = Literal["materialized", "chunked", "fused"]
OptimizerName = Literal["adagrad", "adam", "sgd"]
Precision = Literal["fp32", "bf16", "fp16"]
DeviceType = Literal["cpu", "cuda"]


PAIRRE_SETTINGS = ("n3_parts", "unit_norm")
"""Settings of the PairRE family alone."""
SCORINGS: tuple[Scoring, ...] = ("materialized", "chunked", "fused")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")

# Ids are stored as int32, so that is the bound of every count that becomes an id.
MAX_ID_COUNT = 2**31 - 1
MAX_THREADS = 4096
MAX_RANK = 2**20
MAX_PROCESSES = 2**16
MAX_KERNEL_ELEMENTS = 2**31 - 1
"""Elements of a score buffer that kernels with 32-bit offsets can address."""
DEFAULT_WORKSPACE_BYTES = 8_519_680
"""PyTorch's default cuBLAS workspace before Hopper: 4096 × 2 KiB + 16 × 8 KiB (aten/src/ATen/cuda/CublasHandlePool)."""
IdCount = Annotated[int, Field(ge=1, le=MAX_ID_COUNT)]


class Shape(BaseModel, frozen=True, extra="forbid"):
    """The size of a graph: N entities, R relations, T timestamps and its training facts."""

    n_entities: IdCount
    n_relations: Annotated[int, Field(ge=1, le=MAX_ID_COUNT // 2)]
    n_timestamps: IdCount
    n_facts: Annotated[int, Field(ge=1, le=MAX_ID_COUNT // 2)]
    """Facts of the training split. The trainer learns from 2 × n_facts examples: each fact and its reciprocal."""
    intervals: bool = False
    """Facts hold from a first to a last timestamp: temporal models learn to predict the time too."""


class Workload(Shape):
    """A training run as the planner sees it: a graph's shape, a model and everything that sizes a tensor.

    Units: counts of rows or examples; ``rank`` is d as the user passes it (the PairRE family's vectors are d wide, the
    ComplEx family's 2d: real parts, then imaginary parts).
    """

    dataset: str | None = None
    model: ModelName
    rank: Annotated[int, Field(ge=1, le=MAX_RANK)] = 100
    score: Score
    scoring: Scoring = "fused"
    optimizer: OptimizerName = "adagrad"
    precision: Precision = "fp32"
    emb_reg: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Weight of the N3 regularizer; 0 skips it and its temporaries."""
    n3_parts: bool = False
    """N3 over every part of the relation at its time, not over the sum of its vectors (PairRE family)."""
    time_reg: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Weight of the regularizer on consecutive timestamps; 0 skips it and its temporaries."""
    no_time_emb: bool = False
    """The last timestamp stands for "no time" and stays out of the smoothness term."""
    unit_norm: bool = False
    """Project entities to unit L2 norm after every optimizer step (PairRE family)."""
    negatives: Annotated[int, Field(ge=2, le=MAX_ID_COUNT)] | None = None
    """K, entities drawn for each step, that its softmax is over besides each label; None: over all entities."""
    rules: bool = False
    """Rank with the graph's rules beside the scores (tkbc/ranking/rules.py)."""
    batch_size: IdCount
    """B, examples per optimizer step."""
    micro_batch_size: IdCount
    """b, examples per forward and backward."""
    chunk_size: IdCount
    """C, entities scored at once, of all or of the drawn."""
    eval_batch_size: IdCount
    eval_chunk_size: IdCount
    device: DeviceType = "cpu"
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] = 1
    """CPU threads of the fused L1 kernel; each owns scratch tensors."""
    deterministic: bool = False
    """On CUDA only PyTorch's deterministic algorithms run, which take temporaries of their own."""
    workspace_bytes: Annotated[int, Field(ge=0, le=2**40)] = DEFAULT_WORKSPACE_BYTES
    """What cuBLAS takes inside the caching allocator at the first matrix product on CUDA."""
    alloc_conf: str = ""
    """PyTorch's CUDA allocator options, as in PYTORCH_ALLOC_CONF."""
    device_total_bytes: Annotated[int, Field(ge=1)] | None = None
    """The GPU's memory, where it is known and the allocator's options go by it."""
    shards: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Processes that hold the entity table between them, each a range of its rows."""
    replicas: Annotated[int, Field(ge=1, le=MAX_PROCESSES)] = 1
    """Groups of ``shards`` processes, which share every batch."""
    process: Annotated[int, Field(ge=0)] = 0
    """Which of the ``shards`` · ``replicas`` processes: the shard, then the replica. The first takes the most."""

    @field_validator("model")
    @classmethod
    def _is_known(cls, model: ModelName) -> ModelName:
        if model not in TRAITS:
            raise ValueError(f"model: {model!r}: there is no such model; there are {', '.join(TRAITS)}")
        return model

    # The checks in the order in which they are told: the model, sizes, switches, what kernels and processes can do.

    @model_validator(mode="after")
    def _check_score(self) -> Self:
        traits = TRAITS[self.model]
        if self.score not in traits.scores:
            raise ValueError(f"score: {self.model} is scored with {' or '.join(traits.scores)}, not {self.score}")
        if self.time_reg > 0 and not traits.is_temporal:
            raise ValueError(f"time_reg: {self.time_reg:g}: {self.model} has no timestamps to regularize; leave it out")
        if self.predicts_time and not self.can_predict_time:
            raise ValueError(
                f"score: {self.model} with dot is quadratic in the timestamp and cannot predict the time of facts that "
                "hold over intervals; use l1 or l2"
            )
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.batch_size > self.n_examples:
            raise ValueError(
                f"batch_size: {format_count(self.batch_size)} is larger than the data, which has "
                f"{format_count(self.n_examples)} examples ({format_count(self.n_facts)} training facts and their "
                f"reciprocals); use at most {self.n_examples}"
            )
        if self.micro_batch_size > self.replica_batch_size:
            of = f"batch_size {self.batch_size}"
            if self.replicas > 1:
                of = f"the {self.replica_batch_size} examples that each of {self.replicas} replicas takes of a batch"
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} is larger than {of}; a micro-batch is a part of the batch"
            )
        n_trained, of = (self.negatives, "negatives") if self.negatives is not None else (self.n_entities, "entities")
        if self.chunk_size > n_trained:
            raise ValueError(f"chunk_size: {self.chunk_size} is larger than the {n_trained} {of}")
        if self.eval_chunk_size > self.n_entities:
            raise ValueError(f"eval_chunk_size: {self.eval_chunk_size} is larger than the {self.n_entities} entities")
        whole = (n_trained, self.n_entities)
        if self.scoring == "materialized" and (self.chunk_size, self.eval_chunk_size) != whole:
            raise ValueError(
                "chunk_size: scoring 'materialized' scores all entities at once; leave the chunk size out, or use "
                "scoring 'chunked' or 'fused'"
            )
        return self

    @model_validator(mode="after")
    def _check_switches(self) -> Self:
        if self.unit_norm and self.traits.is_complex:
            raise ValueError(f"unit_norm: only the PairRE family projects its entities to unit norm, not {self.model}")
        if self.n3_parts and self.traits.is_complex:
            raise ValueError(f"n3_parts: {self.model}'s N3 is over the parts always; only the PairRE family is asked")
        return self

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        pairs = [("micro_batch_size", "chunk_size"), ("eval_batch_size", "eval_chunk_size")]
        pairs += [("micro_batch_size", "time_chunk_size")] if self.predicts_time else []
        for queries, chunk in pairs:
            b, c = getattr(self, queries), getattr(self, chunk)
            if b * c > MAX_KERNEL_ELEMENTS:
                raise ValueError(
                    f"{queries} × {chunk}: {format_count(b)} × {format_count(c)} scores are more than the "
                    f"{format_count(MAX_KERNEL_ELEMENTS)} that a kernel can address; lower either"
                )
        if self.replicas > self.batch_size:
            raise ValueError(
                f"replicas: {self.replicas} are more than the {self.batch_size} examples of a batch; use fewer"
            )
        if self.process >= self.n_processes:
            raise ValueError(f"process: {self.process}: there are {self.n_processes}, counted from 0")
        AllocatorSettings.parse(self.alloc_conf)
        return self

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        if self.negatives is None:
            return self
        of = f"negatives: {format_count(self.negatives)}"
        if self.negatives > self.n_entities:
            raise ValueError(
                f"{of} are more than the {format_count(self.n_entities)} entities to draw from; leave it out for the "
                "softmax over all of them"
            )
        if self.optimizer == "adam":
            raise ValueError(
                f"{of}: Adam changes every row in every step, used or not; use --optimizer adagrad or sgd, or leave "
                "the negatives out"
            )
        if self.n_processes > 1:
            raise ValueError(f"{of}: only one process trains with negatives, not {self.n_processes}; leave either out")
        return self

    @property
    def n_candidates(self) -> int:
        """Entities that a process scores a query against in training: all, of a split table its own, or the K drawn."""
        return len(self.own_entities) if self.negatives is None else self.negatives

    @property
    def width(self) -> int:
        """Floats in one embedding row."""
        return 2 * self.rank if self.traits.is_complex else self.rank

    @property
    def can_predict_time(self) -> bool:
        """Whether one query scores a fact at all timestamps: they have rows, and the score is not quadratic in them."""
        return self.traits.is_temporal and (self.traits.is_complex or self.score != "dot")

    @property
    def predicts_time(self) -> bool:
        """Whether the time is predicted besides the entities: facts hold over intervals, and the model knows time."""
        return self.intervals and self.traits.is_temporal

    @property
    def time_chunk_size(self) -> int:
        """Timestamps scored at once by the time-prediction loss: no more than C, or all where the scoring takes all."""
        return self.n_timestamps if self.scoring == "materialized" else min(self.chunk_size, self.n_timestamps)

    @property
    def traits(self) -> ModelTraits:
        """What kind of model it is."""
        return TRAITS[self.model]

    @property
    def n_examples(self) -> int:
        """Training examples of an epoch: every fact and its reciprocal."""
        return 2 * self.n_facts

    @property
    def accumulation_steps(self) -> int:
        """A = ceil(B / b), with B the examples of a replica."""
        return -(-self.replica_batch_size // self.micro_batch_size)

    @property
    def n_processes(self) -> int:
        """How many processes train together."""
        return self.shards * self.replicas

    @property
    def alone(self) -> Workload:
        """The same training in a single process."""
        return self.model_copy(update={"shards": 1, "replicas": 1, "process": 0})

    @property
    def own_entities(self) -> range:
        """The rows of the entity table that the process holds; some may hold none."""
        return share_of(self.n_entities, self.shards, self.process % self.shards)

    @property
    def replica_batch_size(self) -> int:
        """Examples that a replica takes of a whole batch: the first of them takes the most."""
        return len(share_of(self.batch_size, self.replicas, 0))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last may be short."""
        return -(-self.n_examples // self.batch_size)

    @property
    def shape(self) -> Shape:
        """The graph's shape alone."""
        return Shape(**{name: getattr(self, name) for name in Shape.model_fields})


def share_of(n: int, parts: int, part: int) -> range:
    """Return which of ``n`` things in a row a part of ``parts`` equal ones holds; the first parts hold the rest."""
    size, more = divmod(n, parts)
    start = part * size + min(part, more)
    return range(start, start + size + (part < more))


def build_workload(shape: Shape, **settings: Any) -> Workload:
    """Return a validated workload; what is left out takes its plain default (one micro-batch, all entities at once).

    Raises:
        UsageError: a value is out of range; the message is one line that names the field, the value and the limit.
    """
    values: dict[str, Any] = {**shape.model_dump(), **{k: v for k, v in settings.items() if v is not None}}
    if values.get("model") in TRAITS:
        values.setdefault("score", TRAITS[values["model"]].scores[0])
    values.setdefault("batch_size", min(1000, 2 * shape.n_facts))
    values.setdefault("micro_batch_size", _whole_part(values["batch_size"], values.get("replicas", 1)))
    n_candidates = values.get("negatives", shape.n_entities)
    values.setdefault("chunk_size", _all_that_can_be_addressed(n_candidates, values["micro_batch_size"]))
    values.setdefault("eval_batch_size", values["micro_batch_size"])
    # Ranking goes over all entities, whatever training does: the same chunk where that was no matter of the drawn.
    n_ranked = shape.n_entities if values["chunk_size"] == n_candidates else values["chunk_size"]
    values.setdefault("eval_chunk_size", _all_that_can_be_addressed(n_ranked, values["eval_batch_size"]))
    return validated(Workload, values)


def _whole_part(batch_size: Any, replicas: Any) -> Any:
    """Return what a replica takes of a batch; what is no number is left to the validation."""
    if isinstance(batch_size, int) and isinstance(replicas, int) and replicas > 0:
        return max(1, -(-batch_size // replicas))
    return batch_size


def _all_that_can_be_addressed(n_entities: Any, n_queries: Any) -> Any:
    """Return the entities that a kernel can score at once; what is no number is left to the validation."""
    if isinstance(n_entities, int) and isinstance(n_queries, int) and n_queries > 0:
        return max(1, min(n_entities, MAX_KERNEL_ELEMENTS // n_queries))
    return n_entities


def validated(kind: type[M], values: dict[str, Any]) -> M:
    """Return ``kind(**values)`` with pydantic's report turned into one clear line.

    Raises:
        UsageError: the first field that is wrong, with its value and limit.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """Return the first problem of a pydantic report as one line: field, value, what is wrong."""
    detail = error.errors(include_url=False)[0]
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    where = ".".join(str(part) for part in detail["loc"])
    if not where:
        return detail["msg"][0].lower() + detail["msg"][1:]
    message = detail["msg"][0].lower() + detail["msg"][1:]
    if detail["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {detail['input']!r}: {message}"
