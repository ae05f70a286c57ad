"""What a run allocates, from its tables to its first evaluation. The code whose bytes this tells: tkbc/trainer.py."""

from __future__ import annotations

from memplan.devices import CUBLAS_WORKSPACE_BYTES
from memplan.ledger import Allocation, Ledger
from memplan.programs import complex_family, loss, optimizers, pairre, regularizers
from memplan.programs.encoder import ModelProgram
from memplan.programs.evaluation import evaluate
from memplan.programs.scalars import SCALAR, scalar_operand
from memplan.workload import ModelName, Workload

MODELS: dict[ModelName, ModelProgram] = {"TNTComplEx": complex_family, "TNTPairRE": pairre}


def run(workload: Workload, *, training: bool = True, evaluation: bool = True) -> Ledger:
    """Tell a run: setup, one optimizer step, the first evaluation. A checkpoint allocates no tensors.

    All steps are alike but for the last of an epoch, whose batch is short, so one full step holds the peak. Without
    ``training`` or ``evaluation`` that part is left out: the search looks at each alone.
    """
    ledger = Ledger(workload.device)
    model = MODELS[workload.model]
    with ledger.phase("setup"):
        setup(ledger, workload, model)
    if training:
        with ledger.phase("shuffle"):
            order = ledger.new("order of the examples", workload.n_examples, dtype="int64")
            if workload.device == "cpu":
                ledger.passing("random number", 1, dtype="int64")
        step(ledger, workload, model)
        ledger.free(order)
    if evaluation:
        evaluate(ledger, workload, model)
    return ledger


def setup(ledger: Ledger, workload: Workload, model: ModelProgram) -> None:
    """Tell everything that lives as long as the trainer."""
    tables = model.tables(workload)
    for name, rows in tables.items():
        ledger.new(f"{name} table", rows, workload.width)
    for name, rows in tables.items():
        ledger.new(f"gradient of {name}", rows, workload.width)
    if workload.unit_norm:
        _project(ledger, workload)
    optimizers.state(ledger, workload, tables)
    ledger.new("training examples", 4, workload.n_examples, dtype="int32")
    ledger.new("totals of the epoch", 2, dtype="float64")
    if workload.device == "cuda" and workload.score == "dot":
        # PyTorch allocates it at the first matrix product and keeps it.
        ledger.new("cuBLAS workspace", CUBLAS_WORKSPACE_BYTES, dtype="uint8")


def step(ledger: Ledger, workload: Workload, model: ModelProgram) -> None:
    """Tell one optimizer step on a full batch: its first micro-batch, and its last where that is shorter."""
    ragged = workload.batch_size % workload.micro_batch_size
    for b in [workload.micro_batch_size] + ([ragged] if ragged else []):
        _micro_batch(ledger, workload, model, b)
    with ledger.phase("optimizer"):
        scalar_operand(ledger)
        if workload.time_reg > 0:
            n = workload.n_timestamps - int(workload.no_time_emb)
            regularizers.smoothness(ledger, n, workload.width, is_complex=workload.model == "TNTComplEx")
        optimizers.step(ledger, workload, model.tables(workload))
        if workload.unit_norm:
            _project(ledger, workload)


def _micro_batch(ledger: Ledger, workload: Workload, model: ModelProgram, b: int) -> None:
    width = workload.width
    with ledger.phase("encode"):
        batch = ledger.new("micro-batch ids", 4, b, dtype="int32")
        encoding = model.encode(ledger, b, width)
        labels = ledger.new("labels", b, dtype="int64")
    value, grad_query = loss.softmax_cross_entropy(ledger, workload, b)
    with ledger.phase("encode backward"):
        _add_to_total(ledger)
        ledger.free(value, labels)
        model.encode_backward(ledger, b, width)
        ledger.free(*encoding.query, *encoding.saved, *grad_query)
    if workload.emb_reg > 0:
        with ledger.phase("regularize"):
            penalty: Allocation = model.regularize(ledger, b, width)
            _add_to_total(ledger)
            ledger.free(penalty)
    ledger.free(batch)


def _project(ledger: Ledger, workload: Workload) -> None:
    ledger.passing("norms of the entities", workload.n_entities, 1)


def _add_to_total(ledger: Ledger) -> None:
    ledger.passing("value as float64", *SCALAR, dtype="float64")
