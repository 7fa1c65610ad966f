"""The whole life of a model, from a corpus to what people prefer: `python -m course_lib.life` (lesson 06).

Read in this order:

- `kind_replies`: the model of lesson 04 learns to reply, and then to reply as people like it
- `policy_paths`: how a policy replies before, during and after its training, and what becomes of one without a leash
- `stages`: the stages of a life, one after the other, each kept and gone on with
- `report`: the report card, what a life cost and what came of it
- `__main__`: the command line
"""
