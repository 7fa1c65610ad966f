"""What people do with language models: lesson 07.

Read in this order:

- `writers`: who writes a chat's replies: a model in memory, which keeps what it has read
- `chat`: a conversation: memory, branches, and replies that do not read it all again
- `endpoint`: another writer, for the same conversation with a larger model, behind an address
- `constraints`: from a regular expression or a JSON schema to a mask that leaves a model only what keeps its text valid
- `sandbox`: run a program that nobody has read, contained
- `programs`: programs that a model wrote, tried by their tests: completion, repair, pass@k
- `steering`: a style as a direction in the residual stream, and a slider along it
- `watermark`: a text that shows to who has the key that a model wrote it
- `evaluation`: multiple choice, verifiers, a model as judge; and whether a difference is one
- `retrieval`: passages for a question, by their words, by their meaning, and by both
- `answers`: an answer from passages, with the one that it rests on, or none where nothing fits
- `tools`: functions that a model calls, a calculator and a search, in a loop with a limit
"""
