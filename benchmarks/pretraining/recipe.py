"""Our side: a model of one layer that looks pairs and triples of characters up, and Muon, all from course_lib."""

from course_lib.architecture import TransformerConfig, TransformerLM
from course_lib.corpora import TokenShards
from course_lib.devices import seed_everything
from course_lib.pretraining import PretrainingConfig, Trainer

N_STEPS = 200
N_ROWS = 4096  # for the pairs, and as many for the triples


def model_config(vocab_size: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=64,
        n_layers=1,
        n_heads=2,
        d_ff=128,
        context_length=64,
        qk_norm="head",
        feed_forward="relu2",
        ngram_rows=N_ROWS,
    )


def training_config(seed: int) -> PretrainingConfig:
    return PretrainingConfig(
        n_steps=N_STEPS,
        batch_size=24,
        learning_rate=0.01,
        muon_learning_rate=0.02,
        weight_decay=0.0,  # less than a third of the text is read, and that once: nothing is learned by heart
        decay=0.5,
        clip=None,
        seed=seed,
    )


def train(text: TokenShards, seed: int) -> tuple[TransformerLM, float]:
    """Train on `text`; return the model and the seconds that the steps took."""
    seed_everything(seed)
    model = TransformerLM(model_config(text.vocab_size))
    trainer = Trainer(model, text, None, training_config(seed))
    for _ in trainer:
        pass
    return model, trainer.history[-1].seconds
