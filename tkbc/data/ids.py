"""The type of facts and ids, as every part of the trainer hands them on."""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
"""Facts as rows (head, relation, tail, time), or one column of them."""
