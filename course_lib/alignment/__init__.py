"""From what is likely to what people prefer: lesson 06.

Read in this order:

- `ratings`: what people think of the words of a text
- `preferences`: which of two texts somebody prefers, in a file, and how far people agree
"""
