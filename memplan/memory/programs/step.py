"""What a run allocates, from setup through steps to evaluation and checkpoint.

The code whose bytes this tells: tkbc/step/trainer.py, finite.py.
"""

from __future__ import annotations

from memplan.memory.ledger import Allocation, Ledger
from memplan.memory.operators import SCALAR, passes
from memplan.memory.programs import complex_family, loss, optimizers, pairre, regularizers
from memplan.memory.programs.encoder import ModelProgram
from memplan.memory.programs.evaluation import evaluate
from memplan.workload import Workload

NORM_PIECE = 65_536
"""Elements that a block of PyTorch's norm over several tensors takes (kChunkSize in its MultiTensorApply)."""
REPEATED_STEPS = 2
"""Full steps of an epoch told for CUDA: the second meets the segments that the first has left."""


def program_of(workload: Workload) -> ModelProgram:
    """Return the program of the workload's model."""
    return complex_family if workload.traits.is_complex else pairre


def run(workload: Workload, *, training: bool = True, evaluation: bool = True, start: Ledger | None = None) -> Ledger:
    """Tell a run: setup, an epoch, an evaluation, a checkpoint. ``start``: the ledger after setup, where it is at hand.

    All steps ask for the same tensors but for the last of an epoch, whose batch is short, so on the CPU one full step
    holds the peak. What a caching allocator reserves depends on history: for CUDA full steps and the short one are
    told. Nothing but the setup's tensors outlives an epoch or an evaluation, and the trainer returns unused segments
    between them, so each finds the allocator as setup left it: the larger of the two is the whole, and later epochs
    repeat the first. Without ``training`` or ``evaluation`` that part is left out.
    """
    ledger = start.copy() if start is not None else set_up(workload)
    model = program_of(workload)
    if training:
        epoch(ledger, workload, model)
        ledger.release_cache()
    if evaluation:
        evaluate(ledger, workload, model)
        ledger.release_cache()
    with ledger.phase("checkpoint"):
        pass  # tables and optimizer state are written from where they are
    return ledger


def one_step(workload: Workload) -> Ledger:
    """Tell setup and a single full step: what a picture of memory over one step shows."""
    ledger = set_up(workload)
    with ledger.phase("shuffle"):
        ledger.new("order of the examples", workload.n_examples, dtype="int64", kind="data")
    _step(ledger, workload, program_of(workload), workload.batch_size)
    return ledger


def set_up(workload: Workload) -> Ledger:
    """Return a ledger with everything that lives as long as the trainer."""
    ledger = Ledger(workload.device)
    model = program_of(workload)
    tables = model.tables(workload)
    with ledger.phase("setup"):
        for name, rows in tables.items():
            ledger.new(f"{name} table", rows, workload.width, kind="parameters")
        for name, rows in tables.items():
            ledger.new(f"gradient of {name}", rows, workload.width, kind="gradients")
        if workload.unit_norm:
            ledger.free(_new_norms(ledger, workload))
        optimizers.state(ledger, workload, tables)
        ledger.new("training examples", _columns(workload), workload.n_examples, dtype="int32", kind="data")
        ledger.new("totals of the epoch", 2, 2, dtype="float64", kind="data")
        if workload.device == "cuda":
            # Taken at once and for good by the first product, wherever a step's first product stands.
            one = ledger.new("one", 1, 1)
            product = ledger.new("one times one", 1, 1)
            ledger.new("cuBLAS workspace", workload.workspace_bytes, dtype="uint8", kind="temporaries")
            ledger.free(product, one)
    return ledger


def _columns(workload: Workload) -> int:
    """Return the numbers of an example: head, relation, tail, time, and whether its time is to be predicted."""
    return 5 if workload.predicts_time else 4


def epoch(ledger: Ledger, workload: Workload, model: ModelProgram) -> None:
    """Tell the steps of an epoch that differ."""
    with ledger.phase("shuffle"):
        order = ledger.new("order of the examples", workload.n_examples, dtype="int64", kind="data")
        passes(ledger, "random permutation")
    for n_examples in told_steps(workload):
        _step(ledger, workload, model, n_examples)
    ledger.free(order)


def told_steps(workload: Workload) -> list[int]:
    """Return the examples of each step of an epoch that is told: on CUDA full ones and the short last one."""
    if workload.device != "cuda":
        return [workload.batch_size]
    full_steps, last = divmod(workload.n_examples, workload.batch_size)
    return [workload.batch_size] * min(full_steps, REPEATED_STEPS) + ([last] if last else [])


def _step(ledger: Ledger, workload: Workload, model: ModelProgram, n_examples: int) -> None:
    """Tell one optimizer step: its first micro-batch, and its last where that is shorter."""
    b = min(workload.micro_batch_size, n_examples)
    ragged = n_examples % b
    for size in [b] + ([ragged] if ragged else []):
        _micro_batch(ledger, workload, model, size)
    with ledger.phase("optimizer"):
        passes(ledger, "with a Python number")
        if workload.time_reg > 0:
            n = workload.n_timestamps - int(workload.no_time_emb)
            regularizers.smoothness(ledger, n, workload.width, is_complex=workload.traits.is_complex)
        _check_numbers(ledger, model.tables(workload), workload.width)
        norms = [_new_norms(ledger, workload)] if workload.unit_norm else []
        optimizers.step(ledger, workload, model.tables(workload))
        ledger.free(*norms)


def _micro_batch(ledger: Ledger, workload: Workload, model: ModelProgram, b: int) -> None:
    with ledger.phase("encode"):
        batch = ledger.new("micro-batch ids", _columns(workload), b, dtype="int32", kind="data")
        encoding = model.encode(ledger, workload, b)
        labels = ledger.new("labels", b, dtype="int64", kind="data")
    value, grad_query = loss.softmax_cross_entropy(ledger, workload, b, workload.n_entities, workload.chunk_size)
    with ledger.phase("encode backward"):
        _add_to_total(ledger)
        ledger.free(value, labels)
        model.encode_backward(ledger, workload, b)
        ledger.free(*encoding.query, *encoding.saved, *grad_query)
    if workload.predicts_time:
        _predict_time(ledger, workload, model, b)
    if workload.emb_reg > 0:
        with ledger.phase("regularize"):
            penalty: Allocation = model.regularize(ledger, workload, b)
            _add_to_total(ledger)
            ledger.free(penalty)
    ledger.free(batch)


def _predict_time(ledger: Ledger, workload: Workload, model: ModelProgram, b: int) -> None:
    with ledger.phase("encode"):
        encoding = model.encode_time(ledger, workload, b)
        labels = ledger.new("labels", b, dtype="int64", kind="data")
        weights = ledger.new("weights of the time loss", b, kind="data")
    value, grad_query = loss.softmax_cross_entropy(ledger, workload, b, workload.n_timestamps, workload.time_chunk_size)
    with ledger.phase("encode backward"):
        _add_to_total(ledger)
        ledger.free(value, labels, weights)
        model.encode_time_backward(ledger, workload, b)
        ledger.free(*encoding.query, *encoding.saved, *grad_query)


def _check_numbers(ledger: Ledger, tables: dict[str, int], width: int) -> None:
    """Tell the check of loss and gradients; on CUDA it is torch.nn.utils.get_total_norm, and not of every step."""
    if ledger.device == "cpu":
        ledger.passing("norm of a gradient", *SCALAR)
        return
    pieces = max(-(-rows * width // NORM_PIECE) for rows in tables.values())
    of_pieces = ledger.new("norms of pieces of the gradients", len(tables) * pieces)
    norms = [ledger.new(f"norm of the gradient of {name}", *SCALAR) for name in tables]
    ledger.free(of_pieces)
    with ledger.temporary("norms of the gradients", len(tables)):
        norm = ledger.new("norm of all gradients", *SCALAR)
    ledger.free(*norms)
    ledger.passing("numbers to check", 3, dtype="float64")
    ledger.free(norm)


def _new_norms(ledger: Ledger, workload: Workload) -> Allocation:
    return ledger.new("norms of the entities", workload.n_entities, 1)


def _add_to_total(ledger: Ledger) -> None:
    passes(ledger, "float64 in place with a float32 number")
