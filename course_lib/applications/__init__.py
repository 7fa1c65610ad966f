"""What people do with language models: lesson 07.

Read in this order:

- `automata`: a regular expression becomes a machine that reads bytes
- `constraints`: a machine that reads tokens, and leaves a model only those that keep its text valid
"""
