"""Training-data attribution: TracIn, exact over all parameters, in the whole model and through subnetworks."""

from xsub_utils.tracin.capture import example_loss
from xsub_utils.tracin.groups import parameter_group
from xsub_utils.tracin.scores import Influence, influence
from xsub_utils.tracin.shares import top_examples, top_shares

__all__ = ["Influence", "example_loss", "influence", "parameter_group", "top_examples", "top_shares"]
