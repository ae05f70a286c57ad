"""Training steps of models that others wrote, for benchmarks/trace.py: small configurations without weights.

Needs pykeen, transformers, torch_geometric and x-transformers beside torch; none of them is a dependency of memplan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Step = Callable[[], Any]
Built = tuple[nn.Module, Callable[[], Tensor]]
"""A model, and its loss on one batch."""

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
    "adam-fused": lambda parameters: torch.optim.Adam(parameters, lr=1e-4, fused=True),
    "adamw-foreach": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, foreach=True),
    "adamw-fused": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4, fused=True),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-4, momentum=0.9),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-4),
}


def step_of(build: Callable[[], Built], optimizer: str, precision: str, device: str = "cpu") -> Step:
    """Return the step of a model that is built here: zero_grad, forward, backward, optimizer step."""
    model, loss_of = build()
    model.train()
    chosen = OPTIMIZERS[optimizer](model.parameters())

    def cast() -> AbstractContextManager[object]:
        return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    def step() -> None:
        chosen.zero_grad()
        with cast():
            loss = loss_of()
        loss.backward()
        chosen.step()

    return step


# --- torch.nn -----------------------------------------------------------------------------------------------------


def transformer(batch: int) -> Built:
    """nn.Transformer, encoder and decoder."""
    model = nn.Transformer(128, 4, 3, 3, 512, batch_first=True)
    source, target = torch.randn(batch, 48, 128), torch.randn(batch, 40, 128)
    return model, lambda: model(source, target).pow(2).mean()


def transformer_encoder(batch: int) -> Built:
    """nn.TransformerEncoder, pre-norm with GELU."""
    layer = nn.TransformerEncoderLayer(192, 6, 768, activation="gelu", batch_first=True, norm_first=True)
    model = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
    inputs = torch.randn(batch, 64, 192)
    return model, lambda: model(inputs).pow(2).mean()


def gru(batch: int) -> Built:
    """nn.GRU, two layers."""
    model = nn.GRU(96, 160, 2, batch_first=True)
    inputs = torch.randn(batch, 50, 96)
    return model, lambda: model(inputs)[0].pow(2).mean()


def lstm(batch: int) -> Built:
    """nn.LSTM, two layers, both directions."""
    model = nn.LSTM(96, 128, 2, batch_first=True, bidirectional=True)
    inputs = torch.randn(batch, 50, 96)
    return model, lambda: model(inputs)[0].pow(2).mean()


# --- transformers -------------------------------------------------------------------------------------------------


def language_model(name: str, batch: int, length: int = 64, labels: bool = True, **settings: Any) -> Built:
    """A model of transformers with a head that returns a loss; ``name``: of the configuration and of the head."""
    import transformers

    configuration, head = name.split("/")
    config = getattr(transformers, configuration)(**settings)
    model = getattr(transformers, head)(config)
    ids = torch.randint(0, config.vocab_size, (batch, length))
    if labels:
        return model, lambda: model(input_ids=ids, labels=ids).loss
    return model, lambda: model(input_ids=ids)[0].float().pow(2).mean()


def sequence_to_sequence(batch: int) -> Built:
    """T5."""
    import transformers

    config = transformers.T5Config(
        vocab_size=4000, decoder_start_token_id=0, d_model=128, d_kv=32, d_ff=512, num_layers=3, num_heads=4
    )
    model = transformers.T5ForConditionalGeneration(config)
    ids = torch.randint(0, 4000, (batch, 48))
    return model, lambda: model(input_ids=ids, labels=ids).loss


def image_model(name: str, batch: int, size: int = 64, **settings: Any) -> Built:
    """An image classifier of transformers."""
    import transformers

    configuration, head = name.split("/")
    config = getattr(transformers, configuration)(num_labels=10, **settings)
    model = getattr(transformers, head)(config)
    pixels, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)
    return model, lambda: model(pixel_values=pixels, labels=labels).loss


# --- torch_geometric ----------------------------------------------------------------------------------------------


def graph_network(name: str, nodes: int, **settings: Any) -> Built:
    """A model of torch_geometric on a random graph with eight edges a node."""
    import torch_geometric.nn

    model = getattr(torch_geometric.nn, name)(64, 96, 3, 16, **settings)
    features, labels = torch.randn(nodes, 64), torch.zeros(nodes, dtype=torch.long)
    edges = torch.from_numpy(np.random.default_rng(0).integers(nodes, size=(2, 8 * nodes))).to(features.device)
    return model, lambda: nn.functional.cross_entropy(model(features, edges), labels)


# --- x-transformers -----------------------------------------------------------------------------------------------


def x_transformer(batch: int) -> Built:
    """A decoder of x-transformers with rotary positions and gated feed-forward layers."""
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=128, depth=4, heads=4, rotary_pos_emb=True, ff_glu=True)
    model = TransformerWrapper(num_tokens=2000, max_seq_len=64, attn_layers=layers)
    ids = torch.randint(0, 2000, (batch, 64))
    return model, lambda: nn.functional.cross_entropy(model(ids).transpose(1, 2), ids)


# --- PyKEEN -------------------------------------------------------------------------------------------------------


def pykeen_loop(model: str, loop: str, batch: int, optimizer: str, precision: str, **settings: Any) -> Step:
    """An epoch of PyKEEN's own training loop: one batch of random triples."""
    from pykeen.models import model_resolver
    from pykeen.training import training_loop_resolver
    from pykeen.triples import CoreTriplesFactory

    logging.getLogger("pykeen").setLevel(logging.ERROR)
    generator = np.random.default_rng(0)
    heads, relations = np.divmod(generator.choice(1500 * 20, size=batch, replace=False), 20)
    triples = np.stack([heads, relations, generator.integers(1500, size=batch)], axis=1)
    factory = CoreTriplesFactory(triples, 1500, 20)
    built = model_resolver.make(model, triples_factory=factory, **settings)
    chosen = OPTIMIZERS[optimizer](built.get_grad_params())
    training = training_loop_resolver.make(loop, model=built, triples_factory=factory, optimizer=chosen)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext():
            training.train(factory, num_epochs=1, batch_size=batch, use_tqdm=False, only_size_probing=False)

    return step


GPT2 = partial(
    language_model, "GPT2Config/GPT2LMHeadModel", vocab_size=2000, n_positions=64, n_embd=192, n_layer=4, n_head=6
)
BERT = partial(
    language_model,
    "BertConfig/BertForMaskedLM",
    vocab_size=2000,
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
)
DISTIL = partial(
    language_model,
    "DistilBertConfig/DistilBertForMaskedLM",
    vocab_size=2000,
    dim=128,
    n_layers=3,
    n_heads=4,
    hidden_dim=512,
)
LLAMA = partial(
    language_model,
    "LlamaConfig/LlamaForCausalLM",
    vocab_size=2000,
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
)
OPT = partial(
    language_model,
    "OPTConfig/OPTForCausalLM",
    vocab_size=2000,
    hidden_size=128,
    ffn_dim=512,
    num_hidden_layers=3,
    num_attention_heads=4,
    word_embed_proj_dim=128,
)
ELECTRA = partial(
    language_model,
    "ElectraConfig/ElectraForMaskedLM",
    vocab_size=2000,
    embedding_size=64,
    hidden_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=512,
)
VIT = partial(
    image_model,
    "ViTConfig/ViTForImageClassification",
    hidden_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=512,
    image_size=64,
    patch_size=8,
)
RESNET = partial(
    image_model, "ResNetConfig/ResNetForImageClassification", embedding_size=32, hidden_sizes=[64, 128], depths=[2, 2]
)
CONVNEXT = partial(
    image_model, "ConvNextConfig/ConvNextForImageClassification", hidden_sizes=[48, 96], depths=[2, 2], num_stages=2
)

BUILDERS: dict[str, Callable[[], Built]] = {
    "torch nn.Transformer": partial(transformer, 16),
    "torch nn.TransformerEncoder": partial(transformer_encoder, 24),
    "torch nn.GRU": partial(gru, 48),
    "torch nn.LSTM": partial(lstm, 48),
    "transformers GPT2": partial(GPT2, 16),
    "transformers BERT": partial(BERT, 16),
    "transformers DistilBERT": partial(DISTIL, 16),
    "transformers Llama": partial(LLAMA, 16),
    "transformers OPT": partial(OPT, 16),
    "transformers ELECTRA": partial(ELECTRA, 16),
    "transformers T5": partial(sequence_to_sequence, 16),
    "transformers ViT": partial(VIT, 24),
    "transformers ResNet": partial(RESNET, 16),
    "transformers ConvNeXt": partial(CONVNEXT, 16),
    "torch_geometric GCN": partial(graph_network, "GCN", 3000),
    "torch_geometric GAT": partial(graph_network, "GAT", 2000, heads=4),
    "torch_geometric GraphSAGE": partial(graph_network, "GraphSAGE", 3000),
    "torch_geometric GIN": partial(graph_network, "GIN", 3000),
    "x-transformers Decoder": partial(x_transformer, 16),
}
NO_SELF_LOOPS: dict[str, Callable[[], Built]] = {
    "torch_geometric GCN without self-loops": partial(graph_network, "GCN", 3000, add_self_loops=False),
    "torch_geometric GAT without self-loops": partial(graph_network, "GAT", 2000, heads=4, add_self_loops=False),
}
"""In place of the two of those names on the stand-in device: where self-loops are added depends on a mask, and it
computes none."""
LOOPS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "pykeen TransE sLCWA": ("TransE", "slcwa", 512, {"embedding_dim": 64}),
    "pykeen DistMult LCWA": ("DistMult", "lcwa", 256, {"embedding_dim": 64}),
    "pykeen ComplEx LCWA": ("ComplEx", "lcwa", 256, {"embedding_dim": 48}),
    "pykeen RotatE sLCWA": ("RotatE", "slcwa", 512, {"embedding_dim": 48}),
    "pykeen PairRE sLCWA": ("PairRE", "slcwa", 512, {"embedding_dim": 64}),
    "pykeen PairRE LCWA": ("PairRE", "lcwa", 64, {"embedding_dim": 32}),
    "pykeen TuckER LCWA": ("TuckER", "lcwa", 128, {"embedding_dim": 48}),
    "pykeen ConvE LCWA": ("ConvE", "lcwa", 128, {"embedding_dim": 64}),
}


def _builders(device: str) -> dict[str, Callable[[], Built]]:
    if device == "cpu":
        return BUILDERS
    instead = {name.removesuffix(" without self-loops"): (name, build) for name, build in NO_SELF_LOOPS.items()}
    return dict(instead.get(name, (name, build)) for name, build in BUILDERS.items())


def workloads(device: str = "cpu") -> dict[str, Callable[[], Step]]:
    """Return every workload by its name: model, optimizer, precision."""
    found: dict[str, Callable[[], Step]] = {}
    names = ("adam", "adamw-foreach", "adamw-fused", "sgd", "adagrad")
    for number, (model, build) in enumerate(_builders(device).items()):
        for offset, precision in ((0, "fp32"), (1, "bf16")):
            if precision == "bf16" and model == "torch nn.LSTM" and device == "cpu":
                continue  # oneDNN has no such kernel for most CPUs
            optimizer = names[(number + offset) % len(names)]
            found[f"{model}, {optimizer}, {precision}"] = partial(step_of, build, optimizer, precision, device)
    own = ("adam", "sgd", "adagrad", "adam-fused")  # PyKEEN makes an AdamW anew from its defaults, which fails
    for number, (name, (model, loop, batch, settings)) in enumerate(LOOPS.items()):
        for offset, precision in ((0, "fp32"),) if number % 2 else ((1, "bf16"),):
            optimizer = own[(number + offset) % len(own)]
            found[f"{name}, {optimizer}, {precision}"] = partial(
                pykeen_loop, model, loop, batch, optimizer, precision, **settings
            )
    return found
