"""What several widgets share.

- `base`: how a widget is put together, and what it tells the browser of a token
- `live`: what the browser asks for, answered; a whole result or the one before it
- `numbers`: how they are written for a reader
- `settings`: widgets whose settings the kernel answers to
- `attention_maps`: the attention of all heads, sent and drawn
- `runs`: a training that is watched, paused and replayed
- `curves`: a training run as curves
- `runs`: a training run as it happens, paused and stopped between its steps
"""
