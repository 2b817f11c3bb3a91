"""The certificates: every optimizer of conf/optimizer, on full batches and with minibatches."""

from ireg.certify.cases_mean_flow import MEAN_FLOW
from ireg.certify.cases_modified_loss import ALL_ORDERS, FULL_BATCH
from ireg.certify.certificate import Certificate

CERTIFICATES: tuple[Certificate, ...] = (*FULL_BATCH, *ALL_ORDERS, *MEAN_FLOW)
