"""The library behind the course *Understanding Modern LLM Architectures*: rooms by subject, in the order of the lessons.

What every room uses:

- `checks`: nonsense in an argument or a file is named where it is given
- `storage`: the cache folder, in which a file or folder is whole or is made anew
- `assets`: named models and texts, fetched from the package index, compared with their SHA-256, kept in the cache
- `devices`: device, number format, seeds
- `plots`: the visual language, and the figures that speak it

The rooms. Each may import those above it and none below; its `__init__` says in which order to read it, and is its door.

- `architecture`: attention, the Transformer, today's open models as settings of it, what a model costs (lessons 01 to 03)
- `tokenization`: byte-pair encoding, its training, tokenizer files, chat templates (03 to 05)
- `checkpoints`: real weights into a `TransformerLM` (03)
- `inference`: generation, and looking inside a model at work (01 to 03)
- `corpora`: where texts come from, filters, duplicates, token files (04)
- `tasks`: what models are taught, with answers to compare with (05 to 07)
- `pretraining`: optimisers, the training loop, scaling laws, parallelism, the course's own model (04)
- `finetuning`: from a model that continues to one that answers (05)
- `alignment`: from what is likely to what people prefer (06)
- `applications`: what people do with language models (07)
- `serve`: a server of a model for a room, over OpenAI's protocol (07)
- `life`: all stages of a model's life in one command (06)
- `exercises`: what a learner writes, and how it is checked (every lesson)
- `widgets`: live pictures of a running model (every lesson)

`python -m course_lib`, in `__main__`, prepares everything that needs a network.
"""
