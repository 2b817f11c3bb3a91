"""The certificates: every optimizer of conf/optimizer, on full batches and with minibatches."""

from ireg.certify.cases_mean_flow import MEAN_FLOW
from ireg.certify.cases_modified_loss import ALL_ORDERS, FULL_BATCH
from ireg.certify.certificate import Certificate
from ireg.known_optimizers import OPTIMIZERS

_ORDER = list(OPTIMIZERS)

CERTIFICATES: tuple[Certificate, ...] = tuple(
    sorted((*FULL_BATCH, *ALL_ORDERS, *MEAN_FLOW), key=lambda certificate: _ORDER.index(certificate.optimizer))
)
