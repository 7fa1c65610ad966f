"""Exercise 05.2: the interval of the difference of two models on the same items."""

import torch
from torch import Tensor

from course_lib.exercises.registry import Exercise, Mistake

__all__ = ["WRITE_INTERVAL"]


def _scores_and_draws(generator: torch.Generator) -> list[tuple]:
    """Return ours and theirs (item,) and draws (draw, item): two of scores in nats, one of right and wrong.

    Hard items are hard for both. There are 40 k + 1 draws, so that both quantiles fall on one of the means, and every way to
    take a quantile agrees.
    """
    cases = []
    for n_items, n_draws, counts in ((7, 41, False), (23, 121, False), (12, 81, True)):
        item = torch.randn(n_items, generator=generator)
        ours, theirs = (item + 0.6 * torch.randn(n_items, generator=generator) for _ in range(2))
        ours = ours + 0.8
        if counts:
            ours, theirs = (ours > 0).float(), (theirs > 0).float()
            ours[:3], theirs[:3] = torch.tensor([1.0, 0, 1]), torch.tensor([0.0, 1, 1])  # all that can be is there
        cases.append((ours, theirs, torch.randint(n_items, (n_draws, n_items), generator=generator)))
    return cases


def _test_by_test(ours: Tensor, theirs: Tensor, draws: Tensor) -> Tensor:
    """Score both models on one drawn test after the other, sort the leads, and leave a fortieth out at either end."""
    leads = sorted(
        (sum(ours[i].item() for i in items) - sum(theirs[i].item() for i in items)) / len(items)
        for items in draws.tolist()
    )
    n_out = len(leads) // 40
    return torch.tensor([leads[n_out], leads[-1 - n_out]])


_SIGNATURE = '''\
def lead_interval(ours, theirs, draws):
    """The 95 % interval of how far `ours` is ahead of `theirs` in the mean: (2,), low end and high.

    ours and theirs (item,) are the scores of two models on the same items: item i of both is one
    and the same. draws (draw, item), int64, says how the bootstrap draws: each row is another test
    that might have been, as the numbers of its items, some of them twice and some not at all.
    2.5 % of what these tests give lie below the interval, and 2.5 % above it.
    """
'''
_GAINS, _MEANS, _ENDS = "ours - theirs", "gains[draws].mean(dim=1)", "means.quantile(torch.tensor([0.025, 0.975]))"


def _interval(gains: str = _GAINS, means: str = _MEANS, ends: str = _ENDS) -> str:
    """Return the cell of exercise 05.2 with its steps as given."""
    return f"""\
{_SIGNATURE}    gains = {gains}  # (item,)
    means = {means}
    return {ends}
"""


def _two_intervals(ends: str) -> str:
    """Return a cell that makes an interval for each of the models first."""
    return f"""\
{_SIGNATURE}    sides = torch.tensor([0.025, 0.975])
    own = ours[draws].mean(dim=1).quantile(sides)
    other = theirs[draws].mean(dim=1).quantile(sides)
    return {ends}
"""


WRITE_INTERVAL = Exercise(
    id="05.2",
    kind="write",
    title="The interval of a difference",
    section="A task",
    answer="lead_interval",
    results=("interval",),
    inputs=_scores_and_draws,
    expected=_test_by_test,
    stub=f"{_SIGNATURE}    ...\n",
    solution=_interval(),
    why="Another test would hold other items *for both models*. So an item is drawn with both of its scores: take the "
    "difference on each item first, and all that follows is the interval of a single list of numbers. An item that is hard for "
    "both makes both scores lower and leaves their difference as it is. Drawn for each model by itself, that luck would count "
    "twice, and the interval would be too wide: two models' own intervals may overlap where their difference is clear. In the "
    "library: `bootstrap_interval(ours - theirs)`.",
    hints=(
        "What does one row of `draws` give? It is a test: both models are scored on its items.",
        "What do you know of an item, if it was drawn? Two scores, and so one difference.",
        "A difference for each item, a mean for each row of draws, and of all these means two quantiles.",
    ),
    mistakes=(
        Mistake(
            _two_intervals("torch.stack([own[0] - other[1], own[1] - other[0]])"),
            "That sets the end of one model's interval against the opposite end of the other's, as if one could be lucky "
            "where the other is not: on the same items. Take the difference on each item, and make one interval.",
        ),
        Mistake(
            _two_intervals("own - other"),
            "Those are two intervals, and the differences of their ends. That is not how the difference varies: make it first, "
            "on each item, and then the interval.",
        ),
        Mistake(
            _two_intervals("own"),
            "That is the interval of our model's own score. How far it is ahead was asked for.",
        ),
        Mistake(
            _interval(means="ours[draws].mean(dim=1) - theirs[draws.flip(0)].mean(dim=1)"),
            "The two models are scored on different draws. They answered the same items: each draw counts for both.",
        ),
        Mistake(
            _interval(means="ours[draws].mean(dim=1) - theirs[draws.roll(1, dims=0)].mean(dim=1)"),
            "The second model is scored on the draw before. They answered the same items: each draw counts for both.",
        ),
        Mistake(
            _interval(means="(ours[draws].mean(dim=1)[:, None] - theirs[draws].mean(dim=1)).flatten()"),
            "Every draw of one model is set against every draw of the other, as if they had answered different items. Pair "
            "them: a draw counts for both.",
        ),
        Mistake(
            _interval(means="ours[draws].mean(dim=1).sort().values - theirs[draws].mean(dim=1).sort().values"),
            "The means were sorted before they were subtracted, so the models' luckiest draws stand side by side. Subtract "
            "first: a draw counts for both.",
        ),
        Mistake(
            _interval(means="torch.stack([gains[row.unique()].mean() for row in draws])"),
            "Each item counts once here, however often it was drawn. Drawing is with replacement: what was drawn twice counts "
            "twice.",
        ),
        Mistake(
            _interval(means="gains.expand(len(draws), -1).mean(dim=1)"),
            "The draws are not used: every test is the same one, and its mean does not vary.",
        ),
        Mistake(
            _interval(means="gains"),
            "Those are quantiles of single items. The lead on one item varies far more than the mean of a whole test: a mean "
            "for each draw comes first.",
        ),
        Mistake(
            _interval(means="gains[draws].flatten()"),
            "Those are quantiles of all items that were drawn, whatever test they are in. Each row of `draws` gives one mean.",
        ),
        Mistake(
            _interval(means="gains[draws].mean(dim=0)"),
            "The mean runs over the draws here, and leaves a number for each place in them. It should run over the items of "
            "each draw.",
        ),
        Mistake(
            _interval(means="gains[draws].sum(dim=1)"),
            "That is the sum of a test's items. The lead in the *mean* was asked for.",
        ),
        Mistake(
            _interval(means="gains[draws].median(dim=1).values"),
            "That is the median item of each draw. The lead in the *mean* was asked for.",
        ),
        Mistake(
            _interval(means="gains[draws].sum(dim=1) / (gains[draws] != 0).sum(dim=1)"),
            "Items on which both models score the same were left out of the count. They belong to the test, too.",
        ),
        Mistake(
            _interval(gains="theirs - ours"),
            "The sign is wrong: where ours is better, the interval should lie above 0.",
        ),
        Mistake(
            _interval(gains="(ours - theirs).abs()"),
            "The sign of each difference was dropped. Where theirs is better, the item counts against ours.",
        ),
        Mistake(
            _interval(ends="means.quantile(torch.tensor([0.05, 0.95]))"),
            "With 5 % left out at either end, that is the 90 % interval.",
        ),
        Mistake(
            _interval(ends="means.quantile(torch.tensor([0.0, 0.95]))"),
            "All of the 5 % is left out at the upper end. Half of it belongs to the lower one.",
        ),
        Mistake(
            _interval(ends="means.quantile(torch.tensor([0.25, 0.75]))"),
            "Between these two lies one half of the draws. The interval holds 95 % of them.",
        ),
        Mistake(
            _interval(ends="torch.stack([means.min(), means.max()])"),
            "Those are the lowest and the highest mean. They grow apart with every draw; leave 2.5 % out at either end.",
        ),
        Mistake(
            _interval(ends="means.quantile(torch.tensor([0.975, 0.025]))"),
            "The right ends, in the wrong order: the low one comes first.",
        ),
        Mistake(
            _interval(ends="means.quantile(torch.tensor([0.025, 0.975])) - gains.mean()"),
            "That is how far the interval reaches below and above the lead. Its ends themselves were asked for.",
        ),
        Mistake(
            _interval(ends="2 * gains.mean() - means.quantile(torch.tensor([0.975, 0.025]))"),
            "That is the interval reflected at the lead, which is called the basic bootstrap. Here its ends are quantiles of "
            "the means themselves.",
        ),
        Mistake(
            _interval(ends="means.mean() + means.std() * torch.tensor([-1.96, 1.96])"),
            "That is two standard deviations, more or less, to either side, as if the means were normally distributed. Take "
            "their quantiles: a skewed distribution has an interval that is skewed as well.",
        ),
        Mistake(
            _interval(ends="gains.mean() + gains.std() / len(gains) ** 0.5 * torch.tensor([-1.96, 1.96])"),
            "That is the formula with the standard error, without any draw. It is close for many items; here use the draws, "
            "and the quantiles of what they give.",
        ),
        Mistake(
            _interval(ends="gains.mean() + gains.std() * torch.tensor([-1.96, 1.96])"),
            "That says how far single items lie apart, and without any draw. The mean of a whole test varies much less.",
        ),
        Mistake(
            _interval(means="ours[draws].mean(dim=1) / theirs[draws].mean(dim=1) - 1"),
            "That is by what part of theirs ours is better. The difference was asked for.",
        ),
    ),
)
