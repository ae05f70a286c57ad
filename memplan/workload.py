"""What is to be trained, in full: every number that decides an allocation. Validated once, then trusted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from memplan.errors import UsageError
from memplan.units import format_count

M = TypeVar("M", bound=BaseModel)

ModelName = Literal["TNTComplEx", "TNTPairRE"]
Score = Literal["dot", "l1"]
Scoring = Literal["materialized", "chunked", "fused"]
OptimizerName = Literal["adagrad", "adam"]
Precision = Literal["fp32"]
DeviceType = Literal["cpu", "cuda"]

SCORE_OF_MODEL: dict[ModelName, Score] = {"TNTComplEx": "dot", "TNTPairRE": "l1"}
SCORINGS: tuple[Scoring, ...] = ("materialized", "chunked", "fused")

# Ids are stored as int32, so that is the bound of every count that becomes an id.
MAX_ID_COUNT = 2**31 - 1
MAX_THREADS = 4096
IdCount = Annotated[int, Field(ge=1, le=MAX_ID_COUNT)]


class Shape(BaseModel):
    """The size of a graph: N entities, R relations, T timestamps and its training facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_entities: IdCount
    n_relations: Annotated[int, Field(ge=1, le=MAX_ID_COUNT // 2)]
    n_timestamps: IdCount
    n_facts: Annotated[int, Field(ge=1, le=MAX_ID_COUNT // 2)]
    """Facts of the training split. The trainer learns from 2 × n_facts examples: each fact and its reciprocal."""


class Workload(Shape):
    """A training run as the planner sees it: a graph's shape, a model and everything that sizes a tensor.

    Units: counts of rows or examples; ``rank`` is d as the user passes it (the PairRE family's vectors are d wide, the
    ComplEx family's 2d: real parts, then imaginary parts).
    """

    dataset: str | None = None
    model: ModelName
    rank: Annotated[int, Field(ge=1, le=2**20)] = 100
    score: Score
    scoring: Scoring = "fused"
    optimizer: OptimizerName = "adagrad"
    precision: Precision = "fp32"
    emb_reg: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Weight of the N3 regularizer; 0 skips it and its temporaries."""
    time_reg: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Weight of the regularizer on consecutive timestamps; 0 skips it and its temporaries."""
    no_time_emb: bool = False
    """The last timestamp stands for "no time" and stays out of the smoothness term."""
    unit_norm: bool = False
    """Project entities to unit L2 norm after every optimizer step (PairRE family)."""
    batch_size: IdCount
    """B, examples per optimizer step."""
    micro_batch_size: IdCount
    """b, examples per forward and backward."""
    chunk_size: IdCount
    """C, entities scored at once."""
    eval_batch_size: IdCount
    eval_chunk_size: IdCount
    device: DeviceType = "cpu"
    threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] = 1
    """CPU threads of the fused L1 kernel; each owns scratch tensors."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.score != SCORE_OF_MODEL[self.model]:
            raise ValueError(f"score: {self.model} is scored with {SCORE_OF_MODEL[self.model]}, not {self.score}")
        if self.batch_size > self.n_examples:
            raise ValueError(
                f"batch_size: {format_count(self.batch_size)} is larger than the data, which has "
                f"{format_count(self.n_examples)} examples ({format_count(self.n_facts)} training facts and their "
                f"reciprocals); use at most {self.n_examples}"
            )
        if self.micro_batch_size > self.batch_size:
            raise ValueError(
                f"micro_batch_size: {self.micro_batch_size} is larger than batch_size {self.batch_size}; a micro-batch "
                "is a part of the batch"
            )
        for name in ("chunk_size", "eval_chunk_size"):
            if getattr(self, name) > self.n_entities:
                raise ValueError(f"{name}: {getattr(self, name)} is larger than the {self.n_entities} entities")
        if self.scoring == "materialized" and not self.chunk_size == self.eval_chunk_size == self.n_entities:
            raise ValueError(
                "chunk_size: scoring 'materialized' scores all entities at once; leave the chunk size out, or use "
                "scoring 'chunked' or 'fused'"
            )
        if self.unit_norm and self.model != "TNTPairRE":
            raise ValueError(f"unit_norm: only the PairRE family projects its entities to unit norm, not {self.model}")
        return self

    @property
    def width(self) -> int:
        """Floats in one embedding row."""
        return 2 * self.rank if self.model == "TNTComplEx" else self.rank

    @property
    def n_examples(self) -> int:
        """Training examples of an epoch: every fact and its reciprocal."""
        return 2 * self.n_facts

    @property
    def accumulation_steps(self) -> int:
        """A = ceil(B / b)."""
        return -(-self.batch_size // self.micro_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; the last may be short."""
        return -(-self.n_examples // self.batch_size)

    @property
    def shape(self) -> Shape:
        """The graph's shape alone."""
        return Shape(**{name: getattr(self, name) for name in Shape.model_fields})


def build_workload(shape: Shape, **settings: Any) -> Workload:
    """Return a validated workload; what is left out takes its plain default (one micro-batch, all entities at once).

    Raises:
        UsageError: a value is out of range; the message is one line that names the field, the value and the limit.
    """
    values: dict[str, Any] = {**shape.model_dump(), **{k: v for k, v in settings.items() if v is not None}}
    model = values.get("model")
    values.setdefault("score", SCORE_OF_MODEL.get(model, "dot"))  # type: ignore[arg-type]
    values.setdefault("batch_size", min(1000, 2 * shape.n_facts))
    values.setdefault("micro_batch_size", values["batch_size"])
    values.setdefault("chunk_size", shape.n_entities)
    values.setdefault("eval_batch_size", values["micro_batch_size"])
    values.setdefault("eval_chunk_size", values["chunk_size"])
    return validated(Workload, values)


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
