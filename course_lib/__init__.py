"""The library behind the course *Understanding Modern LLM Architectures*: one idea a file, in the order of the lessons."""
