"""What people do with language models: lesson 07.

Read in this order:

- `steering`: a style as a direction in the residual stream, and a slider along it
- `watermark`: a text that shows to who has the key that a model wrote it
- `evaluation`: multiple choice, verifiers, a model as judge; and whether a difference is one
"""
