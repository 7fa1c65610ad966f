"""The Transformer and its parts: lessons 01 to 03.

Read in this order:

- `attention`: scaled dot products, heads, masks, positions (01, 02)
- `cache`: keys and values of the positions seen so far (02)
- `transformer`: norms, feed-forward networks, blocks and the models, all of one configuration (03)
- `open_models`: today's models as settings of it (03)
- `accounting`: what a model costs in weights, operations and bytes (03)
- `quantised`: matrices of four or eight bits a weight, for inference (08)
- `ngrams`: vectors for the last pairs and triples of tokens (04)
"""

from course_lib.architecture.transformer import EncoderDecoder, TransformerConfig, TransformerEncoder, TransformerLM

__all__ = ["EncoderDecoder", "TransformerConfig", "TransformerEncoder", "TransformerLM"]
