"""What people do with language models: lesson 07.

Read in this order:

- `chat`: a conversation: memory, branches, and replies that do not read it all again
- `patterns`: what a text must be, as a regular expression or a JSON schema
- `automata`: a pattern becomes a machine that reads bytes
- `constraints`: a machine that reads tokens, and leaves a model only those that keep its text valid
- `sandbox`: run a program that nobody has read, contained
- `programs`: programs that a model wrote, tried by their tests: completion, repair, pass@k
"""
