"""The one table of what a model type is made of, as transformers names its modules."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

LAYOUTS = ("separate", "stacked", "interleaved")


@dataclass(frozen=True)
class AttentionPaths:
    """Where the attention of each layer is.

    Attributes:
        layer: Path of a layer in the model, {} being the number of the layer, such as "encoder.layer.{}".
        attends: Path, in the layer, of the module that attends, such as "attention.self".
        output: Path, in the layer, of the linear layer that projects the contexts of the heads.
    """

    layer: str
    attends: str
    output: str


@dataclass(frozen=True)
class Architecture:
    """What a model type is made of. Names and paths are those in the base model, without the prefix of a task model.

    Attributes:
        encoder: Self-attention of an encoder, or of a decoder that stands alone.
        decoder: Self-attention of a decoder beside an encoder.
        cross: Attention of that decoder to the encoder.
        attention: How the names, within a layer, of the parameters of its attention begin, its norms included.
        embeddings: How the names of the parameters that embed begin.
        projections: How the weights of the heads lie in the linear layers that attend, so that heads can be removed:
            "separate" (layers for queries, keys and values; several heads may share a key), "stacked" (one layer with
            all queries, then all keys, then all values) or "interleaved" (one layer with query, key and value of each
            head side by side). Empty where heads can only be masked.
        obstacle: Why, if heads can only be masked.
        head_size: Attribute of the module that attends which holds the width of a head; found if it has a usual name.
        calls: From the configuration, the number of the module that attends in each layer, where layers share modules.
        inputs: Path of the module whose output enters the first layer as it is, so that a model can be stitched; of
            several, the last that the model has. Empty where layers need more of each other than their states.
        first_token_heads: Classes of heads that read the first token alone, in models built as BERT is.
    """

    encoder: AttentionPaths
    decoder: AttentionPaths | None = None
    cross: AttentionPaths | None = None
    attention: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    projections: str = ""
    obstacle: str = "it was registered without `projections`"
    head_size: str = ""
    calls: Callable[[PreTrainedConfig], Sequence[int]] | None = None
    inputs: tuple[str, ...] = ()
    first_token_heads: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, AttentionPaths]:
        """The kinds of attention that models of this type can have."""
        parts = {"encoder": self.encoder, "decoder": self.decoder, "cross": self.cross}
        return {part: paths for part, paths in parts.items() if paths is not None}


def _calls_of_albert(config: PreTrainedConfig) -> list[int]:
    if config.inner_group_num != 1:
        raise ValueError(
            f"model: expected an ALBERT with one layer in each group, got inner_group_num={config.inner_group_num}; "
            "no published ALBERT has more, and its heads are not known"
        )
    share = config.num_hidden_layers / config.num_hidden_groups
    return [int(layer / share) for layer in range(config.num_hidden_layers)]


_BERT = Architecture(
    encoder=AttentionPaths("encoder.layer.{}", "attention.self", "attention.output.dense"),
    attention=("attention", "crossattention"),
    embeddings=("embeddings",),
    projections="separate",
    inputs=("embeddings",),
)
_T5 = Architecture(
    encoder=AttentionPaths("encoder.block.{}", "layer.0.SelfAttention", "layer.0.SelfAttention.o"),
    decoder=AttentionPaths("decoder.block.{}", "layer.0.SelfAttention", "layer.0.SelfAttention.o"),
    cross=AttentionPaths("decoder.block.{}", "layer.1.EncDecAttention", "layer.1.EncDecAttention.o"),
    attention=("layer.0", "layer.1.EncDecAttention"),
    embeddings=("shared", "encoder.embed_tokens", "decoder.embed_tokens"),
    obstacle="its layers share one position bias, which has a value for every head",
)
_MBART = Architecture(
    encoder=AttentionPaths("encoder.layers.{}", "self_attn", "self_attn.out_proj"),
    decoder=AttentionPaths("decoder.layers.{}", "self_attn", "self_attn.out_proj"),
    cross=AttentionPaths("decoder.layers.{}", "encoder_attn", "encoder_attn.out_proj"),
    attention=("self_attn", "encoder_attn"),
    embeddings=("shared", "encoder.embed", "decoder.embed", "encoder.layernorm_emb", "decoder.layernorm_emb"),
    projections="separate",
)
_LLAMA = Architecture(
    encoder=AttentionPaths("layers.{}", "self_attn", "self_attn.o_proj"),
    attention=("self_attn", "input_layernorm"),
    embeddings=("embed_tokens",),
    projections="separate",
    inputs=("embed_tokens",),
)
_GEMMA2 = replace(_LLAMA, attention=("self_attn", "input_layernorm", "post_attention_layernorm"))

TABLE: dict[str, Architecture] = {
    "albert": Architecture(
        encoder=AttentionPaths(
            "encoder.albert_layer_groups.{}", "albert_layers.0.attention", "albert_layers.0.attention.dense"
        ),
        attention=("albert_layers.0.attention",),
        embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"),
        obstacle="its layers share their weights, so that none can lose a head that another keeps",
        calls=_calls_of_albert,
    ),
    "apertus": replace(_LLAMA, attention=("self_attn", "attention_layernorm")),
    "bert": replace(_BERT, first_token_heads=("BertPooler",)),
    "bloom": Architecture(
        encoder=AttentionPaths("h.{}", "self_attention", "self_attention.dense"),
        attention=("self_attention", "input_layernorm"),
        embeddings=("word_embeddings",),
        obstacle="its layers share one position bias (ALiBi), which has a slope for every head",
    ),
    "camembert": replace(_BERT, first_token_heads=("CamembertClassificationHead",)),
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "deberta-v2": replace(_BERT, embeddings=("embeddings", "encoder.rel_embeddings"), inputs=()),
    "distilbert": Architecture(
        encoder=AttentionPaths("transformer.layer.{}", "attention", "attention.out_lin"),
        attention=("attention", "sa_layer_norm"),
        embeddings=("embeddings",),
        projections="separate",
        inputs=("embeddings",),
    ),
    "electra": replace(
        _BERT, inputs=("embeddings", "embeddings_project"), first_token_heads=("ElectraClassificationHead",)
    ),
    "eurobert": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": Architecture(
        encoder=AttentionPaths("h.{}", "attn", "attn.c_proj"),
        attention=("attn", "ln_1", "crossattention"),
        embeddings=("wte", "wpe"),
        projections="stacked",
    ),
    "gpt_neox": Architecture(
        encoder=AttentionPaths("layers.{}", "attention", "attention.dense"),
        attention=("attention", "input_layernorm"),
        embeddings=("embed_in",),
        projections="interleaved",
        inputs=("embed_in",),
    ),
    "llama": _LLAMA,
    "m2m_100": _MBART,
    "mbart": _MBART,
    "mistral": _LLAMA,
    "modernbert": Architecture(
        encoder=AttentionPaths("layers.{}", "attn", "attn.Wo"),
        attention=("attn",),
        embeddings=("embeddings",),
        projections="stacked",
        inputs=("embeddings",),
    ),
    "mpnet": Architecture(
        encoder=AttentionPaths("encoder.layer.{}", "attention.attn", "attention.attn.o"),
        attention=("attention",),
        embeddings=("embeddings", "encoder.relative_attention_bias"),
        obstacle="its layers share one position bias, which has a value for every head",
        inputs=("embeddings",),
    ),
    "mt5": _T5,
    "olmo2": replace(
        _LLAMA,
        attention=("self_attn", "post_attention_layernorm"),
        projections="",
        obstacle="it normalises the queries of all heads together, so that each depends on the others",
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "rembert": replace(_BERT, embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"), inputs=()),
    "roberta": replace(_BERT, first_token_heads=("RobertaClassificationHead",)),
    "smollm3": _LLAMA,
    "t5": _T5,
    "xglm": Architecture(
        encoder=AttentionPaths("layers.{}", "self_attn", "self_attn.out_proj"),
        attention=("self_attn",),
        embeddings=("embed_tokens", "embed_positions"),
        projections="separate",
    ),
    "xlm-roberta": replace(_BERT, first_token_heads=("XLMRobertaClassificationHead",)),
    "xlm-roberta-xl": _BERT,
    "xmod": replace(_BERT, inputs=()),  # whose forward pass asks its first layer for the languages
}
