"""The ranges of what concerns steps: their number, their rates, and weights' average and decay."""

from collections.abc import Iterator

from ireg.config.schema import AVERAGES, SCHEDULES, SMALLEST_SAMPLE, Config, Schedule, WeightAverage
from ireg.config.trainer_arguments import Check


def step_ranges(settings: Config) -> Iterator[Check]:
    """Check the values that concern steps."""
    yield from _window_ranges(settings)
    yield from _schedule_ranges(settings)
    average = settings.weight_average
    yield "weight_average.name", average.name, average.name in AVERAGES, f"choose one of {', '.join(AVERAGES)}"
    yield "weight_average.decay", average.decay, 0 < average.decay < 1, "must be above 0 and below 1, like 0.999"
    unused = average.name != "none" or average == WeightAverage()
    yield "weight_average.decay", average.decay, unused, "without an average there is nothing to set; use =ema"
    groups = settings.optimizer.get("decay_groups", False)
    yield "optimizer.decay_groups", groups, isinstance(groups, bool), "must be true or false"


def _window_ranges(settings: Config) -> Iterator[Check]:
    most, every = settings.max_steps, settings.terms.get("every_n_steps")
    what = "a row every so many steps needs their number; set max_steps, too, or leave it out for a row an epoch"
    yield "terms.every_n_steps", every, most is not None or every is None, what
    if most is None:
        return
    yield "max_steps", most, most >= 1, "must be an integer of at least 1, or null to train for epochs"
    least = 2 if settings.sampling == "independent" else 1
    least = least if settings.terms.get("num_batches") is None else SMALLEST_SAMPLE
    what = f"must be an integer of at least {least}, the steps from one row to the next, like 100"
    yield "terms.every_n_steps", every, type(every) is int and every >= least, what
    what = f"must be a multiple of terms.every_n_steps={every}, so that the last step has a row"
    yield "max_steps", most, every is not None and most % every == 0, what


def _schedule_ranges(settings: Config) -> Iterator[Check]:
    schedule = settings.schedule
    yield "schedule.name", schedule.name, schedule.name in SCHEDULES, f"choose one of {', '.join(SCHEDULES)}"
    what = f"must be an integer in [0, {settings.steps - 1}], below the number of steps of the run"
    yield "schedule.warmup", schedule.warmup, 0 <= schedule.warmup < settings.steps, what
    yield "schedule.final", schedule.final, 0 <= schedule.final <= 1, "must be a share of lr in [0, 1]"
    falls = schedule.name != "constant" or schedule.final == Schedule.final
    what = "a constant rate stays at lr; use schedule=cosine or schedule=linear"
    yield "schedule.final", schedule.final, falls, what
    sets_rates = str(settings.optimizer.get("_target_")).endswith(".Switch")
    what = "optimizer=switch sets its rates itself; use schedule=constant without warm-up, or another optimizer"
    yield "schedule.name", schedule.name, not sets_rates or schedule == Schedule(), what
