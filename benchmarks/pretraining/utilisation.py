"""What share of the machine's matrix products does training reach, for models of several sizes?

    python benchmarks/pretraining/utilisation.py

Each is trained by the Trainer on what lesson 04 trains on, Muon and AdamW, 1,024 tokens a step in float32, and has neither
tables nor an induction head. MFU counts the model's own operations (arXiv 2204.02311, appendix B) against the largest rate that
products of matrices reach on this machine, measured in the same run. Prints the table of benchmarks/README.md. Takes
a minute.
"""

import statistics
from dataclasses import replace

import torch

from course_lib.architecture import TransformerLM
from course_lib.architecture.accounting import step_flops
from course_lib.devices import matmul_peak
from course_lib.pretraining import Trainer, shakespeare_model

WIDTHS = 16, 32, 64, 128, 192, 384, 768
N_STEPS, WARM = 30, 5


def main() -> None:
    prepared, _ = shakespeare_model.trainer()
    peak = f"{matmul_peak(prepared.device, torch.float32) / 1e9:.0f} GFLOP/s"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; matrix products reach {peak}\n")
    print("| width | weights | GFLOP a step | ms a step | tokens/s | MFU |\n|---|---|---|---|---|---|")
    plain = replace(shakespeare_model.MODEL, context_length=128, ngram_rows=None, induction_head=False)
    recipe = replace(
        shakespeare_model.TRAINING,
        n_steps=N_STEPS,
        batch_size=8,
        dtype="float32",
        evaluate_every=None,
        checkpoint_every=None,
    )
    for width in WIDTHS:
        shape = replace(plain, d_model=width, d_ff=4 * width, n_heads=max(1, width // 32))
        model = TransformerLM(shape).to(prepared.device)
        reports = list(Trainer(model, prepared.train, None, recipe))[WARM:]
        speed = statistics.median(report.tokens_per_second for report in reports)
        milliseconds = 1000 * recipe.batch_size * shape.context_length / speed
        flops = step_flops(shape, recipe.batch_size, shape.context_length)
        print(
            f"| {width} | {sum(weight.numel() for weight in model.parameters()):,} | {flops / 1e9:.1f} "
            f"| {milliseconds:.0f} | {speed:,.0f} | {statistics.median(report.mfu for report in reports):.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
