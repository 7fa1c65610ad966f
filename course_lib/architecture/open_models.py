"""Open models as settings of one Transformer: their published shapes, for counting and comparing without their weights.

Each is the same shape as the `config.json` that was published with the weights describes.
"""

from course_lib.architecture.attention import RopeScaling
from course_lib.architecture.transformer import TransformerConfig

__all__ = ["OPEN_MODELS"]

OPEN_MODELS = {
    "GPT-2": TransformerConfig(  # Radford et al. 2019
        vocab_size=50_257, d_model=768, n_layers=12, n_heads=12, d_ff=3072, context_length=1024,
        positions="learned", norm="layernorm", feed_forward="gelu_tanh", bias=True,
    ),
    "Llama 3.1 8B": TransformerConfig(  # arXiv 2407.21783
        vocab_size=128_256, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_ff=14_336, context_length=131_072,
        rope_theta=500_000.0, rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192), tied_embeddings=False,
    ),
    "Mistral 7B": TransformerConfig(  # version 0.1, arXiv 2310.06825
        vocab_size=32_000, d_model=4096, n_layers=32, n_heads=32, n_kv_heads=8, d_ff=14_336, context_length=32_768,
        window=4096, tied_embeddings=False,
    ),
    "Qwen 3 8B": TransformerConfig(  # arXiv 2505.09388
        vocab_size=151_936, d_model=4096, n_layers=36, n_heads=32, n_kv_heads=8, d_head=128, d_ff=12_288,
        context_length=40_960, qk_norm="head", rope_theta=1_000_000.0, norm_eps=1e-6, tied_embeddings=False,
    ),
    "OLMo 2 7B": TransformerConfig(  # arXiv 2501.00656
        vocab_size=100_352, d_model=4096, n_layers=32, n_heads=32, d_ff=11_008, context_length=4096,
        qk_norm="projection", rope_theta=500_000.0, norm_eps=1e-6, norm_position="output", tied_embeddings=False,
    ),
    "Gemma 3 1B": TransformerConfig(  # arXiv 2503.19786
        vocab_size=262_144, d_model=1152, n_layers=26, n_heads=4, n_kv_heads=1, d_head=256, d_ff=6912,
        context_length=32_768, qk_norm="head", window=512, full_attention_every=6, rope_theta=1_000_000.0,
        window_rope_theta=10_000.0, norm_eps=1e-6, norm_position="sandwich", feed_forward="geglu", scaled_embeddings=True,
    ),
    "SmolLM2 135M": TransformerConfig(  # arXiv 2502.02737
        vocab_size=49_152, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_ff=1536, context_length=8192,
        rope_theta=100_000.0,
    ),
}  # fmt: skip
"""Name -> shape."""
