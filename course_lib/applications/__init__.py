"""What people do with language models: lesson 07.

Read in this order:

- `sandbox`: run a program that nobody has read, contained
- `programs`: programs that a model wrote, tried by their tests: completion, repair, pass@k
"""
