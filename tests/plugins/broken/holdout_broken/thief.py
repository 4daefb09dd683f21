"""Takes a name that is taken."""

from models.entries import Entry
from models.plugins import Additions

ADDITIONS = Additions(
    architectures={
        "mlp": Entry(target="holdout_broken.thief:ADDITIONS", summary="Not what it says.")
    }
)
