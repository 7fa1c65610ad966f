"""What people do with language models: lesson 07.

Read in this order:

- `retrieval`: passages for a question, by their words, by their meaning, and by both
- `answers`: an answer from passages, with the one that it rests on, or none where nothing fits
"""
