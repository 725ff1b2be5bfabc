"""TensorBoard's event files, for people whose curves live there. Needs tensorboardX: the extra `tensorboard`."""

from pathlib import Path

from harness.figures.shown import Shown


def write_events(run: Shown, directory: Path) -> None:
    """One event file in `directory`/CODE-ID: against the tokens sent, bits per byte so far and lately, and cumulative bits."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(directory / f"{run.record['code']['name']}-{run.id[:8]}"))
    try:
        for name, (positions, values) in {
            "bits_per_byte/so_far": run.curve.per_byte(),
            "bits_per_byte/lately": run.curve.per_byte_lately(),
            "cumulative_bits": (run.curve.positions, run.curve.bits),
        }.items():
            for position, value in zip(positions.tolist(), values.tolist(), strict=True):
                writer.add_scalar(name, value, position)
    finally:
        writer.close()
