"""Certificates: torch's own optimizers follow their modified flows, one order better than plain ones."""

from ireg.certify.cases import CERTIFICATES
from ireg.certify.certificate import Certificate, Curve, Outcome

__all__ = ["CERTIFICATES", "Certificate", "Curve", "Outcome"]
