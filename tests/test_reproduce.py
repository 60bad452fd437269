"""The experiments of the paper as commands: their files, their members, and small ones run to the end."""

import pytest

from pyro_lrp import config
from pyro_lrp.metrics import METRICS
from pyro_lrp.reports import experiments

ALL = [(name, scale) for name in experiments.names() for scale in experiments.SCALES]


@pytest.mark.parametrize(("name", "scale"), ALL)
def test_every_member_composes(name, scale):
    experiment = experiments.load(name, scale)
    assert set(experiment.metrics) <= METRICS.keys()
    assert len(experiment.show) <= 1
    for sweep in experiment.sweeps:  # ends of each sweep: all would take minutes
        members = experiments.members_of(sweep)
        for member in {members[0], members[-1]}:
            config.compose_train(*member)
    assert len(set(experiment.members)) == len(experiment.members)


def test_the_figures_and_tables_of_the_paper_are_there():
    expected = {f"figure_{number}" for number in range(1, 10)} | {"table_1", "table_2"}
    assert expected <= set(experiments.names())
