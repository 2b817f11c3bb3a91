"""Certificates: torch's own optimizers follow their modified flows.

They do so one order better than the plain flow.
"""

from ireg.certify.cases import CERTIFICATES
from ireg.certify.certificate import Certificate, Curve, Outcome

__all__ = ["CERTIFICATES", "Certificate", "Curve", "Outcome"]
