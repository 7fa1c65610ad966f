"""What models are taught, with answers to compare with: made from real texts, or by a rule. Lessons 05 to 07.

- `instructions`: questions about lines of plays, and what is replied to them (05, 06)
- `questions`: which of two sentences is a question (05)
- `spelling`: the spelling of 1623 and that of today (05)
- `capitals`: facts that a model has before it is taught a task (05)
- `ratings`: what ten people think of each word of a text (06)
- `sums`: arithmetic, whose answers a rule can judge; problems in words (06, 07)
- `passages`: questions on the plays, and the lines that answer them (07)
- `programs`: functions to be written, with tests (07)
- `extraction`: short texts, and what stands in them as JSON (07)
- `choices`: questions with four answers, the right one the longest or the shortest (07)
"""
