"""What models are taught: questions with their answers, words with their ratings, made from real texts or by a rule.

- `ratings`: what people think of the words of a text (06)
- `sums`: arithmetic, whose answers a rule can judge (06)
"""
